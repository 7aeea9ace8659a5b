"""`otpr collect`: demonstrations of an expert."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from otpr.data.agreement import of_task
from otpr.data.collect import collect
from otpr.data.dataset_writer import check_free, write_dataset
from otpr.envs import Setup, task_spec
from otpr.envs.setup import Observe
from otpr.errors import check_at_least, check_seed
from otpr.storage import check_writable
from otpr.training.progress import Progress
from otpr.training.stopping import undone_by_sigterm


@dataclasses.dataclass(frozen=True)
class Collect:
    """Run an expert and keep its successes as a Minari data set."""

    # task id, e.g. metaworld/peg-insert-side-v3 (`otpr info SUITE` lists them), gym/ID or module:factory
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
    # steps after which an episode is cut off; left out, the task's own limit, which some declare not at all
    episode_limit: int | None = None
    # what the observation entry "state" holds: all that the task tells, or what the robot knows of itself;
    # images: there is none
    observe: Observe = "state"
    # cameras whose frames are seen too, NAME or NAME:HEIGHTxWIDTH (64x64); `otpr info TASK` lists them
    cameras: tuple[str, ...] = ()
    # what is different from the task, NAME:LEVEL, or random; docs/shifts.md
    shift: tuple[str, ...] = ()
    # replace the data set that is there
    overwrite: bool = False

    @undone_by_sigterm("nothing was written")
    def run(self) -> None:
        """Collect and write. Nothing is written before all episodes are complete."""
        check_at_least(1, self, "episodes")
        check_at_least(0, self, "noise")
        check_seed(self.seed)
        setup = Setup.seen(self.task, self.episode_limit, self.observe, self.cameras, self.shift)
        task = task_spec(setup)
        limit = task.required_limit()
        check_free(self.out, self.overwrite)  # checked before the work
        check_writable(self.out, "--out", folder=True)
        attempts = 0
        with Progress(self.episodes, f"demonstrations of {self.task}", "episodes") as progress:

            def show(kept: int, attempted: int) -> None:
                nonlocal attempts
                attempts = attempted
                progress.advance(kept - progress.done, attempts=attempted)

            episodes = collect(
                setup,
                episodes=self.episodes,
                noise=self.noise,
                seed=self.seed,
                user_expert=self.expert,
                on_episode=show,
            )
        write_dataset(
            episodes,
            self.out,
            spec=task.spec,
            meaning=of_task(task).meaning,
            task_id=self.task,
            view=setup.view(),
            expert=self.expert or "scripted expert",
            noise=self.noise,
            seed=self.seed,
            overwrite=self.overwrite,
            more={"episode_limit": limit, "shifts": [str(shift) for shift in setup.shifts]},
        )
        steps = sum(len(episode) for episode in episodes)
        success = f"expert success {len(episodes)} of {attempts}"
        print(f"{len(episodes)} demonstrations, {steps:,} steps, {success}: {self.out}")
