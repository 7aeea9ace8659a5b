"""A step of an optimiser."""

from __future__ import annotations

from typing import TypeVar, cast

import equinox as eqx
import optax

Model = TypeVar("Model")


def gradient_step(
    optimizer: optax.GradientTransformation, gradient: Model, state: optax.OptState, model: Model
) -> tuple[Model, optax.OptState]:
    """The model one step on, and the optimiser's state."""
    gradients, weights = cast(optax.Updates, gradient), cast(optax.Params, model)
    updates, state = optimizer.update(gradients, state, weights)
    return eqx.apply_updates(model, updates), state
