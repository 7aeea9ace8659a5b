"""`lax.scan` over states that are not arrays alone: a model has functions and settings among its leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax

State = TypeVar("State")


def scan_state(
    step: Callable[[State, Any], tuple[State, Any]],
    state: State,
    inputs: Any = None,
    length: int | None = None,
) -> tuple[State, Any]:
    """Apply `step` again and again, compiled once.

    Args:
        step: from a state and one input to the next state and an output. What is no array must stay the same.
        state: any pytree.
        inputs: stacked along the first axis; None with `length` for none.
        length: number of steps, where there are no inputs.

    Returns:
        The last state, and the outputs stacked.
    """
    arrays, static = eqx.partition(state, eqx.is_array)

    def body(arrays: Any, x: Any) -> tuple[Any, Any]:
        state, output = step(eqx.combine(arrays, static), x)
        return eqx.filter(state, eqx.is_array), output

    arrays, outputs = jax.lax.scan(body, arrays, inputs, length)
    return eqx.combine(arrays, static), outputs
