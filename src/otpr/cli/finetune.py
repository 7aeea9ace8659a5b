"""`otpr finetune`: learning by interaction."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro

from otpr.agents import agent_config
from otpr.agents.parts.agent import AgentConfig
from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.data.seeds import evaluation_seed
from otpr.envs import ChunkedVectorEnv
from otpr.errors import OtprError, check_seed
from otpr.policies.policy import Policy, load_policy, policy_task
from otpr.training.curve import learning_curve
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.run_directory import RunDirectory
from otpr.training.video import record


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


def _check_fits(episode: Episode, policy: Policy, policy_path: str, data: str) -> None:
    """Refuse demonstrations of other dimensions than the policy's."""
    have = (episode.observations.shape[1], episode.actions.shape[1])
    want = (policy.normalizer.mean.shape[0], policy.action_dim)
    if have != want:
        raise OtprError(
            f"The demonstrations in {data} have (observation, action) dimensions {have}, the policy in "
            f"{policy_path} has {want}. Fine-tune with the data the policy was trained on."
        )
