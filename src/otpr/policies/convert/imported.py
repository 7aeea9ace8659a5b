"""What every policy of another library is made of on its way to ours: bounds, plans, orders of numbers."""

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
"""What a network predicts, by diffusers' names."""


class Imported(NamedTuple):
    """A policy, and what is known of its observation beside its spec."""

    policy: Policy
    parts: Parts  # what the entry "state" is made of
    notes: tuple[str, ...]  # what is to be known of it, a sentence each


class Range(NamedTuple):
    """The least and the greatest number of each dimension of the actions that a policy was trained on."""

    least: NDArray[Any] | None
    greatest: NDArray[Any] | None

    def listed(self) -> str:
        """Both in words; nothing where they are not known."""
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
        path: what errors name.
        entries: its observation.
        dim: dimensions of its actions.
        bounds: what -1 and 1 of ours stand for; one number stands for all dimensions, as in `otpr data
            convert`. None: for themselves.
        rate: actions in a second.
        called: what the other library calls the numbers of the plan, for errors.
        plan: `history`, `horizon`, `execute` and `offset`.

    Raises:
        OtprError: the bounds have another number of dimensions, or there is no such plan.
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
    """Refuse to take -1 and 1 for the bounds of actions that leave them, or that say nothing."""
    least, greatest = trained
    if least is None or greatest is None or (least < -1 - 1e-6).any() or (greatest > 1 + 1e-6).any():
        said = f": {trained.listed()}" if trained.listed() else ""
        reach = "may leave" if least is None else "leave"
        raise OtprError(
            f"{path}: its actions {reach} [-1, 1]{said}. Say what their bounds are: --task TASK takes those "
            "of a task; or give --action-low and --action-high, one number or one a dimension."
        )


def beyond(trained: Range, spec: Spec) -> tuple[str, ...]:
    """Whether the actions that a policy was trained on leave its bounds, a sentence."""
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
    """What -1 and 1 of a network stand for, as `Diffusion.low` and `high`; None: for themselves.

    Args:
        low: the action, in its own units, that -1 stands for.
        high: the one that 1 stands for.
        spec: with the bounds of our actions.
    """
    least, greatest = np.asarray(spec.action_low), np.asarray(spec.action_high)
    units = [2 * (end.astype(np.float64) - least) / (greatest - least) - 1 for end in (low, high)]
    if all(
        math.isclose(x, side, abs_tol=1e-7) for end, side in zip(units, (-1, 1), strict=True) for x in end
    ):
        return None, None
    return jnp.asarray(units[0], jnp.float32), jnp.asarray(units[1], jnp.float32)


def state_order(sizes: Mapping[str, int], ours: Sequence[str], history: int) -> NDArray[np.int64]:
    """Where each number of our state lies in another library's.

    Args:
        sizes: how many numbers each part of one step has, in the other library's order.
        ours: the parts in our order.
        history: how many steps follow one another.
    """
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))
    step = np.concatenate([starts[name] + np.arange(sizes[name]) for name in ours])
    return np.concatenate([i * len(step) + step for i in range(history)])


def with_columns(
    arrays: Mapping[str, NDArray[Any]], order: NDArray[np.int64], step_dim: int
) -> dict[str, NDArray[Any]]:
    """The weights of a U-Net whose state's numbers are put in another order; what does not fit stays."""
    columns = np.concatenate([np.arange(step_dim), step_dim + order])
    return {
        name: x[:, columns]
        if name.endswith("cond_encoder.1.weight") and x.ndim == 2 and x.shape[1] == len(columns)
        else x
        for name, x in arrays.items()
    }


def under(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): x for name, x in arrays.items() if name.startswith(prefix)}


def renamed(arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """The arrays with parts of their names replaced, in the order given."""
    found: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        found[name] = array
    return found


def check_finite(file: Path, name: str, array: Any) -> None:
    """Refuse what are no weights, and weights with NaN or infinity."""
    if not isinstance(array, np.ndarray) or not np.isfinite(array.astype(np.float32)).all():
        raise OtprError(f"{file}: {name} is not finite, or no weights.")
