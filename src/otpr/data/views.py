"""The view of a task that a data set's episodes have: parts of the state, and cameras."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import get_args

from otpr.data.recorded import Source
from otpr.envs import Setup, TaskSpec
from otpr.envs.cameras import LARGEST, SMALLEST, Camera
from otpr.envs.registry import cameras_of, known_task
from otpr.envs.setup import Observe
from otpr.envs.user_env import is_user_task
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Parts


def seen_as(task: str, parts: Parts, images: Mapping[str, Entry]) -> Setup:
    """A setup of a task with a data set's view, as far as the task supports it.

    For a named task, the vector is the full state, or the robot's proprioception if the data have just that,
    or nothing. The images are those of cameras with the same names, in the same size. A user's environment
    shows its own observation space.

    Args:
        task: the task's name.
        parts: the parts of the data's vector in order, or one part with an unknown name; empty: there is no
            vector.
        images: the data's images by name.

    Raises:
        OtprError: there is no such task.
    """
    if is_user_task(task):
        return Setup(task)
    cameras = cameras_known(known_task(task)) if images else ()
    shown = tuple(
        Camera(name, *entry.shape[:2])
        for name, entry in images.items()
        if all(SMALLEST <= size <= LARGEST for size in entry.shape[:2])
        and name != STATE
        and (not cameras or name in cameras)
    )
    if not parts:
        return Setup(task, observe="images", cameras=shown) if shown else Setup(task)
    kinds: tuple[Observe, ...] = tuple(kind for kind in get_args(Observe) if kind != "images")
    for kind in kinds:
        setup = Setup(task, observe=kind, cameras=shown)
        if _has(known_task(setup), parts):
            return setup
    return Setup(task, cameras=shown)


def _has(task: TaskSpec, parts: Parts) -> bool:
    """Whether a vector of these parts is that of the task's setup."""
    if task.parts and len(parts) > 1:
        return sorted(task.parts) == sorted(parts)  # another order is reported separately
    entry = task.spec.observation[STATE]
    return entry.shape == (sum(length for _, length in parts),)


def as_shown(task: TaskSpec, source: Source) -> TaskSpec:
    """A setup of a task with the view of an open data set; see `seen_as`.

    Raises:
        OtprError: the set's view cannot be read.
    """
    setup = Setup(task.id)
    if source.own_view is not None and not is_user_task(task.id):
        try:
            said = known_task(setup.viewing(source.own_view))
        except ValueError as error:
            raise OtprError(f"{source.path}: {error}. Collect or convert it again.") from error
        # some parts may have been selected
        vector = {STATE: (source.observation_dim,)} if source.observation_dim else {}
        images = {name: entry.shape for name, entry in source.images.items()}
        if {name: entry.shape for name, entry in said.spec.observation.items()} == {**vector, **images}:
            return said
    return known_task(seen_as(task.id, source.keys, source.images))


def hint(task: TaskSpec) -> str:
    """Advice if the entries of data and task differ."""
    parts = ""
    if task.parts and not is_user_task(task.id):
        whole, own = (
            known_task(Setup(task.id, observe=kind)).observation_keys for kind in ("state", "proprioception")
        )
        parts = (
            f" ({' '.join(whole)}: all that the task tells; {' '.join(own)}: what the robot knows of itself)"
        )
    return f"Choose the parts of the observation with --keys{parts}, or name another task with --task."


def cameras_known(task: TaskSpec) -> Sequence[str]:
    """The names of a task's cameras; empty for a user's environment or without its simulator.

    Raises:
        OtprError: the simulator is installed but cannot be created.
    """
    return _cameras(task.id) if task.installed else ()


@functools.cache
def _cameras(task: str) -> tuple[str, ...]:  # cached, because creating a simulator takes seconds
    return cameras_of(task)
