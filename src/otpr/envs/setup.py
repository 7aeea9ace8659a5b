"""A task as it is set up for a run: how long its episodes may be, and what is seen of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

from otpr.envs.cameras import Camera
from otpr.envs.shifts import Shift, parse_all
from otpr.errors import OtprError, unknown_name
from otpr.spec import STATE

Observe = Literal["state", "proprioception", "images"]
"""What is seen beside the cameras: all the task tells, what the robot knows of itself, or nothing."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A task and how it is set up.

    Attributes:
        task: its name; see `otpr.envs.task_spec`.
        episode_limit: steps after which an episode is truncated, at least 1, in place of the task's own
            limit; None: its own, if it declares one.
        observe: what the observation entry "state" holds; "images" leaves it out.
        cameras: whose frames are seen, each as an observation entry of its name.
        shifts: what is different from the task that is meant; see `otpr.envs.shifts`.

    Raises:
        OtprError: one of them is not possible.
    """

    task: str
    episode_limit: int | None = None
    observe: Observe = "state"
    cameras: tuple[Camera, ...] = ()
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no task can be set up as."""
        if self.episode_limit is not None and self.episode_limit < 1:
            raise OtprError(f"The episode limit must be at least 1, given {self.episode_limit}.")
        if self.observe not in get_args(Observe):
            raise unknown_name("value of --observe", self.observe, get_args(Observe))
        names = [camera.name for camera in self.cameras]
        if twice := [name for name in names if names.count(name) > 1]:
            raise OtprError(f"The camera {twice[0]!r} is given twice; give each one once.")
        if STATE in names:
            raise OtprError(
                f"A camera called {STATE!r} cannot be told from the observation entry of that name."
            )
        if self.observe == "images" and not self.cameras:
            raise OtprError("Nothing would be seen: --observe images needs cameras, which --cameras names.")

    @classmethod
    def of(cls, task: str | Setup) -> Setup:
        """A task by its name alone, or as it is set up already."""
        return task if isinstance(task, Setup) else cls(task)

    @property
    def plain(self) -> bool:
        """Whether the task is seen as it is by itself."""
        return self.observe == "state" and not self.cameras

    @classmethod
    def seen(
        cls,
        task: str,
        episode_limit: int | None = None,
        observe: Observe = "state",
        cameras: Sequence[str] = (),
        shifts: Sequence[str] = (),
    ) -> Self:
        """As commands are told: cameras as `Camera.parse` takes them, shifts as `parse_all`.

        Raises:
            OtprError: as in the class, or a camera or a shift cannot be read.
        """
        seen = tuple(Camera.parse(text) for text in cameras)
        return cls(task, episode_limit, observe, seen, parse_all(shifts))

    def view(self) -> dict[str, Any]:
        """What is seen, as a JSON document that `viewing` reads."""
        return {"observe": self.observe, "cameras": [str(camera) for camera in self.cameras]}

    def viewing(self, view: Mapping[str, Any] | None) -> Setup:
        """The same task and limit, seen as `view()` of another setup says; None says nothing.

        Raises:
            ValueError: it is no such document.
        """
        if view is None:
            return self
        try:
            cameras = tuple(Camera.parse(str(text)) for text in view["cameras"])
            return dataclasses.replace(self, observe=view["observe"], cameras=cameras)
        except (KeyError, TypeError, OtprError) as error:
            raise ValueError(f"what is seen cannot be read: {error}") from error
