"""The tasks by name. A simulator is imported only when one of its tasks is made."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError, unknown_name

# Spelt out, so that listing tasks or mending a misspelt name neither needs nor imports the simulator.
_METAWORLD_NAMES = (
    "assembly",
    "basketball",
    "bin-picking",
    "box-close",
    "button-press-topdown",
    "button-press-topdown-wall",
    "button-press",
    "button-press-wall",
    "coffee-button",
    "coffee-pull",
    "coffee-push",
    "dial-turn",
    "disassemble",
    "door-close",
    "door-lock",
    "door-open",
    "door-unlock",
    "drawer-close",
    "drawer-open",
    "faucet-close",
    "faucet-open",
    "hammer",
    "hand-insert",
    "handle-press",
    "handle-press-side",
    "handle-pull",
    "handle-pull-side",
    "lever-pull",
    "peg-insert-side",
    "peg-unplug-side",
    "pick-out-of-hole",
    "pick-place",
    "pick-place-wall",
    "plate-slide",
    "plate-slide-back",
    "plate-slide-back-side",
    "plate-slide-side",
    "push",
    "push-back",
    "push-wall",
    "reach",
    "reach-wall",
    "shelf-place",
    "soccer",
    "stick-pull",
    "stick-push",
    "sweep",
    "sweep-into",
    "window-close",
    "window-open",
)
_TASK_IDS = tuple(sorted(f"metaworld/{name}-v3" for name in _METAWORLD_NAMES))


class Expert(Protocol):
    """A scripted policy that mostly solves its task."""

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The action, shape `(action_dim,)`, in [-1, 1], for one observation, shape `(observation_dim,)`."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task without making its environment.

    Attributes:
        id: the task's name, e.g. `"metaworld/peg-insert-side-v3"`.
        extra: the pip extra that installs its simulator: `pip install 'otpr[EXTRA]'`.
        installed: whether the simulator is installed here.
        observation_dim: length of the flat observation; None where the simulator is not installed.
        action_dim: length of the action; None where the simulator is not installed.
        episode_limit: environment steps after which an episode is truncated.
        has_expert: whether `make_expert` has a scripted policy for it.
    """

    id: str
    extra: str
    installed: bool
    observation_dim: int | None
    action_dim: int | None
    episode_limit: int
    has_expert: bool


def _metaworld_spec(task_id: str) -> TaskSpec:
    installed = importlib.util.find_spec("metaworld") is not None
    return TaskSpec(
        id=task_id,
        extra="metaworld",
        installed=installed,
        observation_dim=39 if installed else None,
        action_dim=4 if installed else None,
        episode_limit=200,
        has_expert=True,
    )


def list_tasks() -> list[TaskSpec]:
    """Every task, in alphabetical order, whether or not its simulator is installed."""
    return [_metaworld_spec(task_id) for task_id in _TASK_IDS]


def task_spec(task_id: str) -> TaskSpec:
    """The task of that name.

    Raises:
        OtprError: the name is unknown (the message has the nearest ones), or its simulator is not installed.
    """
    if task_id not in _TASK_IDS:
        raise unknown_name("task", task_id, _TASK_IDS)
    spec = _metaworld_spec(task_id)
    if not spec.installed:
        raise OtprError(
            f"Task {task_id!r} needs a simulator that is not installed. "
            f"Install it with: pip install 'otpr[{spec.extra}]'"
        )
    return spec


def make_env(task_id: str, render_mode: str | None = None) -> gymnasium.Env:
    """Make the environment of a task.

    Observations are flat, float32, shape `(observation_dim,)`. Actions are float32, shape `(action_dim,)`,
    in [-1, 1]. The reward is sparse: 1.0 on the step that succeeds, which ends the episode (`terminated`),
    else 0.0. An episode that has not succeeded after `episode_limit` steps is `truncated`; never both.
    `info["success"]` is a bool. `reset(seed=k)` fixes the whole initial condition: the same seed gives the
    same trajectory under the same actions, in any process and whatever was run before.

    Args:
        task_id: a name out of `list_tasks()`.
        render_mode: None, or `"rgb_array"`: then `render()` returns an upright picture, uint8,
            shape `(height, width, 3)`.

    Raises:
        OtprError: the task is unknown or its simulator is not installed.
    """
    spec = task_spec(task_id)
    from otpr.envs.metaworld import MetaWorldEnv

    return MetaWorldEnv(_package_name(task_id), episode_limit=spec.episode_limit, render_mode=render_mode)


def make_expert(task_id: str) -> Expert:
    """Make the scripted expert of a task: an object with `act(observation) -> action`.

    Raises:
        OtprError: the task is unknown or its simulator is not installed.
    """
    task_spec(task_id)
    from otpr.envs.metaworld import MetaWorldExpert

    return MetaWorldExpert(_package_name(task_id))


def _package_name(task_id: str) -> str:
    """The name the simulator's own package uses: what follows the simulator in the task id."""
    return task_id.split("/", 1)[1]
