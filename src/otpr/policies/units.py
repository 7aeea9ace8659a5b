"""Conversion of actions between [-1, 1] and the environment's own units, by a spec's bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.spec import Spec


def in_units(actions: NDArray[Any], spec: Spec) -> NDArray[np.float64]:
    """Map actions in [-1, 1], (..., action_dim), linearly onto the spec's bounds, and clip to them."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    unit = actions.astype(np.float64)
    mapped = np.clip(low + (unit + 1) / 2 * (high - low), low, high)
    return np.where(_own(spec), unit, mapped)


def to_unit(actions: NDArray[Any], spec: Spec) -> NDArray[np.float64]:
    """Map actions in the environment's own units linearly to [-1, 1], without clipping."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    given = actions.astype(np.float64)
    return np.where(_own(spec), given, 2 * (given - low) / (high - low) - 1)


def _own(spec: Spec) -> NDArray[np.bool_]:
    """Dimensions with bounds of [-1, 1], whose numbers are kept bit for bit."""
    return (np.asarray(spec.action_low) == -1) & (np.asarray(spec.action_high) == 1)
