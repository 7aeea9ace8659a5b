"""Actions between [-1, 1] and the environment's own units, as a spec's bounds say."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.spec import Spec


def in_units(actions: NDArray[Any], spec: Spec) -> NDArray[np.float64]:
    """Actions in [-1, 1], (..., action_dim), mapped linearly onto the spec's bounds, and within them."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    unit = actions.astype(np.float64)
    mapped = np.clip(low + (unit + 1) / 2 * (high - low), low, high)
    return np.where(_own(spec), unit, mapped)


def to_unit(actions: NDArray[Any], spec: Spec) -> NDArray[np.float64]:
    """Actions in the environment's own units mapped linearly to [-1, 1]; what is beyond stays beyond."""
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    given = actions.astype(np.float64)
    return np.where(_own(spec), given, 2 * (given - low) / (high - low) - 1)


def _own(spec: Spec) -> NDArray[np.bool_]:
    """Where the bounds are [-1, 1]: these numbers stay as they are, bit for bit."""
    return (np.asarray(spec.action_low) == -1) & (np.asarray(spec.action_high) == 1)
