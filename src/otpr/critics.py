"""Critics: a Q ensemble over (state, chunk), a state value V, and their losses.

V follows Q by expectile regression and Q follows r + discount * V(s'): implicit Q-learning (Kostrikov et
al., 2022),
with whole action chunks as actions (Li et al., "Reinforcement learning with action chunking", 2025).
"""

from __future__ import annotations

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

    def from_features(
        self, state_part: Float[Array, " w"], action_part: Float[Array, " w"]
    ) -> Float[Array, ""]:
        """The value, from the first layer's state part and action part."""
        x = jax.nn.relu(self.norms[0](state_part + action_part))
        for layer, norm in zip(self.hidden, self.norms[1:], strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return self.out(x)

    def __call__(self, state: Float[Array, " s"], action: Float[Array, " a"]) -> Float[Array, ""]:
        """The value of one pair."""
        return self.from_features(self.state_layer(state), self.action_layer(action))


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

        def make(key):
            return StateActionMLP(state_dim, action_dim, width=width, depth=depth, key=key)

        self.members = eqx.filter_vmap(make)(jax.random.split(key, size))

    def __call__(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, "size n"]:
        """Q of each pair (s_i, a_i), by each member."""
        return eqx.filter_vmap(lambda member: jax.vmap(member)(states, actions))(self.members)

    def minimum(self, states: Float[Array, "n s"], actions: Float[Array, "n a"]) -> Float[Array, " n"]:
        """The least of the members' values: the pessimistic estimate that targets and costs are built on."""
        return jnp.min(self(states, actions), axis=0)

    def pairwise_minimum(
        self, states: Float[Array, "n s"], actions: Float[Array, "m a"]
    ) -> Float[Array, "n m"]:
        """`minimum` of every pair (s_i, a_j), a few rows at a time so that memory stays bounded."""

        def of_member(member):
            return jax.vmap(member.state_layer)(states), jax.vmap(member.action_layer)(actions)

        state_parts, action_parts = eqx.filter_vmap(of_member)(self.members)

        def of_row(row_parts):  # (size, w) -> (m,)
            def of_pair(member, row, columns):
                return jax.vmap(member.from_features, in_axes=(None, 0))(row, columns)

            return jnp.min(eqx.filter_vmap(of_pair)(self.members, row_parts, action_parts), axis=0)

        rows_at_once = max(1, 32768 // action_parts.shape[1])
        return jax.lax.map(of_row, jnp.swapaxes(state_parts, 0, 1), batch_size=rows_at_once)


def expectile_loss(difference: Float[Array, "*n"], expectile: float) -> Float[Array, "*n"]:
    """|expectile - 1(difference < 0)| * difference^2, with difference = target - estimate (IQL, eq. 3)."""
    return jnp.where(difference >= 0, expectile, 1 - expectile) * difference**2


def polyak(target, online, rate: float):
    """Move `target` towards `online`: target + rate * (online - target), leaf by leaf."""
    return jax.tree.map(lambda t, o: t + rate * (o - t) if eqx.is_inexact_array(t) else t, target, online)
