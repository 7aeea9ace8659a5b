"""Setups of tasks: episode limit, view and shifts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

from otpr.envs.cameras import Camera
from otpr.envs.shifts import Shift, parse_all
from otpr.errors import OtprError, unknown_name
from otpr.spec import STATE

Observe = Literal["state", "proprioception", "images"]
"""The observation besides cameras: the full state, the robot's proprioception, or nothing."""


@dataclasses.dataclass(frozen=True)
class Setup:
    """A task with its setup.

    Attributes:
        task: the task's name; see `otpr.envs.task_spec`.
        episode_limit: steps after which an episode is truncated, at least 1; None: the task's own limit, if
            it declares one.
        observe: the content of the observation entry "state"; "images" leaves it out.
        cameras: the observed cameras, each as an observation entry of its name.
        shifts: the differences from the task that the policy was trained on; see `otpr.envs.shifts`.

    Raises:
        OtprError: a value is not valid.
    """

    task: str
    episode_limit: int | None = None
    observe: Observe = "state"
    cameras: tuple[Camera, ...] = ()
    shifts: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        """Check the values."""
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
        """The setup of a task's name, or the given setup."""
        return task if isinstance(task, Setup) else cls(task)

    @property
    def plain(self) -> bool:
        """Whether the task has its default view."""
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
        """A setup from command-line values: cameras for `Camera.parse`, shifts for `parse_all`.

        Raises:
            OtprError: as in the class, or a camera or a shift cannot be parsed.
        """
        seen = tuple(Camera.parse(text) for text in cameras)
        return cls(task, episode_limit, observe, seen, parse_all(shifts))

    def view(self) -> dict[str, Any]:
        """The view as a JSON document for `viewing`."""
        return {"observe": self.observe, "cameras": [str(camera) for camera in self.cameras]}

    def viewing(self, view: Mapping[str, Any] | None) -> Setup:
        """The same task and limit with a view from `view()` of another setup; None keeps the view.

        Raises:
            ValueError: the document is not a view.
        """
        if view is None:
            return self
        try:
            cameras = tuple(Camera.parse(str(text)) for text in view["cameras"])
            return dataclasses.replace(self, observe=view["observe"], cameras=cameras)
        except (KeyError, TypeError, OtprError) as error:
            raise ValueError(f"what is seen cannot be read: {error}") from error
