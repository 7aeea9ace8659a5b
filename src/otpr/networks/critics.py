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
        """What each state adds to the first layer."""
        return _centred(self.state_layer, states)

    def action_part(self, actions: Float[Array, "m a"]) -> Float[Array, "m w"]:
        """What each action adds to the first layer."""
        return _centred(self.action_layer, actions)

    def from_parts(self, x: Float[Array, "*n w"]) -> Float[Array, "*n"]:
        """The value, from the sum of a state part and an action part."""
        for norm, layer in zip(self.norms, (*self.hidden, None), strict=True):
            x = jax.nn.relu(_normalised(norm, x))
            if layer is not None:
                x = _centred(layer, x)
        # a sum and no product with a vector: it is one pass over the outputs with what stands before it
        return jnp.sum(x * self.out.weight[0], axis=-1) + cast(Array, self.out.bias)[0]

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """The value of each pair (s_i, a_i)."""
        return self.from_parts(self.state_part(states) + self.action_part(actions))


def _centred(layer: eqx.nn.Linear, x: Float[Array, "*n i"]) -> Float[Array, "*n w"]:
    """The layer's outputs, their mean over the width removed: the first half of layer normalisation.

    The mean is taken out of the weights, once, and not out of every output: the same numbers, and one pass
    over the outputs less.
    """
    y = x @ (layer.weight - jnp.mean(layer.weight, axis=0)).T
    return y if layer.bias is None else y + (layer.bias - jnp.mean(layer.bias))


def _normalised(norm: eqx.nn.LayerNorm, x: Float[Array, "*n w"]) -> Float[Array, "*n w"]:
    """The second half, for outputs whose mean is 0."""
    # divided once a row, not once an entry
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
        """Length of the chunks."""
        size = self.members.action_layer.in_features
        assert isinstance(size, int)
        return size

    def about(self) -> dict[str, int]:
        """The sizes that are free: with the dimensions, what the constructor takes beside a key."""
        return {"size": self.size, "width": self.width, "depth": self.depth}

    @property
    def unstacked(self) -> list[StateActionMLP]:
        """Each network by itself: a matrix product for each is faster than one batched over the members."""
        arrays, static = eqx.partition(self.members, eqx.is_array)
        return [eqx.combine(jax.tree.map(operator.itemgetter(i), arrays), static) for i in range(self.size)]

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, "size n"]:
        """Q of each pair (s_i, a_i), by each member."""
        return jnp.stack([member(states, actions) for member in self.unstacked])

    def minimum(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """The least of the members' values: the pessimistic estimate that targets and costs are built on."""
        return jnp.min(self(states, actions), axis=0)

    def pairwise_minimum(
        self, states: Float[Array, "n s"], actions: Float[Array, "m a"]
    ) -> Float[Array, "n m"]:
        """`minimum` of every pair (s_i, a_j), some at a time: memory stays bounded, and in the cache."""
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
    """Pairs whose values are computed together.

    At a width of 256, 1024 are a megabyte, which a core's cache holds: 2048 are a seventh slower on a CPU. An
    accelerator has no such cache, and one call for each thousand pairs would leave it idle: 64 megabytes.
    """
    return 1024 if jax.default_backend() == "cpu" else 65_536
