"""Critics over whole action chunks: a scalar function of (state, chunk), and an ensemble of them.

Source: Li et al., "Reinforcement learning with action chunking", 2025.
"""

from __future__ import annotations

import functools
import operator
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class StateActionMLP(eqx.Module):
    """A scalar function of (state, action) whose first layer is a sum of a state part and an action part.

    The split makes the value of every pair of n states and m actions cost n + m first layers instead of n *
    m. Layer normalisation keeps values bounded away from the data (Ball et al., RLPD, 2023).
    """

    state_layer: eqx.nn.Linear
    action_layer: eqx.nn.Linear
    hidden: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    out: eqx.nn.Linear

    def __init__(self, state_dim: int, action_dim: int, *, width: int, depth: int, key: PRNGKeyArray):
        keys = jax.random.split(key, depth + 2)
        self.state_layer = eqx.nn.Linear(state_dim, width, key=keys[0])
        self.action_layer = eqx.nn.Linear(action_dim, width, use_bias=False, key=keys[1])
        self.hidden = tuple(eqx.nn.Linear(width, width, key=k) for k in keys[2 : depth + 1])
        self.norms = tuple(eqx.nn.LayerNorm(width) for _ in range(depth))
        self.out = eqx.nn.Linear(width, "scalar", key=keys[depth + 1])

    def state_part(self, states: Float[Array, "n s"]) -> Float[Array, "n w"]:
        """The contribution of each state to the first layer."""
        return _centred(self.state_layer, states)

    def action_part(self, actions: Float[Array, "m a"]) -> Float[Array, "m w"]:
        """The contribution of each action to the first layer."""
        return _centred(self.action_layer, actions)

    def from_parts(self, x: Float[Array, "*n w"]) -> Float[Array, "*n"]:
        """The value, from the sum of a state part and an action part."""
        for norm, layer in zip(self.norms, (*self.hidden, None), strict=True):
            x = jax.nn.relu(_normalised(norm, x))
            if layer is not None:
                x = _centred(layer, x)
        # a sum instead of a product with a vector, so that XLA fuses it with the previous operations
        return jnp.sum(x * self.out.weight[0], axis=-1) + cast(Array, self.out.bias)[0]

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """The value of each pair (s_i, a_i)."""
        return self.from_parts(self.state_part(states) + self.action_part(actions))


def _centred(layer: eqx.nn.Linear, x: Float[Array, "*n i"]) -> Float[Array, "*n w"]:
    """The layer's outputs minus their mean over the width: the first half of layer normalisation.

    The mean is removed from the weights once instead of from every output, which saves a pass over the
    outputs.
    """
    y = x @ (layer.weight - jnp.mean(layer.weight, axis=0)).T
    return y if layer.bias is None else y + (layer.bias - jnp.mean(layer.bias))


def _normalised(norm: eqx.nn.LayerNorm, x: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
    """The second half of layer normalisation, for outputs with mean 0."""
    # one division per row instead of one per entry
    precision = 1 / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + norm.eps)
    return x * precision * cast(Array, norm.weight) + cast(Array, norm.bias)


class QEnsemble(eqx.Module):
    """Independent Q networks, their parameters stacked along a leading axis of length `size`."""

    members: StateActionMLP
    size: int = eqx.field(static=True)
    width: int = eqx.field(static=True)
    depth: int = eqx.field(static=True)

    def __init__(
        self, state_dim: int, action_dim: int, *, size: int, width: int, depth: int, key: PRNGKeyArray
    ):
        self.size, self.width, self.depth = size, width, depth

        def make(key: PRNGKeyArray) -> StateActionMLP:
            return StateActionMLP(state_dim, action_dim, width=width, depth=depth, key=key)

        self.members = eqx.filter_vmap(make)(jax.random.split(key, size))

    @property
    def action_dim(self) -> int:
        """Length of a chunk."""
        size = self.members.action_layer.in_features
        assert isinstance(size, int)
        return size

    def about(self) -> dict[str, int]:
        """The constructor's arguments other than the dimensions and the key."""
        return {"size": self.size, "width": self.width, "depth": self.depth}

    @property
    def unstacked(self) -> list[StateActionMLP]:
        """The networks one by one, because separate matrix products are faster than a batched one."""
        arrays, static = eqx.partition(self.members, eqx.is_array)
        return [eqx.combine(jax.tree.map(operator.itemgetter(i), arrays), static) for i in range(self.size)]

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, "size n"]:
        """Q of each pair (s_i, a_i), by each member."""
        return jnp.stack([member(states, actions) for member in self.unstacked])

    def minimum(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """The minimum over the members: the pessimistic estimate for targets and costs."""
        return jnp.min(self(states, actions), axis=0)

    def pairwise_minimum(
        self, states: Float[Array, "n s"], actions: Float[Array, "m a"]
    ) -> Float[Array, "n m"]:
        """`minimum` of every pair (s_i, a_j), computed in blocks to bound memory and fit the cache."""
        members, m, at_once = self.unstacked, actions.shape[0], _pairs_at_once()

        def of_row(state_parts: list[Array]) -> Float[Array, " m"]:
            def of_pair(action_parts: list[Array]) -> Float[Array, ""]:
                parts = zip(members, state_parts, action_parts, strict=True)
                return functools.reduce(jnp.minimum, [member.from_parts(s + a) for member, s, a in parts])

            action_parts = [member.action_part(actions) for member in members]
            return jax.lax.map(of_pair, action_parts, batch_size=min(m, at_once))

        state_parts = [member.state_part(states) for member in members]
        return jax.lax.map(of_row, state_parts, batch_size=max(1, at_once // m))


def _pairs_at_once() -> int:
    """Number of pairs whose values are computed together.

    On a CPU, 1024 pairs at a width of 256 take a megabyte, which fits a core's cache; 2048 are a seventh
    slower. An accelerator would be idle with such small blocks and gets 64 megabytes.
    """
    return 1024 if jax.default_backend() == "cpu" else 65_536
