"""Actions from the bounds that a file or a user states to [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError

Bounds = tuple[tuple[float, ...], tuple[float, ...]]
"""The lower and the upper ends of actions, one a dimension, in whatever units."""

# An overshoot that is rounding, in units of the range's half width: it is clipped.
_ROUNDING = 1e-6


class ActionRangeError(OtprError):
    """An action is outside the range; whoever reads on can tell the range of the whole set."""


def is_unit(bounds: Bounds) -> bool:
    """Whether the bounds are [-1, 1] in every dimension."""
    return set(bounds[0]) == {-1.0} and set(bounds[1]) == {1.0}


def to_unit(
    actions: NDArray[Any], bounds: Bounds | None, place: str, *, clip: bool = False
) -> tuple[NDArray[np.float64], int, int]:
    """Actions mapped linearly from their bounds to [-1, 1].

    Args:
        actions: (T, action_dim) as recorded.
        bounds: what becomes -1 and 1, one number a dimension; None: they are in [-1, 1] already.
        place: the file and the place in it, for errors.
        clip: numbers outside the bounds are clipped to them.

    Returns:
        The actions; how many numbers overshot by rounding; how many were clipped otherwise.

    Raises:
        ActionRangeError: a number is outside the bounds, and `clip` is False.
    """
    given = actions
    actions = actions.astype(np.float64)
    if bounds is not None and not is_unit(bounds):  # else they stay as they are, bit for bit
        low, high = np.asarray(bounds[0]), np.asarray(bounds[1])
        actions = 2 * (actions - low) / (high - low) - 1
    over = (np.abs(actions) > 1) & np.isfinite(actions)  # what is not finite is refused by name later
    far = over & (np.abs(actions) > 1 + _ROUNDING)
    if far.any() and not clip:
        step, dim = (int(index) for index in np.argwhere(far)[0])
        raise ActionRangeError(
            f"{place}: actions leave {shown(bounds)}, first at step {step} with {given[step, dim]:g}."
        )
    actions[over] = np.sign(actions[over])
    return actions, int((over & ~far).sum()), int(far.sum())


def shown(bounds: Bounds | None) -> str:
    """Bounds in words: one interval where all dimensions have the same, else one a dimension."""
    pairs = [(-1.0, 1.0)] if bounds is None else list(dict.fromkeys(zip(*bounds, strict=True)))
    if bounds is not None and len(pairs) > 1:
        pairs = list(zip(*bounds, strict=True))
    return " ".join(f"[{low:.6g}, {high:.6g}]" for low, high in pairs)
