"""The interface of diffusion networks: a prediction for a noisy plan, given a state and a noise level."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float, Int


class NoiseNetwork(eqx.Module):
    """Predicts the noise in a plan, or an equivalent quantity, given the state and the noise level.

    One call takes one sample; use vmap for batches. A constructor takes the length of the state, the shape of
    the plan, (horizon, action_dim), the entries of `about` except the kind, and a key.
    """

    kind: ClassVar[str]
    """The network's name in a policy's file."""

    @property
    @abc.abstractmethod
    def plan_shape(self) -> tuple[int, int]:
        """(horizon, action_dim)."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """The kind and the constructor's sizes, as a JSON document."""

    def __call__(
        self, state: Float[Array, " s"], plan: Float[Array, "h a"], k: Int[Array, ""]
    ) -> Float[Array, "h a"]:
        """The prediction for one noisy plan."""
        return self.many(state, plan[None], k)[0]

    @abc.abstractmethod
    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        """The predictions for n noisy plans of one state, at one level."""
