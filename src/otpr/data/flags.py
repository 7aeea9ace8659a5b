"""Strict reading of flags: valid values, fields of success, and the end of an episode."""

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
"""Names under which environments report success after each step."""


class NotFlagsError(OtprError):
    """A field holds numbers that are not flags, which concerns the whole set and not one episode."""


def as_flags(values: NDArray[Any], where: str) -> NDArray[np.bool_]:
    """Flags by step, (steps,).

    Args:
        values: booleans, or numbers that are all 0 or 1; (steps,) or (steps, 1).
        where: the file and the place in it, for errors.

    Raises:
        NotFlagsError: there is another number; the message shows it.
        OtprError: there is NaN, or the values are not numbers by step.
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
    """Success by step, and the field that states it.

    Args:
        told: the flags of each field that records success, by the field's name.
        place: the episode, for errors.

    Returns:
        The flags and the first field's name; None and "" if there is no such field.

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
    """The length of an episode according to a flag of its end, (steps,); None if the flag is never set.

    The flag is set on the last step, or on all steps from the end on, of which only the first belongs to the
    episode.

    Raises:
        OtprError: the flag is set and later unset.
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
