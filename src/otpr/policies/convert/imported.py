"""Helpers shared by all importers: action bounds, plans, and permutations of features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.diffusion.parametrization import Prediction
from otpr.errors import OtprError
from otpr.policies.policy import Policy
from otpr.spec import Entry, Parts, Spec

Bounds = tuple[Sequence[float], Sequence[float]]

PREDICTIONS: dict[str, Prediction] = {"epsilon": "noise", "sample": "sample"}
"""The quantities that a network may predict, by diffusers' names."""


class Imported(NamedTuple):
    """An imported policy, and information on its observation that is not in the spec."""

    policy: Policy
    parts: Parts  # of the entry "state"
    notes: tuple[str, ...]  # for the user, one sentence each


class Range(NamedTuple):
    """The minimum and maximum of each dimension of the actions that a policy was trained on."""

    least: NDArray[Any] | None
    greatest: NDArray[Any] | None

    def listed(self) -> str:
        """Both in words; empty if they are unknown."""
        if self.least is None or self.greatest is None:
            return ""
        return f"from {listed(self.least)} to {listed(self.greatest)}"


def listed(numbers: NDArray[Any]) -> str:
    """Numbers in words."""
    return " ".join(f"{x:.6g}" for x in numbers.tolist())


def planned(
    path: Path,
    entries: Mapping[str, Entry],
    dim: int,
    bounds: Bounds | None,
    rate: float | None,
    called: str,
    **plan: int,
) -> Spec:
    """The spec of an imported policy.

    Args:
        path: the policy's path, for errors.
        entries: the entries of the observation.
        dim: number of action dimensions.
        bounds: the actions that -1 and 1 represent in otpr, one number for each dimension or one for all, as
            in `otpr data convert`. None: -1 and 1.
        rate: actions per second, in Hz.
        called: the other library's names for the numbers of the plan, for errors.
        plan: `history`, `horizon`, `execute` and `offset`.

    Raises:
        OtprError: the bounds have another number of dimensions, or the plan is not valid.
    """
    low, high = (tuple(end) * (dim if len(end) == 1 else 1) for end in bounds or ((-1.0,), (1.0,)))
    if len(low) != dim or len(high) != dim:
        raise OtprError(
            f"{path}: its actions have {dim} dimensions, and the bounds given {len(low)} and {len(high)}."
        )
    try:
        return Spec(entries, low, high, rate, **plan)
    except OtprError as error:
        raise OtprError(f"{path}: {called}: {error}") from error


def check_unit(path: Path, trained: Range) -> None:
    """Check that actions stay within [-1, 1]; refuse a policy with a larger or unknown range."""
    least, greatest = trained
    if least is None or greatest is None or (least < -1 - 1e-6).any() or (greatest > 1 + 1e-6).any():
        said = f": {trained.listed()}" if trained.listed() else ""
        reach = "may leave" if least is None else "leave"
        raise OtprError(
            f"{path}: its actions {reach} [-1, 1]{said}. Say what their bounds are: --task TASK takes those "
            "of a task; or give --action-low and --action-high, one number or one a dimension."
        )


def beyond(trained: Range, spec: Spec) -> tuple[str, ...]:
    """A note, if the actions that a policy was trained on exceed its bounds."""
    least, greatest = trained
    if least is None or greatest is None:
        return ()
    low, high = np.asarray(spec.action_low), np.asarray(spec.action_high)
    rounding = 1e-6 * (high - low)
    if (least >= low - rounding).all() and (greatest <= high + rounding).all():
        return ()
    pairs = dict.fromkeys(zip(low.tolist(), high.tolist(), strict=True))
    bounds = " ".join(f"[{x:g}, {y:g}]" for x, y in pairs)
    return (
        f"The actions it was trained on go {trained.listed()}: some are beyond the bounds {bounds}, and are "
        "clipped to them.",
    )


def ends(low: NDArray[Any], high: NDArray[Any], spec: Spec) -> tuple[Any, Any]:
    """The actions that -1 and 1 of a network represent, for `Diffusion.low` and `high`; None: -1 and 1.

    Args:
        low: the action, in its own units, that -1 represents.
        high: the action that 1 represents.
        spec: has the bounds of otpr's actions.
    """
    least, greatest = np.asarray(spec.action_low), np.asarray(spec.action_high)
    units = [2 * (end.astype(np.float64) - least) / (greatest - least) - 1 for end in (low, high)]
    if all(
        math.isclose(x, side, abs_tol=1e-7) for end, side in zip(units, (-1, 1), strict=True) for x in end
    ):
        return None, None
    return jnp.asarray(units[0], jnp.float32), jnp.asarray(units[1], jnp.float32)


def state_order(sizes: Mapping[str, int], ours: Sequence[str], history: int) -> NDArray[np.int64]:
    """The index of each number of otpr's state in another library's state.

    Args:
        sizes: the length of each part of one step, in the other library's order.
        ours: the parts in otpr's order.
        history: number of steps in a state.
    """
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    step = np.concatenate([starts[name] + np.arange(sizes[name]) for name in ours])
    return np.concatenate([i * len(step) + step for i in range(history)])


def with_columns(
    arrays: Mapping[str, NDArray[Any]], order: NDArray[np.int64], step_dim: int
) -> dict[str, NDArray[Any]]:
    """Permute the state's columns in a U-Net's weights; arrays of another shape are left unchanged."""
    columns = np.concatenate([np.arange(step_dim), step_dim + order])
    return {
        name: x[:, columns]
        if name.endswith("cond_encoder.1.weight") and x.ndim == 2 and x.shape[1] == len(columns)
        else x
        for name, x in arrays.items()
    }


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin with `prefix`, with the prefix removed."""
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}


def renamed(arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays with parts of their names replaced, in the given order."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = array
    return found


def check_finite(file: Path, name: str, array: Any) -> None:
    """Check that an array consists of finite weights."""
    if not isinstance(array, np.ndarray) or not np.isfinite(array.astype(np.float32)).all():
        raise OtprError(f"{file}: {name} is not finite, or no weights.")
