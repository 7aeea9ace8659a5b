"""Distribution shifts: named differences from the task that a policy was trained on, in levels.

This module defines the shifts and their levels. `otpr.envs.shifts.shifted` wraps a simulator, which is not
edited. docs/shifts.md defines each shift in physical units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from otpr.errors import OtprError, unknown_name

RANDOM = "random"
"""The shift that varies from episode to episode."""

LEVELS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Definition:
    """The definition of a shift.

    Attributes:
        amounts: the amounts at levels 1, 2 and 3.
        unit: the unit of `amounts`, as text that follows a number.
        text: a description of the difference.
        images: whether the shift only changes camera images.
    """

    amounts: tuple[float, float, float]
    unit: str
    text: str
    images: bool = False


SHIFTS: dict[str, Definition] = {
    "robot-start": Definition((0.02, 0.05, 0.1), "m", "the hand starts so far from where it would"),
    "object-start": Definition(
        (1.25, 1.5, 2.0),
        "times the region",
        "objects and goals start outside the region of training, in one so much wider",
    ),
    "push": Definition((0.02, 0.04, 0.08), "m", "an object is displaced once, at some step"),
    "action-noise": Definition((0.1, 0.2, 0.4), "of the bound", "actions have Gaussian noise"),
    "gain": Definition((0.8, 0.6, 0.4), "times", "actions are smaller than asked for"),
    "latency": Definition((1, 2, 4), "steps", "actions are executed later"),
    "sensor-noise": Definition((0.002, 0.005, 0.01), "m", "observed positions have Gaussian noise"),
    "sensor-offset": Definition(
        (0.002, 0.005, 0.01), "m", "each coordinate of observed positions is off by a constant"
    ),
    "friction": Definition((0.7, 0.5, 0.3), "times", "all surfaces are more slippery"),
    "mass": Definition((2, 4, 8), "times", "objects are heavier, with their inertia"),
    "camera": Definition((0.01, 0.03, 0.06), "m", "cameras stand elsewhere", images=True),
    "light": Definition((0.7, 0.5, 0.3), "times", "all lights are dimmer", images=True),
    "texture": Definition((0.15, 0.3, 0.6), "of another colour", "surfaces are tinted", images=True),
}
"""The shifts by name."""


@dataclasses.dataclass(frozen=True)
class Shift:
    """A shift at a level.

    Attributes:
        name: one of `SHIFTS`, or `"random"`: in each episode none or one of the task's possible shifts.
        level: 1, 2 or 3; for `"random"` the highest level that is drawn.

    Raises:
        OtprError: there is no such shift or level.
    """

    name: str
    level: int

    def __post_init__(self) -> None:
        """Check name and level."""
        if self.name not in SHIFTS and self.name != RANDOM:
            raise unknown_name("shift", self.name, [*SHIFTS, RANDOM])
        if self.level not in LEVELS:
            raise OtprError(f"A shift has the levels 1, 2 and 3; given {self.name}:{self.level}.")

    @classmethod
    def parse(cls, text: str) -> Shift:
        """Parse `"NAME:LEVEL"`, e.g. `"push:2"`; `"random"` alone is `"random:3"`.

        Raises:
            OtprError: the text has another form, or there is no such shift or level.
        """
        name, colon, level = text.partition(":")
        if name == RANDOM and not colon:
            return cls(RANDOM, max(LEVELS))
        if colon and not (level.isascii() and level.isdigit() and len(level) == 1):
            raise OtprError(
                f"A shift is written NAME:LEVEL, the level 1, 2 or 3, e.g. 'push:2'; given {text!r}."
            )
        if not colon:
            Shift(name, 1)  # reports a misspelt name first
            raise OtprError(f"The shift {text!r} needs a level, 1, 2 or 3, e.g. '{text}:2'.")
        return cls(name, int(level))

    @property
    def amount(self) -> float:
        """The amount in the unit of its definition."""
        return SHIFTS[self.name].amounts[self.level - 1]

    def __str__(self) -> str:
        """The shift in the form that `parse` reads."""
        return f"{self.name}:{self.level}"


def parse_all(texts: Sequence[str]) -> tuple[Shift, ...]:
    """Parse the shifts of a command, each with a different name.

    Raises:
        OtprError: a shift cannot be parsed, a name is given twice, or "random" is combined with others.
    """
    shifts = tuple(Shift.parse(text) for text in texts)
    names = [shift.name for shift in shifts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise OtprError(f"The shift {twice[0]!r} is given twice; give each one once.")
    if RANDOM in names and len(names) > 1:
        raise OtprError("The shift 'random' draws from all of them; give it alone.")
    return shifts
