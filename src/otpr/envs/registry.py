"""The tasks by name. A simulator is imported only when one of its tasks is made."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.envs import user_env
from otpr.envs.catalog import SUITES, Suite, Task
from otpr.envs.task_env import TaskEnv
from otpr.errors import OtprError, unknown_name


class Expert(Protocol):
    """A scripted policy that mostly solves its task. It may look into the simulator it was made for."""

    def reset(self) -> None:
        """Begin an episode: called after each reset of the environment."""
        ...

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, shape `(action_dim,)`, in [-1, 1], for one observation, shape `(observation_dim,)`."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task.

    Attributes:
        id: the task's name, e.g. `"metaworld/peg-insert-side-v3"`.
        extra: the pip extra that installs its simulator; `""` where none does (`gym/ID`, `module:factory`).
        install: the command that installs its simulator.
        installed: whether the simulator is installed here.
        observation_dim: length of the flat observation.
        action_dim: length of the action.
        episode_limit: environment steps after which an episode is truncated.
        expert: whether `make_expert` has a scripted policy for it.
        observation_keys: where the simulator's own observation is a dictionary: the entries that are
            concatenated, in this order.
    """

    id: str
    extra: str
    install: str
    installed: bool
    observation_dim: int
    action_dim: int
    episode_limit: int
    expert: bool
    observation_keys: tuple[str, ...] | None = None


def _named_spec(task_id: str, suite: Suite, task: Task) -> TaskSpec:
    return TaskSpec(
        id=task_id,
        extra=suite.extra,
        install=suite.install_command,
        installed=importlib.util.find_spec(suite.package) is not None,
        observation_dim=task.observation_dim,
        action_dim=task.action_dim,
        episode_limit=task.episode_limit,
        expert=task.expert,
        observation_keys=task.observation_keys,
    )


def list_tasks() -> list[TaskSpec]:
    """Every named task, in alphabetical order, whether or not its simulator is installed.

    `gym/ID` and `module:factory` are tasks too (see `task_spec`), but nobody can list them.
    """
    specs = [
        _named_spec(f"{suite_name}/{name}", suite, task)
        for suite_name, suite in SUITES.items()
        for name, task in suite.tasks.items()
    ]
    return sorted(specs, key=lambda spec: spec.id)


def task_spec(task_id: str) -> TaskSpec:
    """The task of that name: one of `list_tasks()`, `gym/ID` (any Gymnasium id) or `module:factory`.

    Raises:
        OtprError: the name is unknown (the message has the nearest ones), or its simulator is not installed;
            or the user's environment does not fit (see `otpr.envs.user_env`).
    """
    if user_env.is_user_task(task_id):
        observation_dim, action_dim, episode_limit = user_env.dimensions(task_id)
        return TaskSpec(task_id, "", "", True, observation_dim, action_dim, episode_limit, expert=False)
    suite, name = _find(task_id)
    spec = _named_spec(task_id, suite, suite.tasks[name])
    if not spec.installed:
        raise OtprError(
            f"Task {task_id!r} needs a simulator that is not installed. Install it with: {spec.install}"
        )
    return spec


def make_env(task_id: str, render_mode: str | None = None) -> TaskEnv:
    """Make the environment of a task.

    Observations are flat, float32, shape `(observation_dim,)`. Actions are float32, shape `(action_dim,)`,
    in [-1, 1]. The reward is sparse: 1.0 on the step that succeeds, which ends the episode (`terminated`),
    else 0.0; where a suite's own page says so, and in an environment of the user's, it may be another. An
    episode is `truncated` after `episode_limit` steps; never both. `info["success"]` is a bool.
    `reset(seed=k)` fixes the whole initial condition: the same seed gives the same trajectory under the same
    actions, in any process and whatever was run before.

    Args:
        task_id: a name that `task_spec` takes.
        render_mode: None, or `"rgb_array"`: then `render()` returns an upright picture, uint8,
            shape `(height, width, 3)`.

    Raises:
        OtprError: as in `task_spec`.
        ValueError: `render_mode` is another one.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
    spec = task_spec(task_id)
    if user_env.is_user_task(task_id):
        simulator = user_env.make_simulator(task_id, render_mode)
    else:
        suite, name = _find(task_id)
        simulator = importlib.import_module(suite.module).make_simulator(name, render_mode)
    return TaskEnv(
        simulator,
        task_id=task_id,
        observation_dim=spec.observation_dim,
        action_dim=spec.action_dim,
        episode_limit=spec.episode_limit,
        render_mode=render_mode,
    )


def make_expert(task_id: str, env: TaskEnv, user_class: str | None = None) -> Expert:
    """Make an expert for an environment that `make_env` made.

    Args:
        task_id: the task of `env`.
        env: the environment it will act in: an expert may look into its simulator.
        user_class: `"module:Class"` of the user's own expert; None: the task's scripted one.

    Raises:
        OtprError: the task is unknown, its simulator is not installed, it has no scripted expert, or the
            user's class cannot be used.
    """
    spec = task_spec(task_id)
    if user_class is not None:
        return user_env.UserExpert(user_class, env)
    if not spec.expert:
        raise OtprError(
            f"Task {task_id!r} has no scripted expert. Give your own with --expert module:Class (an object "
            "with act(observation)), or bring demonstrations with `otpr data convert`."
        )
    suite, name = _find(task_id)
    return importlib.import_module(suite.module).make_expert(name, env)


def _find(task_id: str) -> tuple[Suite, str]:
    """The suite of a named task, and its name there."""
    suite_name, _, name = task_id.partition("/")
    suite = SUITES.get(suite_name)
    if suite is None or name not in suite.tasks:
        raise unknown_name("task", task_id, [spec.id for spec in list_tasks()])
    return suite, name
