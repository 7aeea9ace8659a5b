"""Mapping of actions from the bounds stated by a file or a user to [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError

Bounds = tuple[tuple[float, ...], tuple[float, ...]]
"""The lower and upper bounds of actions, one number for each dimension, in any units."""

# Overshoot that counts as rounding and is clipped, in units of the range's half width.
_ROUNDING = 1e-6


class ActionRangeError(OtprError):
    """An action is outside its range. The caller adds the range of the whole set."""


def is_unit(bounds: Bounds) -> bool:
    """Whether the bounds are [-1, 1] in every dimension."""
    return set(bounds[0]) == {-1.0} and set(bounds[1]) == {1.0}


def to_unit(
    actions: NDArray[Any], bounds: Bounds | None, place: str, *, clip: bool = False
) -> tuple[NDArray[np.float64], int, int]:
    """Map actions linearly from their bounds to [-1, 1].

    Args:
        actions: (T, action_dim), as recorded.
        bounds: the actions that become -1 and 1, one number for each dimension; None: actions are in [-1, 1]
            already.
        place: the file and the place in it, for errors.
        clip: whether to clip numbers outside the bounds.

    Returns:
        The actions; the number of values that overshot by rounding; the number of other clipped values.

    Raises:
        ActionRangeError: a number is outside the bounds, and `clip` is False.
    """
    given = actions
    actions = actions.astype(np.float64)
    if bounds is not None and not is_unit(bounds):  # otherwise unchanged, bit for bit
        low, high = np.asarray(bounds[0]), np.asarray(bounds[1])
        actions = 2 * (actions - low) / (high - low) - 1
    over = (np.abs(actions) > 1) & np.isfinite(actions)  # non-finite numbers are refused later
    far = over & (np.abs(actions) > 1 + _ROUNDING)
    if far.any() and not clip:
        step, dim = (int(index) for index in np.argwhere(far)[0])
        raise ActionRangeError(
            f"{place}: actions leave {shown(bounds)}, first at step {step} with {given[step, dim]:g}."
        )
    actions[over] = np.sign(actions[over])
    return actions, int((over & ~far).sum()), int(far.sum())


def shown(bounds: Bounds | None) -> str:
    """Bounds in words: one interval if all dimensions share it, otherwise one for each dimension."""
    pairs = [(-1.0, 1.0)] if bounds is None else list(dict.fromkeys(zip(*bounds, strict=True)))
    if bounds is not None and len(pairs) > 1:
        pairs = list(zip(*bounds, strict=True))
    return " ".join(f"[{low:.6g}, {high:.6g}]" for low, high in pairs)
