"""What the command line does, a frozen dataclass a command: its fields are the options, `run` is the work."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from otpr.agents import agent_config
from otpr.agents.parts.agent import AgentConfig
from otpr.data.collect import collect
from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.data.minari_io import check_free, write_dataset
from otpr.data.seeds import evaluation_seed
from otpr.diffusion.sampling import Method
from otpr.envs import ChunkedVectorEnv, task_spec
from otpr.errors import OtprError, check_at_least
from otpr.generators import Diffusion
from otpr.policy import Policy, load_policy, policy_task
from otpr.report.curve import learning_curve
from otpr.report.video import record
from otpr.storage import write_json
from otpr.training.evaluate import Evaluation, evaluate
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.pretrain import PretrainConfig, pretrain
from otpr.training.progress import Progress
from otpr.training.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class Collect:
    """Run an expert and keep its successes as a Minari data set."""

    # task id, e.g. metaworld/peg-insert-side-v3 (`otpr info` lists them), gym/ID or module:factory
    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    # folder of the data set
    out: Path = Path("runs/demonstrations")
    # successful episodes to keep
    episodes: int = 10
    # standard deviation of the Gaussian noise on the expert's actions, which lie in [-1, 1]
    noise: float = 0.7
    # seed of initial conditions and noise
    seed: int = 0
    # module:Class of an expert of your own, with act(observation); left out, the task's scripted one
    expert: str | None = None
    # replace the data set that is there
    overwrite: bool = False

    def run(self) -> None:
        """Collect and write; nothing is written before all episodes are there."""
        check_at_least(1, self, "episodes")
        check_at_least(0, self, "noise")
        check_seed(self.seed)
        task_spec(self.task)
        check_free(self.out, self.overwrite)  # before the work, not after it
        attempts = 0
        with Progress(self.episodes, f"demonstrations of {self.task}", "episodes") as progress:

            def show(kept: int, attempted: int) -> None:
                nonlocal attempts
                attempts = attempted
                progress.advance(kept - progress.done, attempts=attempted)

            episodes = collect(
                self.task,
                episodes=self.episodes,
                noise=self.noise,
                seed=self.seed,
                user_expert=self.expert,
                on_episode=show,
            )
        write_dataset(
            episodes,
            self.out,
            task_id=self.task,
            expert=self.expert or "scripted expert",
            noise=self.noise,
            seed=self.seed,
            overwrite=self.overwrite,
        )
        steps = sum(len(episode) for episode in episodes)
        success = f"expert success {len(episodes)} of {attempts}"
        print(f"{len(episodes)} demonstrations, {steps:,} steps, {success}: {self.out}")


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Learn a diffusion policy over action chunks by imitation of a data set."""

    # the demonstrations
    demonstrations: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataConfig
    )
    # where everything about this run goes
    run_dir: Path = Path("runs/pretrain")
    # the policy and its training
    config: Annotated[PretrainConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=PretrainConfig
    )
    # task the data belongs to; needed only for a data set that otpr did not write
    task: str | None = None
    # seed of the network and the batches
    seed: int = 0
    # go on with the run in the directory
    resume: bool = False
    # delete the run in the directory first
    overwrite: bool = False

    def run(self) -> None:
        """Train and save the policy."""
        check_seed(self.seed)
        sets, task = self.demonstrations.read(self.task)
        config = {
            **self.demonstrations.record(sets),
            "task": task,
            "seed": self.seed,
            **dataclasses.asdict(self.config),
        }
        with RunDirectory.open(
            self.run_dir, command="pretrain", config=config, resume=self.resume, overwrite=self.overwrite
        ) as run:
            pretrain(
                sets,
                self.config,
                run,
                task=task,
                seed=self.seed,
                resume=self.resume,
                weights=self.demonstrations.weights,
            )
        print(f"Policy: {self.run_dir / 'policy'}")


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Improve a policy by interaction, with OTPR or one of its peers."""

    # folder of the pre-trained policy: a policy, or the run directory of `otpr pretrain`
    policy: Path = Path("runs/pretrain")
    # the demonstrations
    demonstrations: Annotated[DataConfig, tyro.conf.arg(name="")] = dataclasses.field(
        default_factory=DataConfig
    )
    # where everything about this run goes
    run_dir: Path = Path("runs/finetune")
    # the loop of interaction and learning
    config: Annotated[LoopConfig, tyro.conf.arg(name="")] = dataclasses.field(default_factory=LoopConfig)
    # otpr, or a peer: see docs/algorithms
    algorithm: str = "otpr"
    # settings of the algorithm by name; OTPR has default, paper and release, see docs/fidelity.md
    preset: str = "default"
    # fields of the preset to change, as field=value, e.g. --set epsilon=0.1 candidates=32
    set: tuple[str, ...] = ()
    # do not film two episodes before and after
    no_video: bool = False
    # task to interact with; where left out, the policy's
    task: str | None = None
    # every random number of the run derives from it
    seed: int = 0
    # go on with the run in the directory, exactly
    resume: bool = False
    # delete the run in the directory first
    overwrite: bool = False

    def run(self) -> None:
        """Fine-tune, evaluate, save the policy and draw the learning curve."""
        check_seed(self.seed)
        agent = agent_config(self.algorithm, self.preset, self.set)
        base = load_policy(self.policy)
        sets, task = self.demonstrations.read(self.task or policy_task(self.policy))
        _check_fits(sets[0][0], base, str(self.policy), self.demonstrations.data[0])
        config = {
            "policy": str(self.policy),
            **self.demonstrations.record(sets),
            "task": task,
            "algorithm": self.algorithm,
            "preset": self.preset,
            "seed": self.seed,
            "agent": dataclasses.asdict(agent),
            "loop": dataclasses.asdict(self.config),
        }
        with RunDirectory.open(
            self.run_dir, command="finetune", config=config, resume=self.resume, overwrite=self.overwrite
        ) as run:
            fine_tune(
                run,
                base,
                sets,
                weights=self.demonstrations.weights,
                task=task,
                preset=self.preset,
                seed=self.seed,
                agent=agent,
                loop=self.config,
                resume=self.resume,
                video=not self.no_video,
            )


def fine_tune(
    run: RunDirectory,
    base: Policy,
    sets: list[list[Episode]],
    *,
    weights: tuple[float, ...] = (),
    task: str,
    preset: str,
    seed: int,
    agent: AgentConfig,
    loop: LoopConfig,
    resume: bool,
    video: bool,
) -> dict[str, Any]:
    """Fine-tune in an open run directory, draw the learning curve, film if wanted and return the summary."""
    with ChunkedVectorEnv(
        task, loop.num_envs, agent.chunk_length(base), processes=True, timeout=loop.env_timeout
    ) as env:
        job = FineTuning(
            base,
            sets,
            weights=weights,
            task=task,
            preset=preset,
            seed=seed,
            agent=agent,
            loop=loop,
            run=run,
            env=env,
        )
        if resume:
            job.restore()
        summary = job.run_to_end()
    curve = run.path / "learning_curve.png"
    learning_curve(
        run.rows(),
        curve,
        title=f"{task}, {agent.algorithm} ({preset}), seed {seed}",
        base_success=summary["base_success"],
    )
    print(f"Policy: {run.path / 'policy'}   Learning curve: {curve}")
    if video:
        for name, policy in (("before", base), ("after", load_policy(run.path))):
            print(record(task, policy.act, FILMED, run.videos / f"{name}.mp4"))
    return summary


FILMED = (evaluation_seed(0), evaluation_seed(1))
"""The initial conditions that are filmed: the first two of the evaluation."""


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
    # episodes a policy
    episodes: int = 100
    # episodes run side by side
    num_envs: int = 8
    # how chunks are sampled; left out, as each policy says
    sampler: Method | None = None
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
        spec = task_spec(task)
        results = []
        loaded = [(path, self._sampling(load_policy(path))) for path in self.policies]
        for path, policy in loaded:
            have = (policy.normalizer.mean.shape[0], policy.action_dim)
            if have != (spec.observation_dim, spec.action_dim):
                raise OtprError(
                    f"The policy in {path} has (observation, action) dimensions {have}; {task} has "
                    f"{(spec.observation_dim, spec.action_dim)}. Give its own task with --task."
                )
        with contextlib.ExitStack() as stack:
            envs: dict[int, ChunkedVectorEnv] = {}  # starting simulators takes seconds
            for path, policy in loaded:
                h = policy.chunk_length
                if h not in envs:
                    envs[h] = stack.enter_context(ChunkedVectorEnv(task, self.num_envs, h, processes=True))
                kinds = [("one sample", policy.single())]
                if policy.chooser is not None:
                    kinds.insert(0, (f"chosen of {policy.candidates}", policy))
                for kind, variant in kinds:
                    with Progress(
                        self.episodes, f"evaluating {path}", "episodes", closing_line=False
                    ) as progress:
                        outcome = evaluate(variant, envs[h], self.episodes, on_wave=progress.advance)
                    print(f"{path}, {kind}: {outcome}")
                    results.append(_as_dict(path, kind, task, variant, outcome))
        if self.video is not None:
            for number, (_, policy) in enumerate(loaded, start=1):
                several = len(loaded) > 1
                film = self.video.with_stem(f"{self.video.stem}-{number}") if several else self.video
                print(record(task, policy.act, FILMED, film))
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.out, results)
        return results

    def _sampling(self, policy: Policy) -> Policy:
        if self.sampler is None and self.sampler_steps is None:
            return policy
        return policy.with_sampler(self.sampler or policy.diffusion.sampler, self.sampler_steps)


def check_seed(seed: int) -> None:
    """Refuse a seed outside [0, 2**31): NumPy takes no negative one, JAX no larger one."""
    if not 0 <= seed < 2**31:
        raise OtprError(f"The seed must be in [0, 2**31), given {seed}.")


def _check_fits(episode: Episode, policy: Policy, policy_path: str, data: str) -> None:
    """Refuse demonstrations of other dimensions than the policy's."""
    have = (episode.observations.shape[1], episode.actions.shape[1])
    want = (policy.normalizer.mean.shape[0], policy.action_dim)
    if have != want:
        raise OtprError(
            f"The demonstrations in {data} have (observation, action) dimensions {have}, the policy in "
            f"{policy_path} has {want}. Fine-tune with the data the policy was trained on."
        )


def _as_dict(path: Path, kind: str, task: str, policy: Policy, outcome: Evaluation) -> dict[str, Any]:
    return {
        "policy": str(path),
        "kind": kind,
        "task": task,
        **_sampling(policy),
        "success_rate": outcome.success_rate,
        "interval_95": list(outcome.interval),
        "episodes": outcome.episodes,
        "mean_length": outcome.mean_length,
        "zero_compatibility": outcome.zero_compatibility,
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
