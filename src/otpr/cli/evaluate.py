"""`otpr evaluate`: policies on the same held-out initial conditions."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from otpr.cli.finetune import FILMED, check_fits
from otpr.diffusion.sampling import Sampler
from otpr.envs import ChunkedVectorEnv, task_spec
from otpr.errors import check_at_least
from otpr.policies.generators import Diffusion
from otpr.policies.policy import Policy, load_policy, policy_task
from otpr.storage import write_json
from otpr.training.evaluate import Evaluation, evaluate
from otpr.training.progress import Progress
from otpr.training.video import record


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Compare policies on the same held-out initial conditions; film them where rendering works."""

    # folders of policies or of run directories, each evaluated
    policies: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POLICY")] = (
        Path("runs/pretrain"),
        Path("runs/finetune"),
    )
    # task to evaluate on; where left out, the first policy's
    task: str | None = None
    # steps after which an episode is truncated; left out, the task's own limit
    episode_limit: int | None = None
    # episodes a policy
    episodes: int = 100
    # episodes run side by side
    num_envs: int = 8
    # actions of each plan that are executed before the next; left out, as each policy says
    execute: int | None = None
    # how plans are sampled; left out, as each policy says
    sampler: Sampler | None = None
    # noise levels the sampler visits; left out, all of them if --sampler is given, else as each policy says
    sampler_steps: int | None = None
    # a JSON file for the numbers
    out: Path | None = None
    # an MP4 file: the first two episodes; with several policies, one file for each, numbered
    video: Path | None = None

    def run(self) -> None:
        """Evaluate, print a line a policy, write what was asked for."""
        self.results()

    def results(self) -> list[dict[str, Any]]:
        """As `run`, and returns the numbers.

        Returns:
            a dict a policy; two for a policy with a chooser: as deployed, then one sample.
        """
        check_at_least(1, self, "episodes", "num_envs")
        task = self.task or policy_task(self.policies[0])
        limit = task_spec(task, self.episode_limit).required_limit()
        results = []
        loaded = [(path, self._told(load_policy(path))) for path in self.policies]
        for path, policy in loaded:
            check_fits(policy, path, task, self.episode_limit)
        with contextlib.ExitStack() as stack:
            envs: dict[int, ChunkedVectorEnv] = {}  # starting simulators takes seconds
            for path, policy in loaded:
                n = policy.spec.execute
                if n not in envs:
                    env = ChunkedVectorEnv(
                        task, self.num_envs, n, processes=True, episode_limit=self.episode_limit
                    )
                    envs[n] = stack.enter_context(env)
                kinds = [("one sample", policy.single())]
                if policy.chooser is not None:
                    kinds.insert(0, (f"chosen of {policy.candidates}", policy))
                for kind, variant in kinds:
                    with Progress(
                        self.episodes, f"evaluating {path}", "episodes", closing_line=False
                    ) as progress:
                        outcome = evaluate(variant, envs[n], self.episodes, on_wave=progress.advance)
                    print(f"{path}, {kind}: {outcome}")
                    about = {"policy": str(path), "kind": kind, "task": task, "episode_limit": limit}
                    results.append({**about, **_sampling(variant), **_numbers(outcome)})
        if self.video is not None:
            for number, (_, policy) in enumerate(loaded, start=1):
                several = len(loaded) > 1
                film = self.video.with_stem(f"{self.video.stem}-{number}") if several else self.video
                print(
                    record(
                        task,
                        policy.act,
                        FILMED,
                        film,
                        history=policy.spec.history,
                        episode_limit=self.episode_limit,
                    )
                )
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out, results)
        return results

    def _told(self, policy: Policy) -> Policy:
        """The policy, acting as the options say."""
        if self.execute is not None:
            policy = policy.executing(self.execute)
        if self.sampler is None and self.sampler_steps is None:
            return policy
        return policy.with_sampler(self.sampler or policy.diffusion.sampler, self.sampler_steps)


def _numbers(outcome: Evaluation) -> dict[str, Any]:
    return {
        "execute": outcome.execute,
        "success_rate": outcome.success_rate,
        "interval_95": list(outcome.interval),
        "episodes": outcome.episodes,
        "mean_length": outcome.mean_length,
        **outcome.metrics,
    }


def _sampling(policy: Policy) -> dict[str, Any]:
    """How a policy samples; nothing of one that is no diffusion policy."""
    diffusion = policy.generator
    if not isinstance(diffusion, Diffusion):
        return {"sampler": None, "sampler_steps": None}
    return {
        "sampler": diffusion.sampler,
        "sampler_steps": diffusion.sampler_steps or diffusion.schedule.steps,
    }
