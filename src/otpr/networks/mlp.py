"""MLPs over flattened plans, for diffusion networks and for the velocity of a flow."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.networks.noise import NoiseNetwork


def time_embedding(k: Int[Array, ""], width: int) -> Float[Array, " width"]:
    """Sines and cosines of the noise level at geometrically spaced frequencies (Vaswani et al., 2017)."""
    half = width // 2
    frequencies = 100.0 ** (-jnp.arange(half) / half)
    angles = k * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class PlanMLP(eqx.Module):
    """An MLP of the concatenation of a state, a flattened plan and an embedding of time.

    Args:
        state_dim: length of the state.
        plan_shape: (horizon, action_dim).
        time_dim: length of the embedding of time.
        width: of the hidden layers.
        depth: their number.
        key: draws the weights.
    """

    mlp: eqx.nn.MLP
    plan_shape: tuple[int, int] = eqx.field(static=True)
    time_dim: int = eqx.field(static=True)

    def __init__(
        self,
        state_dim: int,
        plan_shape: tuple[int, int],
        time_dim: int,
        *,
        width: int,
        depth: int,
        key: PRNGKeyArray,
    ):
        self.plan_shape, self.time_dim = plan_shape, time_dim
        size = plan_shape[0] * plan_shape[1]
        # SiLU is as good as Mish here, and the cheapest smooth activation on a CPU
        self.mlp = eqx.nn.MLP(state_dim + size + time_dim, size, width, depth, jax.nn.silu, key=key)

    def __call__(
        self, state: Float[Array, " s"], plan: Float[Array, "h a"], time: Float[Array, " t"]
    ) -> Float[Array, "h a"]:
        """The output for one plan of one state."""
        return self.mlp(jnp.concatenate([state, plan.ravel(), time])).reshape(self.plan_shape)

    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], time: Float[Array, " t"]
    ) -> Float[Array, "n h a"]:
        """The outputs for n plans of one state; the shared part of the first layer is computed once.

        Training, with one plan per state, is an eighth slower this way. Weights are the left factor, because
        as the transposed right factor they make XLA's CPU backend four times as slow for a single row.
        """
        first, *others = self.mlp.layers
        states, size = state.shape[0], plans[0].size
        weight = first.weight
        shared = weight[:, :states] @ state + weight[:, states + size :] @ time + cast(Array, first.bias)
        x = shared + (weight[:, states : states + size] @ plans.reshape(len(plans), size).T).T
        for layer in others:
            x = (layer.weight @ self.mlp.activation(x).T).T + cast(Array, layer.bias)
        return x.reshape(-1, *self.plan_shape)


class NoiseMLP(NoiseNetwork):
    """An MLP as the network of a diffusion policy.

    Args:
        state_dim: length of the state.
        plan_shape: (horizon, action_dim).
        width: of the hidden layers.
        depth: their number.
        time_width: length of the embedding of the noise level.
        key: draws the weights.
    """

    body: PlanMLP
    kind: ClassVar[str] = "mlp"

    def __init__(
        self,
        state_dim: int,
        plan_shape: tuple[int, int],
        *,
        width: int,
        depth: int,
        time_width: int = 16,
        key: PRNGKeyArray,
    ):
        self.body = PlanMLP(state_dim, plan_shape, time_width, width=width, depth=depth, key=key)

    @property
    def plan_shape(self) -> tuple[int, int]:
        """See `NoiseNetwork.plan_shape`."""
        return self.body.plan_shape

    def about(self) -> dict[str, Any]:
        """See `NoiseNetwork.about`."""
        return {"kind": self.kind, **sizes(self.body.mlp), "time_width": self.body.time_dim}

    def __call__(
        self, state: Float[Array, " s"], plan: Float[Array, "h a"], k: Int[Array, ""]
    ) -> Float[Array, "h a"]:
        """See `NoiseNetwork.__call__`."""
        return self.body(state, plan, time_embedding(k, self.body.time_dim))

    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        """See `NoiseNetwork.many`."""
        return self.body.many(state, plans, time_embedding(k, self.body.time_dim))


class VelocityNetwork(eqx.Module):
    """Predicts the velocity of a plan, given the state and the time in [0, 1].

    One call takes one sample; use vmap for batches. The arguments are those of `NoiseMLP`.
    """

    body: PlanMLP

    def __init__(
        self, state_dim: int, plan_shape: tuple[int, int], *, width: int, depth: int, key: PRNGKeyArray
    ):
        self.body = PlanMLP(state_dim, plan_shape, 1, width=width, depth=depth, key=key)

    @property
    def plan_shape(self) -> tuple[int, int]:
        """(horizon, action_dim)."""
        return self.body.plan_shape

    def about(self) -> dict[str, Any]:
        """The constructor's arguments other than the dimensions and the key."""
        return dict(sizes(self.body.mlp))

    def __call__(
        self, state: Float[Array, " s"], plan: Float[Array, "h a"], t: Float[Array, ""]
    ) -> Float[Array, "h a"]:
        """The velocity of one plan at one time."""
        return self.body(state, plan, t[None])

    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], t: Float[Array, ""]
    ) -> Float[Array, "n h a"]:
        """The velocities of n plans of one state at one time."""
        return self.body.many(state, plans, t[None])


def sizes(mlp: eqx.nn.MLP) -> dict[str, int]:
    """Width and depth of an MLP's hidden layers."""
    return {"width": mlp.width_size, "depth": mlp.depth}
