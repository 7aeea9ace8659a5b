"""Which tasks a benchmark has, by which recipe each one's base policy is made, and what a run may use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from otpr.envs import task_spec
from otpr.errors import OtprError, check_at_least, unknown_name

BAND = (0.2, 0.5)
"""Success a base policy should have: there is something to build on, and something to gain."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the demonstrations and the base policy of a task are made."""

    # successful episodes of the scripted expert
    demonstrations: int = 10
    # standard deviation of the noise on its actions, which lie in [-1, 1]
    noise: float = 0.5
    # actions in a chunk
    chunk_length: int = 4
    # gradient steps of imitation
    updates: int = 3000
    # of initial conditions, noise, network and batches
    recipe_seed: int = 0
    # held-out episodes over which the base policy's success is measured
    base_episodes: int = 100

    def __post_init__(self) -> None:
        """Refuse numbers that make no policy."""
        check_at_least(1, self, "demonstrations", "chunk_length", "updates", "base_episodes")
        check_at_least(0, self, "noise", "recipe_seed")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may use, the same for every algorithm."""

    # environment steps in all
    env_steps: int = 50_000
    # environment steps between evaluations
    eval_every: int = 10_000
    # episodes of an evaluation on the way
    eval_episodes: int = 30
    # episodes of the last one
    final_eval_episodes: int = 100
    # episodes a round of interaction, side by side
    num_envs: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers that make no run."""
        check_at_least(1, self, "env_steps", "eval_every", "eval_episodes", "final_eval_episodes", "num_envs")

    @property
    def warmup_steps(self) -> int:
        """Environment steps before learning starts: a trial of few steps is to learn something too."""
        return min(2_000, self.env_steps // 5)


@dataclasses.dataclass(frozen=True)
class BenchTask:
    """A task of a suite."""

    id: str
    recipe: Recipe
    budget: Budget


@dataclasses.dataclass(frozen=True)
class Suite:
    """A list of tasks, run with every algorithm and seed."""

    name: str
    tasks: tuple[BenchTask, ...]


# a round must be shorter than the steps between evaluations, or some of these would be left out
_ROBOSUITE = Budget(env_steps=20_000, eval_every=4_000, eval_episodes=20, final_eval_episodes=50, num_envs=4)
_FEW = Budget(env_steps=2_000, eval_every=1_000, eval_episodes=8, final_eval_episodes=16)
_PEG = BenchTask("metaworld/peg-insert-side-v3", Recipe(10, noise=0.7), Budget())
_BOX = BenchTask("metaworld/box-close-v3", Recipe(10, noise=0.5), Budget())

SUITES: dict[str, Suite] = {
    # does everything run? Its numbers mean nothing
    "smoke": Suite(
        "smoke",
        (
            BenchTask("metaworld/peg-insert-side-v3", Recipe(10, noise=0.7, base_episodes=50), _FEW),
            BenchTask("metaworld/box-close-v3", Recipe(10, noise=0.5, base_episodes=50), _FEW),
        ),
    ),
    # how the recipes were found: docs/bench.md
    "arena-6": Suite(
        "arena-6",
        (
            BenchTask("metaworld/assembly-v3", Recipe(15, noise=0.4), Budget()),
            _PEG,
            _BOX,
            BenchTask("ogbench/cube-double-task2", Recipe(40, noise=0.2, updates=4000), Budget()),
            BenchTask("robosuite/can", Recipe(6, noise=0.3), _ROBOSUITE),
            BenchTask("robosuite/square", Recipe(80, noise=0.1, updates=15_000), _ROBOSUITE),
        ),
    ),
    # what the parts of a method are worth: two tasks of arena-6 that leave room above the base and below 100%
    "ablations": Suite("ablations", (_PEG, _BOX)),
}
"""The fixed suites; `open_suite` makes one of any tasks."""

OPEN = "open"
"""Name of the suite whose tasks, recipe and budget are given on the command line."""


def named_suite(name: str) -> Suite:
    """A fixed suite.

    Raises:
        OtprError: there is none of that name (the message has the nearest one), or a simulator that it needs
            is not installed.
    """
    if name not in SUITES:
        raise unknown_name("suite", name, [*SUITES, OPEN])
    for task in SUITES[name].tasks:
        task_spec(task.id)
    return SUITES[name]


def open_suite(tasks: Sequence[str], recipe: Recipe, budget: Budget) -> Suite:
    """A suite of any tasks, which share a recipe and a budget.

    Raises:
        OtprError: there is no task, one twice, an unknown one (the message has the nearest name), or one
            without a scripted expert, so that the recipe cannot be followed.
    """
    if not tasks:
        raise OtprError("The suite `open` needs tasks: --tasks metaworld/reach-v3 fetch/push")
    for task in tasks:
        if tasks.count(task) > 1:
            raise OtprError(f"The task {task!r} is given twice.")
        if not task_spec(task).expert:
            raise OtprError(
                f"Task {task!r} has no scripted expert, and a recipe starts from its demonstrations. "
                "`otpr info` lists the tasks that have one."
            )
    return Suite(OPEN, tuple(BenchTask(task, recipe, budget) for task in tasks))
