"""Success and ends of the episodes of Minari data sets, from their flags."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.flags import SUCCESS, agreed, as_flags, end_of
from otpr.data.reading import stored
from otpr.data.recorded import Recorded, first_steps
from otpr.errors import OtprError


def success_of(group: h5py.Group, place: str, steps: int) -> tuple[NDArray[np.bool_] | None, str]:
    """The steps after which the task was solved, (steps,), and the field that states it."""
    told: dict[str, NDArray[np.bool_]] = {}
    infos = group.get("infos")
    present = set(infos) if isinstance(infos, h5py.Group) else set[str]()
    for name in SUCCESS:
        if name not in present:
            continue
        field = f"infos/{name}"
        flags = as_flags(stored(group, field), f"{place}: {field}")
        if len(flags) == steps + 1 > 1:
            # Minari's collector writes an entry for the reset before the steps
            flags[1] |= flags[0]
            flags = flags[1:]
        if len(flags) != steps:
            raise OtprError(
                f"{place}: {field} has length {len(flags)}, expected {steps}, as many as actions, or one "
                "more for the reset; mend or leave out that episode."
            )
        told[field] = flags
    return agreed(told, place)


def ended(recorded: Recorded, group: h5py.Group) -> Recorded:
    """The episode up to its end, with the flags of its end."""
    place, steps = recorded.place, len(recorded.actions)
    ends: dict[str, int | None] = {}
    for name in ("terminations", "truncations"):
        flags = as_flags(stored(group, name), f"{place}: {name}")
        if len(flags) != steps:
            raise OtprError(
                f"{place}: {name} have length {len(flags)}, expected {steps}, as many as actions; "
                "mend or leave out that episode."
            )
        ends[name] = end_of(flags, f"{place}: {name}")
    kept = min((end for end in ends.values() if end is not None), default=steps)
    return dataclasses.replace(
        first_steps(recorded, kept),
        terminated=ends["terminations"] == kept,
        truncated=ends["truncations"] == kept,
        after_end=steps - kept,
    )
