"""A task as the episodes of a data set show it: which parts of its state, through which cameras."""

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
    """A task, set up to be seen as a data set shows it; what cannot be seen so is left out.

    Of a named task the vector is all that the task tells, or what the robot knows of itself where the data
    have just that, or nothing. The images are those of its cameras of the same names, in the same size. An
    environment of the user's shows what its observation space says.

    Args:
        task: its name.
        parts: the parts of the data's vector in their order, or one of unknown name; none: there is no
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
    """Whether a vector of these parts is the task's, as it is set up."""
    if task.parts and len(parts) > 1:
        return sorted(task.parts) == sorted(parts)  # another order is a difference of its own
    entry = task.spec.observation[STATE]
    return entry.shape == (sum(length for _, length in parts),)


def as_shown(task: TaskSpec, source: Source) -> TaskSpec:
    """A task, set up to be seen as the episodes of an open data set show it; see `seen_as`.

    Raises:
        OtprError: what the set says of it cannot be read.
    """
    setup = Setup(task.id)
    if source.own_view is not None and not is_user_task(task.id):
        try:
            said = known_task(setup.viewing(source.own_view))
        except ValueError as error:
            raise OtprError(f"{source.path}: {error}. Collect or convert it again.") from error
        # parts of it may have been chosen
        vector = {STATE: (source.observation_dim,)} if source.observation_dim else {}
        images = {name: entry.shape for name, entry in source.images.items()}
        if {name: entry.shape for name, entry in said.spec.observation.items()} == {**vector, **images}:
            return said
    return known_task(seen_as(task.id, source.keys, source.images))


def hint(task: TaskSpec) -> str:
    """What to do where the entries of data and task differ."""
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
    """The names of a task's cameras; none where its simulator is not installed, or it is the user's.

    Raises:
        OtprError: its simulator is installed and cannot be made.
    """
    return _cameras(task.id) if task.installed else ()


@functools.cache
def _cameras(task: str) -> tuple[str, ...]:  # a simulator takes seconds to make
    return cameras_of(task)
