"""The whole workflow: demonstrations, imitation, OTPR and evaluation, each step as in its own command.

The run directory is that of the fine-tuning, with the earlier steps in subfolders:

demonstrations/   what `otpr collect` makes
pretrain/         what `otpr pretrain` makes; its policy is the base policy
evaluation.json   what `otpr evaluate` says of both policies
report.html       what `otpr report` makes of it all
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import rich
from rich.table import Table

from otpr.agents import agent_config
from otpr.cli.collect import Collect
from otpr.cli.evaluate import Evaluate
from otpr.cli.finetune import fine_tune
from otpr.cli.plugins import plugin
from otpr.cli.pretrain import Pretrain
from otpr.data.datasets import read_dataset
from otpr.data.loading import DataConfig
from otpr.envs import Setup, task_spec
from otpr.envs.registry import pixels_setup
from otpr.errors import OtprError, check_seed
from otpr.policies.loading import load_policy
from otpr.storage import check_writable
from otpr.training.finetune import LoopConfig
from otpr.training.imitation import PretrainConfig
from otpr.training.placement import Placement
from otpr.training.run_directory import RunDirectory
from otpr.training.sinks import DEFAULT


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The defaults of a quickstart.

    Attributes:
        task: the task.
        demos: number of demonstrations.
        noise: standard deviation of the noise on their actions, which are in [-1, 1].
        imitation: the settings of the imitation.
    """

    task: str
    demos: int
    noise: float
    imitation: PretrainConfig


STATE = Recipe("metaworld/peg-insert-side-v3", 10, 0.7, PretrainConfig())
"""The recipe for observations that include the positions of objects."""

# Imitation from images is a hundred times as expensive as from vectors. Action noise makes it harder to learn
# the dependence of actions on images.
PIXELS = Recipe("metaworld/drawer-open-v3", 8, 0.3, PretrainConfig(updates=2_500, batch_size=128))
"""The recipe for camera images."""


@dataclasses.dataclass(frozen=True)
class Quickstart:
    """Collect demonstrations, imitate them, fine-tune with OTPR, evaluate before and after."""

    # task id; `otpr info SUITE` lists them. Left out, metaworld/peg-insert-side-v3, and with --pixels
    # metaworld/drawer-open-v3
    task: str | None = None
    # seed of everything but the evaluation's initial conditions, which are always the same
    seed: int = 0
    # see through a camera of 64 x 64 pixels, and know of the robot itself, but not where objects are
    pixels: bool = False
    # demonstrations to collect; left out, 10, and with --pixels 8
    demos: int | None = None
    # standard deviation of the Gaussian noise on their actions; left out, 0.7, and with --pixels 0.3
    noise: float | None = None
    # environment steps of fine-tuning
    env_steps: int = 40_000
    # settings of the algorithm: default, paper or release; see docs/fidelity.md
    preset: str = "default"
    # steps after which an episode is truncated; left out, the task's own limit
    episode_limit: int | None = None
    # loggers of the fine-tuning beside metrics.jsonl: tensorboard, wandb, trackio, or none; several may be
    # named
    log: tuple[str, ...] = DEFAULT
    # where it all goes
    run_dir: Path = Path("runs/quickstart")
    # go on where an earlier quickstart in the directory stopped
    resume: bool = False
    # delete an earlier quickstart in the directory first
    overwrite: bool = False

    def run(self) -> None:
        """Run the four steps and print a table of the results."""
        check_seed(self.seed)
        recipe = self._recipe()
        if recipe.demos < 1:
            raise OtprError(f"demos must be at least 1, given {recipe.demos}.")
        if not recipe.noise >= 0:
            raise OtprError(f"noise must be at least 0, given {recipe.noise:g}.")
        check_writable(self.run_dir, "--run-dir", folder=True)
        setup = Setup(recipe.task, self.episode_limit)
        if self.pixels:
            setup = pixels_setup(recipe.task, self.episode_limit)
        task = task_spec(setup)
        task.required_limit()
        if not task.expert:
            raise OtprError(
                f"{recipe.task} has no scripted expert, whose demonstrations a quickstart begins with. Take "
                "the steps one at a time: `otpr collect --expert module:Class` or `otpr data convert`, then "
                "`otpr pretrain`, `otpr finetune` and `otpr evaluate`."
            )
        # short trials should also learn something
        warmup_steps = min(LoopConfig.warmup_steps, self.env_steps // 5)
        agent, loop = agent_config("otpr", self.preset), LoopConfig(self.env_steps, warmup_steps=warmup_steps)
        config = {
            "task": recipe.task,
            "episode_limit": self.episode_limit,
            "seed": self.seed,
            "demos": recipe.demos,
            **({} if recipe.noise == STATE.noise else {"noise": recipe.noise}),
            **({"pixels": setup.view()} if self.pixels else {}),
            "preset": self.preset,
            "agent": dataclasses.asdict(agent),
            "loop": loop.record(),
        }
        with RunDirectory.open(
            self.run_dir,
            command="quickstart",
            config=config,
            resume=self.resume,
            overwrite=self.overwrite,
            log=self.log,
        ) as run:
            demonstrations, pretrained = run.path / "demonstrations", run.path / "pretrain"
            print(f"1/4  Demonstrations of {recipe.task} by its scripted expert")
            if not demonstrations.exists():
                Collect(
                    recipe.task,
                    demonstrations,
                    episodes=recipe.demos,
                    noise=recipe.noise,
                    seed=self.seed,
                    episode_limit=self.episode_limit,
                    observe=setup.observe,
                    cameras=tuple(map(str, setup.cameras)),
                ).run()
            print("2/4  Imitation")
            if not (pretrained / "policy").exists():
                Pretrain(
                    DataConfig((str(demonstrations),)),
                    pretrained,
                    recipe.imitation,
                    seed=self.seed,
                    resume=pretrained.exists(),
                ).run()
            print("3/4  Fine-tuning with OTPR")
            base = load_policy(pretrained)
            summary = fine_tune(
                run,
                base,
                [read_dataset(demonstrations).episodes],
                setup=setup,
                preset=self.preset,
                seed=self.seed,
                agent=agent,
                loop=loop,
                placement=Placement(),
                resume=self.resume,
                video=True,
            )
            print("4/4  Evaluation on held-out initial conditions")
            results = Evaluate(
                (pretrained, run.path),
                episode_limit=self.episode_limit,
                out=run.path / "evaluation.json",
            ).results()
        table = Table("policy", "success", "95% interval", box=None, title=recipe.task, title_justify="left")
        names = ("before: imitation", "after: OTPR", "after: OTPR, one sample")
        for name, result in zip(names, results, strict=True):
            low, high = result["interval_95"]
            table.add_row(name, f"{result['success_rate']:.0%}", f"{low:.0%} to {high:.0%}")
        rich.print(table)
        minutes = summary["wall_seconds"] / 60
        print(f"{summary['env_steps']:,} environment steps, {minutes:.1f} minutes of fine-tuning.")
        if (report := plugin("report")) is not None:
            report(run.path).run()
        print(f"All in {run.path}")

    def _recipe(self) -> Recipe:
        """The recipe with the given options applied."""
        usual = PIXELS if self.pixels else STATE
        given = {"task": self.task, "demos": self.demos, "noise": self.noise}
        return dataclasses.replace(
            usual, **{name: value for name, value in given.items() if value is not None}
        )
