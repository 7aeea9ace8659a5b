"""`lax.scan` over states with leaves that are not arrays, such as the functions and settings of a model."""

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
    """Apply `step` repeatedly; it is compiled once.

    Args:
        step: maps a state and one input to the next state and an output. Leaves that are not arrays must not
            change.
        state: any pytree.
        inputs: stacked along the first axis; None, with `length`, where a step takes no input.
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
