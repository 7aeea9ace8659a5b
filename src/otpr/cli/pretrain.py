"""`otpr pretrain`: imitation of demonstrations."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from otpr.data.agreement import of_task
from otpr.data.loading import DataConfig
from otpr.envs import task_spec
from otpr.errors import check_seed
from otpr.storage import check_writable
from otpr.training.pretrain import PretrainConfig, pretrain
from otpr.training.run_directory import RunDirectory
from otpr.training.sinks import DEFAULT


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
    # loggers beside metrics.jsonl: tensorboard, wandb, trackio, or none; several may be named
    log: tuple[str, ...] = DEFAULT
    # go on with the run in the directory
    resume: bool = False
    # delete the run in the directory first
    overwrite: bool = False

    def run(self) -> None:
        """Train and save the policy."""
        check_seed(self.seed)
        check_writable(self.run_dir, "--run-dir", folder=True)
        sets, setup = self.demonstrations.read(self.task)
        if not self.resume:
            self.demonstrations.check(sets, setup)
        known = task_spec(setup)
        spec = known.spec
        config = {
            **self.demonstrations.record(sets),
            "task": setup.task,
            "spec": self.config.policy_spec(spec).to_json(),
            "seed": self.seed,
            **self.config.record(spec),
        }
        with RunDirectory.open(
            self.run_dir,
            command="pretrain",
            config=config,
            resume=self.resume,
            overwrite=self.overwrite,
            log=self.log,
        ) as run:
            pretrain(
                sets,
                self.config,
                run,
                setup=setup,
                spec=spec,
                seed=self.seed,
                resume=self.resume,
                weights=self.demonstrations.weights,
                resolution=known.resolution,
                meaning=of_task(known).meaning.to_json(),
            )
        print(f"Policy: {self.run_dir / 'policy'}")
