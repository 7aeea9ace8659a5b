"""Flags of files, read strictly: which values say yes and no, where success stands, where an episode ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.recorded import by_step
from otpr.errors import OtprError

SUCCESS = (
    "success",
    "is_success",
    "goal_achieved",
    "solved",
    "is_solved",
    "succeeded",
    "task_success",
    "task_solved",
)
"""Names under which environments report, after each step, whether the task is solved."""


class NotFlagsError(OtprError):
    """A field holds numbers that are no flags: not one episode of the set is bad, but the field."""


def as_flags(values: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Flags by step, (steps,).

    Args:
        values: booleans, or numbers that are all 0 or 1; (steps,) or (steps, 1).
        where: the file and the place in it, as errors name it.

    Raises:
        NotFlagsError: another number is among them; it is shown.
        OtprError: NaN is among them, or they are no numbers by step.
    """
    numbers = by_step(values, where)
    if numbers.dtype == np.bool_:
        return numbers
    wrong = np.flatnonzero((numbers != 0) & (numbers != 1))  # NaN is neither
    if not len(wrong):
        return numbers != 0
    other = wrong[~np.isnan(numbers[wrong])]
    first = (other if len(other) else wrong)[0]
    raise (NotFlagsError if len(other) else OtprError)(
        f"{where} hold values other than 0 and 1, the first of them {numbers[first]:g} in row {first}; "
        "mend the file."
    )


def agreed(told: Mapping[str, NDArray[np.bool_]], place: str) -> tuple[NDArray[np.bool_] | None, str]:
    """Success by step, and the field that tells it.

    Args:
        told: the flags of each field that records success, by the field's name.
        place: the episode, as errors name it.

    Returns:
        The flags and the first field's name; None and "" where there is no such field.

    Raises:
        OtprError: two fields contradict each other.
    """
    first = next(iter(told), None)
    if first is None:
        return None, ""
    for name, flags in told.items():
        if not np.array_equal(flags, told[first]):
            raise OtprError(
                f"{place}: {first} and {name} contradict each other on success; "
                "take the one out that does not say after which steps the task is solved."
            )
    return told[first], first


def end_of(flags: NDArray[np.bool_], where: str) -> int | None:
    """How many steps an episode has by one of its flags of the end, (steps,), if it ends by that flag.

    The flag stands on the last step, or on all steps from the end on: those after the first of them follow
    the end. None: the flag is nowhere.

    Raises:
        OtprError: the flag is set, and later it is not.
    """
    if not flags.any():
        return None
    first = int(np.argmax(flags))
    if not flags[first:].all():
        later = first + int(np.argmin(flags[first:]))
        raise OtprError(
            f"{where} are 1 in row {first} and 0 in row {later}, but an episode ends once; "
            "mend or leave out that episode."
        )
    return first + 1
