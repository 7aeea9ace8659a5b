"""What the command line does, a frozen dataclass a command: its fields are the options, `run` is the work."""

from __future__ import annotations

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
from otpr.envs import ChunkedVectorEnv, task_spec
from otpr.errors import OtprError, check_at_least
from otpr.policy import Policy, load_policy, policy_task
from otpr.report.curve import learning_curve
from otpr.report.video import record
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
