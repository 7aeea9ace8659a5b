"""The tasks by name. A simulator is imported only when one of its tasks is made."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.envs import user_env
from otpr.envs.cameras import Eyes, camera_names
from otpr.envs.catalog import SUITES, Geometry, Suite, Task
from otpr.envs.setup import Setup
from otpr.envs.task_env import Simulator, TaskEnv
from otpr.envs.user_expert import UserExpert
from otpr.errors import OtprError, unknown_name
from otpr.spec import STATE, Entry, Parts, Spec


class Expert(Protocol):
    """A scripted policy that usually solves its task. It may read the state of its simulator."""

    def reset(self) -> None:
        """Begin an episode: called after each reset of the environment."""
        ...

    def act(self, observation: Any) -> NDArray[np.float32]:
        """The action, shape `(action_dim,)`, in [-1, 1], for the environment's `whole_observation`."""
        ...


@dataclass(frozen=True)
class TaskSpec:
    """The description of a task with its setup.

    Attributes:
        setup: the task's name, an episode limit other than the default, and the view.
        extra: the pip extra that installs its simulator; `""` if there is none (`gym/ID`, `module:factory`).
        install: the command that installs its simulator.
        installed: whether the simulator is installed.
        spec: its observations and actions; history, horizon and execution are 1.
        episode_limit: environment steps after which an episode is truncated; None if a user's environment
            declares none.
        expert: whether `make_expert` has a scripted policy for it.
        parts: if the simulator's own observation is a dictionary, the entries that are concatenated, in this
            order, with their lengths. Empty: one vector with unknown parts.
        columns: the numbers of the simulator's vector in the entry "state"; None: all of them.
        facts: further facts about its numbers, in words, by name; see `otpr.envs.catalog.Suite`.
        resolution: largest deviation of an observation that counts as constant, in the task's units: 0.1 mm
            for metres and radians, as in every named task; 0 if the units are unknown.
        geometry: the positions in the simulator's vector; None: unknown.
    """

    setup: Setup
    extra: str
    install: str
    installed: bool
    spec: Spec
    episode_limit: int | None
    expert: bool
    parts: Parts = ()
    columns: tuple[int, ...] | None = None
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    resolution: float = 0.0
    geometry: Geometry | None = None

    @property
    def id(self) -> str:
        """The task's name, e.g. `"metaworld/peg-insert-side-v3"`."""
        return self.setup.task

    @property
    def observation_keys(self) -> tuple[str, ...]:
        """The names of the parts."""
        return tuple(name for name, _ in self.parts)

    def required_limit(self) -> int:
        """The episode limit, which is required to run the task.

        Raises:
            OtprError: the environment declares no limit.
        """
        if self.episode_limit is None:
            raise OtprError(
                f"{self.id}: nothing limits the length of an episode. Give the limit with --episode-limit N, "
                "or wrap the environment with gymnasium.wrappers.TimeLimit(env, max_episode_steps=N)."
            )
        return self.episode_limit


def _named_spec(setup: Setup, suite: Suite, task: Task) -> TaskSpec:
    columns, parts = None, task.parts
    entries = {
        camera.name: Entry((camera.height, camera.width, 3), "uint8", "image") for camera in setup.cameras
    }
    if setup.observe == "proprioception":
        columns = tuple(column for start, end in task.proprioception for column in range(start, end))
        parts = _parts_of(task.parts, columns)
    if setup.observe != "images":
        length = task.observation_dim if columns is None else len(columns)
        entries[STATE] = Entry((length,))
    flat = Spec.flat(task.observation_dim, task.action_dim, control_rate=suite.control_rate)
    return TaskSpec(
        setup=setup,
        extra=suite.extra,
        install=suite.install_command,
        installed=importlib.util.find_spec(suite.package) is not None,
        spec=replace(flat, observation=entries),
        episode_limit=setup.episode_limit or task.episode_limit,
        expert=task.expert,
        parts=parts if STATE in entries else (),
        columns=columns,
        facts={**suite.facts, **task.facts},
        resolution=1e-4,
        geometry=task.geometry,
    )


def _parts_of(parts: Parts, columns: tuple[int, ...]) -> Parts:
    """The parts with columns among those given, and the number of these columns."""
    kept: list[tuple[str, int]] = []
    start = 0
    for name, length in parts:
        among = len(set(columns) & set(range(start, start + length)))
        start += length
        if among:
            kept.append((name, among))
    return tuple(kept)


def list_tasks() -> list[TaskSpec]:
    """Every named task, in alphabetical order, whether or not its simulator is installed.

    `gym/ID` and `module:factory` are tasks too (see `task_spec`), but are not listed.
    """
    specs = [
        _named_spec(Setup(f"{suite_name}/{name}"), suite, task)
        for suite_name, suite in SUITES.items()
        for name, task in suite.tasks.items()
    ]
    return sorted(specs, key=lambda spec: spec.id)


def known_task(task: str | Setup) -> TaskSpec:
    """Like `task_spec`, but the simulator of a named task need not be installed."""
    setup = Setup.of(task)
    if not user_env.is_user_task(setup.task):
        suite, name = _find(setup.task)
        return _named_spec(setup, suite, suite.tasks[name])
    if not setup.plain:
        raise OtprError(
            f"{setup.task}: an environment of yours shows what its observation space says. Leave out "
            "--cameras and --observe, and give it a space with the images that you want "
            "(docs/bring-your-own.md)."
        )
    declared = user_env.declared(setup.task)
    return TaskSpec(
        setup=setup,
        extra="",
        install="",
        installed=True,
        spec=declared.spec,
        episode_limit=setup.episode_limit or declared.episode_limit,
        expert=False,
        parts=declared.parts,
        facts=declared.facts,
        geometry=declared.geometry,
    )


def task_spec(task: str | Setup) -> TaskSpec:
    """The description of a task: one of `list_tasks()`, `gym/ID` (any Gymnasium id) or `module:factory`.

    Args:
        task: the name, or a setup.

    Raises:
        OtprError: the name is unknown (the message suggests the nearest ones), its simulator is not
            installed, the user's environment is not supported (see `otpr.envs.user_env`), or the view is not
            possible.
    """
    known = known_task(task)
    if not known.installed:
        raise OtprError(
            f"Task {known.id!r} needs a simulator that is not installed. Install it with: {known.install}"
        )
    return known


def make_env(task: str | Setup, render_mode: str | None = None) -> TaskEnv:
    """Make the environment of a task.

    Observations follow `TaskSpec.spec`: an array if there is a single vector entry, otherwise a dictionary of
    arrays by entry name, with one entry for each camera. Actions are float32, shape `(action_dim,)`, in [-1,
    1]. The reward is sparse: 1.0 on the successful step, which ends the episode (`terminated`), and 0.0
    otherwise; some suites, as documented on their pages, and users' environments have other rewards. An
    episode is `truncated` after `episode_limit` steps, or earlier by a user's environment. `terminated` and
    `truncated` are never both True. `info["success"]` is a bool. `reset(seed=k)` fixes the whole initial
    condition: the same seed gives the same trajectory under the same actions, in any process and regardless
    of earlier episodes.

    Args:
        task: a name for `task_spec`, or a setup.
        render_mode: None, or `"rgb_array"`: then `render()` returns an upright picture, uint8,
            shape `(height, width, 3)`.

    Raises:
        OtprError: as in `task_spec`; there is no episode limit; there is no camera of that name; or this
            machine cannot render.
        ValueError: `render_mode` has another value.
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
    known = task_spec(task)
    setup, limit = known.setup, known.required_limit()
    if user_env.is_user_task(setup.task):
        simulator = user_env.make_simulator(setup.task, render_mode, setup.episode_limit)
    else:
        suite, name = _find(setup.task)
        simulator = importlib.import_module(suite.module).make_simulator(name, render_mode)
    try:
        shifted = _shifted(simulator, known, limit) if setup.shifts else None
        eyes = Eyes(simulator.scene, setup.cameras) if setup.cameras else None
    except OtprError:
        simulator.close()
        raise
    return TaskEnv(
        simulator,
        task_id=known.id,
        spec=known.spec,
        episode_limit=limit,
        render_mode=render_mode,
        columns=known.columns,
        eyes=eyes,
        shifted=shifted,
    )


def _shifted(simulator: Any, known: TaskSpec, limit: int) -> Simulator:
    from otpr.envs.shifts import shifted  # requires MuJoCo

    place = shifted.Place(
        known.id, simulator, known.geometry, action_dim=known.spec.action_dim, episode_limit=limit
    )
    return shifted.Shifted(place, known.setup.shifts, images=bool(known.spec.images))


def cameras_of(task: str) -> tuple[str, ...]:
    """The names of a task's cameras; empty for a user's environment, which has its own images.

    Raises:
        OtprError: as in `task_spec`.
    """
    if user_env.is_user_task(task):
        return ()
    known = task_spec(task)
    suite, name = _find(known.id)
    simulator = importlib.import_module(suite.module).make_simulator(name, None)
    try:
        return camera_names(simulator.scene())
    finally:
        simulator.close()


def pixels_setup(task: str, episode_limit: int | None = None) -> Setup:
    """A setup of a named task with the suite's default camera and the robot's proprioception.

    Raises:
        OtprError: the task is unknown or a user's environment, or its suite has no default camera.
    """
    camera = "" if user_env.is_user_task(task) else _find(task)[0].camera
    if not camera:
        raise OtprError(
            f"{task}: no camera of it is known to show what is done. Take the steps one at a time, the first "
            "of them `otpr collect --cameras NAME --observe proprioception`."
        )
    return Setup.seen(task, episode_limit, "proprioception", (camera,))


def check_filming(setup: Setup) -> None:
    """Check that a user's environment can be created for filming. Named tasks are not checked.

    Raises:
        OtprError: the user's environment takes no `render_mode`, or not "rgb_array".
    """
    if user_env.is_user_task(setup.task):
        user_env.make_simulator(setup.task, "rgb_array", setup.episode_limit).close()


def make_expert(task_id: str, env: TaskEnv, user_class: str | None = None) -> Expert:
    """Make an expert for an environment from `make_env`.

    Args:
        task_id: the task of `env`.
        env: the environment of the expert, which may read the state of its simulator.
        user_class: `"module:Class"` of the user's own expert; None: the task's scripted one.

    Raises:
        OtprError: the task is unknown, its simulator is not installed, it has no scripted expert, or the
            user's class cannot be used.
    """
    task = task_spec(task_id)
    if user_class is not None:
        return UserExpert(user_class, env)
    if not task.expert:
        raise OtprError(
            f"Task {task_id!r} has no scripted expert. Give your own with --expert module:Class (an object "
            "with act(observation)), or bring demonstrations with `otpr data convert`."
        )
    suite, name = _find(task_id)
    return importlib.import_module(suite.module).make_expert(name, env)


def _find(task_id: str) -> tuple[Suite, str]:
    """The suite of a named task, and the task's name in it."""
    suite_name, _, name = task_id.partition("/")
    suite = SUITES.get(suite_name)
    if suite is None or name not in suite.tasks:
        raise unknown_name("task", task_id, [spec.id for spec in list_tasks()])
    return suite, name
