"""The tasks of a benchmark, the recipe of each task's base policy, and the budget of its runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from otpr.envs import task_spec
from otpr.errors import OtprError, check_at_least, unknown_name

BAND = (0.2, 0.5)  # the success of a base policy that leaves something to build on and to gain


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
    # hidden units in each layer of the score network
    width: int = 256
    # seed of initial conditions, noise, network and batches
    recipe_seed: int = 0
    # held-out episodes that measure the success of the base policy
    base_episodes: int = 100
    # steps after which an episode is truncated, of demonstrations and runs; left out, the task's own limit
    episode_limit: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_at_least(1, self, "demonstrations", "chunk_length", "updates", "width", "base_episodes")
        check_at_least(0, self, "noise", "recipe_seed")
        if self.episode_limit is not None:
            check_at_least(1, self, "episode_limit")


@dataclasses.dataclass(frozen=True)
class Budget:
    """What a run may use, the same for every algorithm."""

    # environment steps of the run
    env_steps: int = 50_000
    # environment steps between evaluations; by default a fifth of the run
    eval_every: int | None = None
    # episodes of each evaluation but the last
    eval_episodes: int = 30
    # episodes of the last evaluation
    final_eval_episodes: int = 100
    # episodes that a round of interaction runs side by side
    num_envs: int = 8

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_at_least(1, self, "env_steps", "eval_episodes", "final_eval_episodes", "num_envs")
        if self.eval_every is not None:
            check_at_least(1, self, "eval_every")

    @property
    def steps_between_evaluations(self) -> int:
        """Environment steps between evaluations, >= 1."""
        return self.eval_every or max(1, self.env_steps // 5)

    @property
    def warmup_steps(self) -> int:
        """Environment steps before learning starts; fewer for short runs, so that they learn as well."""
        return min(2_000, self.env_steps // 5)


@dataclasses.dataclass(frozen=True)
class BenchTask:
    """A task of a benchmark."""

    id: str
    recipe: Recipe
    budget: Budget


@dataclasses.dataclass(frozen=True)
class BenchSuite:
    """A named list of tasks, each run with every variant and seed."""

    name: str
    tasks: tuple[BenchTask, ...]


SHIFTED = "shifts"  # the suite whose policies are measured under shifts too

# a round must be shorter than the steps between evaluations, or it would skip some of them
_ROBOSUITE = Budget(env_steps=20_000, eval_episodes=20, final_eval_episodes=50, num_envs=4)
_SHIFTED = Budget(env_steps=20_000, eval_every=20_000, eval_episodes=20)
_FEW = Budget(env_steps=2_000, eval_every=1_000, eval_episodes=8, final_eval_episodes=16)
_LIBERO = Budget(env_steps=20_000, eval_every=10_000, eval_episodes=20, final_eval_episodes=50, num_envs=4)
_PEG = BenchTask("metaworld/peg-insert-side-v3", Recipe(10, noise=0.7), Budget())
_BOX = BenchTask("metaworld/box-close-v3", Recipe(10, noise=0.5), Budget())

BENCH_SUITES = {
    # shows that everything runs; its numbers mean nothing
    "smoke": (
        BenchTask(_PEG.id, Recipe(10, noise=0.7, base_episodes=50), _FEW),
        BenchTask(_BOX.id, Recipe(10, noise=0.5, base_episodes=50), _FEW),
    ),
    # docs/devlog/benchmark.md says how the recipes were found
    "arena-6": (
        BenchTask("metaworld/assembly-v3", Recipe(15, noise=0.4), Budget()),
        _PEG,
        _BOX,
        BenchTask("ogbench/cube-double-task2", Recipe(40, noise=0.2, updates=4000), Budget()),
        BenchTask("robosuite/can", Recipe(6, noise=0.3), _ROBOSUITE),
        BenchTask("robosuite/square", Recipe(80, noise=0.1, updates=15_000), _ROBOSUITE),
    ),
    # those of arena-6 whose shifts are measured: docs/robustness.md
    SHIFTED: (
        dataclasses.replace(_PEG, budget=_SHIFTED),
        BenchTask("metaworld/assembly-v3", Recipe(15, noise=0.4), _SHIFTED),
        BenchTask(
            "robosuite/square",
            Recipe(80, noise=0.1, updates=15_000),
            dataclasses.replace(_SHIFTED, num_envs=4),
        ),
    ),
    # the paper's long tasks; docs/tasks/kitchen.md and robosuite.md say how the recipes were found
    "hard": (
        BenchTask("kitchen/complete", Recipe(100, noise=0.15, updates=40_000), Budget(num_envs=4)),
        BenchTask(
            "robosuite/transport",
            Recipe(60, noise=0.1, chunk_length=8, updates=15_000, width=1024, base_episodes=50),
            Budget(eval_every=25_000, eval_episodes=20, final_eval_episodes=50, num_envs=4),
        ),
    ),
    # of LIBERO-Long, in LIBERO's own environment (docs/tasks/libero.md)
    "libero": tuple(
        BenchTask(
            f"libero/libero_10/{i}",
            Recipe(n, noise=0.2, updates=updates, base_episodes=50, episode_limit=400),
            _LIBERO,
        )
        for i, n, updates in ((6, 20, 8_000), (7, 20, 8_000), (4, 40, 12_000), (2, 26, 10_000))
    ),
    # two tasks of arena-6 that leave room above the base policy and below 100%
    "ablations": (_PEG, _BOX),
}
"""The tasks of the fixed suites by name; `open_suite` makes a suite of any tasks."""

OPEN = "open"  # the suite whose tasks, recipe and budget are given on the command line


def named_suite(name: str) -> BenchSuite:
    """A fixed suite.

    Raises:
        OtprError: there is none of that name (the message suggests the nearest one), or a simulator that it
            needs is not installed.
    """
    if name not in BENCH_SUITES:
        raise unknown_name("suite", name, [*BENCH_SUITES, OPEN])
    for task in BENCH_SUITES[name]:
        task_spec(task.id)
    return BenchSuite(name, BENCH_SUITES[name])


def open_suite(tasks: Sequence[str], recipe: Recipe, budget: Budget) -> BenchSuite:
    """A suite of any tasks that share a recipe and a budget.

    Raises:
        OtprError: there is no task, a task occurs twice or is unknown (the message suggests the nearest
            name), or it has no scripted expert to follow the recipe with.
    """
    if not tasks:
        raise OtprError("The suite `open` needs tasks: --tasks metaworld/reach-v3 fetch/push")
    for task in tasks:
        if tasks.count(task) > 1:
            raise OtprError(f"The task {task!r} is given twice.")
        if not task_spec(task).expert:
            raise OtprError(
                f"Task {task!r} has no scripted expert, and a recipe starts from its demonstrations. "
                "`otpr info SUITE` lists the tasks that have one."
            )
    return BenchSuite(OPEN, tuple(BenchTask(task, recipe, budget) for task in tasks))
