"""`otpr evaluate`: policies on the same held-out initial conditions."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from otpr.agents.otpr.compatibility import Rule
from otpr.cli.asked import TIMEOUT, answering, open_offer
from otpr.cli.finetune import FILMED, check_fits, policy_setup
from otpr.diffusion.sampling import Sampler
from otpr.envs import ChunkedVectorEnv, Setup, check_filming, task_spec
from otpr.envs.shifts import parse_all
from otpr.errors import OtprError, check_at_least
from otpr.policies.denoising import Diffusion
from otpr.policies.loading import load_policy, policy_task
from otpr.policies.policy import Policy
from otpr.storage import check_writable, write_json, writing
from otpr.training.evaluate import Evaluation, evaluate
from otpr.training.intervals import retention
from otpr.training.progress import Progress
from otpr.training.rollout import Delay
from otpr.training.video import record
from otpr.training.workers import Lockstep, Workers


class _Loaded(NamedTuple):
    """A policy to evaluate."""

    path: Path
    policy: Policy
    own_task: str  # the task it was trained on
    setup: Setup  # the task it acts in
    limit: int  # steps of an episode there


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Evaluate policies on held-out initial conditions, the same for all of a task; film them if wanted."""

    # folders of policies or of run directories, each evaluated
    policies: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY")] = (
        Path("runs/pretrain"),
        Path("runs/finetune"),
    )
    # task to evaluate all of them on; left out, each is evaluated on its own
    task: str | None = None
    # steps after which an episode is truncated; left out, the task's own limit
    episode_limit: int | None = None
    # what is different from the task, NAME:LEVEL, or random; all at once, beside the task as it is;
    # docs/shifts.md
    shift: tuple[str, ...] = ()
    # episodes a policy
    episodes: int = 100
    # episodes run side by side
    num_envs: int = 8
    # where a policy only chooses among the plans of another one: where that answers, ws://HOST:PORT or
    # module:factory
    base: str | None = None
    # actions of each plan that are executed before the next; left out, as each policy says
    execute: int | None = None
    # actions that a robot executes while a decision is made: it goes on with the plan before
    latency: int = 0
    # with --latency: it stands still meanwhile instead, with actions of 0
    wait: bool = False
    # how plans are sampled; left out, as each policy says
    sampler: Sampler | None = None
    # noise levels the sampler visits; left out, all of them if --sampler is given, else as each policy says
    sampler_steps: int | None = None
    # how a policy that chooses among several plans picks one, by H (otpr) or by Q (dql, idql, qc; not draw);
    # left out, as each policy says
    rule: Rule | None = None
    # a JSON file for the numbers
    out: Path | None = None
    # an MP4 file: the first two episodes; with several policies, one file for each, numbered
    video: Path | None = None

    def run(self) -> None:
        """Evaluate, print a line for each policy, and write the requested files."""
        self.results()

    def results(self) -> list[dict[str, Any]]:
        """Like `run`, but also returns the numbers.

        Returns:
            One dict for each policy; two for a policy with a chooser: as deployed, then one sample.
        """
        check_at_least(1, self, "episodes", "num_envs")
        check_at_least(0, self, "latency")
        if self.wait and not self.latency:
            raise OtprError("--wait says what a robot does in the time that --latency gives. Give both.")
        for path, option in ((self.out, "--out"), (self.video, "--video")):
            if path is not None:
                check_writable(path, option)
        loaded = [self._loaded(path) for path in self.policies]
        if self.rule is not None and all(one.policy.chooser is None for one in loaded):
            raise OtprError(f"--rule {self.rule}: none of the policies chooses among several plans.")
        if self.video is not None:
            for setup in {one.setup for one in loaded}:
                check_filming(setup)
        results: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            # starting simulators takes seconds
            found: dict[tuple[Setup, int, int], Workers] = {}

            def workers_of(one: _Loaded, setup: Setup) -> Workers:
                at_once = one.policy.spec.execute + (self.latency if self.wait else 0)
                history = one.policy.spec.history
                kind = setup, at_once, history
                if kind not in found:
                    env = ChunkedVectorEnv(setup, self.num_envs, at_once, processes=True, history=history)
                    found[kind] = stack.enter_context(Lockstep(env))
                return found[kind]

            for one in loaded:
                usual = dataclasses.replace(one.setup, shifts=())
                nominal = workers_of(one, usual) if one.setup.shifts else None
                results += self._evaluated(one, workers_of(one, one.setup), nominal)
        if self.out is not None:  # before the videos, which may fail
            with writing(self.out):
                self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out, results)
        if self.video is not None:
            for number, one in enumerate(loaded, start=1):
                several = len(loaded) > 1
                film = self.video.with_stem(f"{self.video.stem}-{number}") if several else self.video
                print(record(one.setup, one.policy.act, FILMED, film, history=one.policy.spec.history))
        return results

    def _loaded(self, path: Path) -> _Loaded:
        """A policy and its task, checked against each other."""
        policy, own = load_policy(path), policy_task(path)
        if policy.asks and self.base is not None:
            policy = answering(policy, open_offer(self.base, TIMEOUT))
        policy = self._told(policy)
        setup = policy_setup(path, self.task, self.episode_limit)
        setup = dataclasses.replace(setup, shifts=parse_all(self.shift))
        limit = task_spec(setup).required_limit()
        check_fits(policy, path, setup)
        return _Loaded(path, policy, own, setup, limit)

    def _evaluated(self, one: _Loaded, workers: Workers, nominal: Workers | None) -> list[dict[str, Any]]:
        """Evaluate a policy and print the results, with those of the unshifted task."""
        kinds = [("one sample", one.policy.single())]
        if one.policy.chooser is not None:
            kinds.insert(0, (f"chosen of {one.policy.candidates}", one.policy))
        results: list[dict[str, Any]] = []
        for kind, variant in kinds:
            outcome = self._outcome(one, variant, workers)
            task = one.setup.task
            trained = "" if task == one.own_task else f" (trained on {one.own_task})"
            shifts = [str(shift) for shift in one.setup.shifts]
            where = f"{task} with {', '.join(shifts)}" if shifts else task
            print(f"{one.path}{trained} on {where}, {kind}: {outcome}")
            compared: dict[str, Any] = {}
            if nominal is not None:
                usual = self._outcome(one, variant, nominal)
                left = retention(outcome.outcomes, usual.outcomes)
                kept = "nothing to keep" if left is None else f"kept {left[0]:.0%}"
                if left is not None:
                    kept += f" (95%: {left[1].low:.0%} to {left[1].high:.0%})"
                print(f"{one.path}{trained} on {task}, {kind}: {usual}; {kept}")
                compared = {
                    "nominal_success_rate": usual.success_rate,
                    "nominal_interval_95": list(usual.interval),
                    "retention": None if left is None else left[0],
                    "retention_interval_95": None if left is None else list(left[1]),
                }
            about = {
                "policy": str(one.path),
                "policy_task": one.own_task,
                "kind": kind,
                "task": task,
                "episode_limit": one.limit,
                "shifts": shifts,
                **({"latency": self.latency, "wait": self.wait} if self.latency else {}),
            }
            results.append({**about, **_drawing(variant), **_numbers(outcome), **compared})
        return results

    def _outcome(self, one: _Loaded, variant: Policy, workers: Workers) -> Evaluation:
        with Progress(self.episodes, f"evaluating {one.path}", "episodes", closing_line=False) as progress:
            return evaluate(variant, workers, self.episodes, on_wave=progress.advance, delay=self._delay)

    @property
    def _delay(self) -> Delay | None:
        return Delay(self.latency, self.wait) if self.latency else None

    def _told(self, policy: Policy) -> Policy:
        """The policy with the options applied."""
        if self.execute is not None:
            policy = policy.executing(self.execute)
        spec = policy.spec
        if not self.wait and self.latency > spec.spare:
            raise OtprError(
                f"--latency {self.latency}: plans have {spec.horizon} actions, of which {spec.execute} are "
                f"executed and {spec.spare} are left to go on with. Give a smaller --execute, or --wait."
            )
        if self.rule is not None and policy.chooser is not None:
            policy = policy.choosing(policy.chooser.by(self.rule), policy.candidates)
        if self.sampler is None and self.sampler_steps is None:
            return policy
        return policy.with_sampler(self.sampler or policy.diffusion.sampler, self.sampler_steps)


def _numbers(outcome: Evaluation) -> dict[str, Any]:
    return {
        "execute": outcome.execute,
        "success_rate": outcome.success_rate,
        "interval_95": list(outcome.interval),
        "episodes": outcome.episodes,
        "mean_return": outcome.mean_return,
        "mean_length": outcome.mean_length,
        **outcome.metrics,
    }


def _drawing(policy: Policy) -> dict[str, Any]:
    """The rule of choosing and the sampler; None for what a policy does not have."""
    rule = {"rule": None if policy.chooser is None else policy.chooser.about().get("rule")}
    diffusion = policy.generator
    if not isinstance(diffusion, Diffusion):
        return {**rule, "sampler": None, "sampler_steps": None}
    return {
        **rule,
        "sampler": diffusion.sampler,
        "sampler_steps": diffusion.sampler_steps or diffusion.schedule.steps,
    }
