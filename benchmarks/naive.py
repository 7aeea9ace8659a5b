"""The yardstick of the pairwise cost: every pair's concatenated vector through an ordinary network."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from otpr.networks.critics import QEnsemble, StateActionMLP


class ConcatenatedMLP(eqx.Module):
    """A scalar network with layer normalisation on one vector (s, a): one call takes one pair."""

    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    out: eqx.nn.Linear

    def __call__(self, pair: Float[Array, " s+a"]) -> Float[Array, ""]:
        """The value of the pair."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            pair = jax.nn.relu(norm(layer(pair)))
        return self.out(pair)


class NaiveEnsemble(eqx.Module):
    """The networks of a `QEnsemble` as ordinary ones: the same weights, the same numbers."""

    members: ConcatenatedMLP  # stacked along a leading axis

    @classmethod
    def of(cls, critic: QEnsemble) -> NaiveEnsemble:
        """The same function as the critic."""
        return cls(eqx.filter_vmap(_concatenated)(critic.members))

    def minimum(self, pairs: Float[Array, "n s+a"]) -> Float[Array, " n"]:
        """The least of the members' values, of each pair."""

        def of_member(member: ConcatenatedMLP) -> Array:
            return jax.vmap(member)(pairs)

        values = eqx.filter_vmap(of_member)(self.members)
        return jnp.min(values, axis=0)

    def pairwise_minimum(
        self, states: Float[Array, "n s"], actions: Float[Array, "m a"]
    ) -> Float[Array, "n m"]:
        """`minimum` of every pair (s_i, a_j), all at once: n * m concatenated vectors are in memory."""
        n, m = states.shape[0], actions.shape[0]
        pairs = jnp.concatenate([jnp.repeat(states, m, axis=0), jnp.tile(actions, (n, 1))], axis=1)
        return self.minimum(pairs).reshape(n, m)


def _concatenated(member: StateActionMLP) -> ConcatenatedMLP:
    weight = jnp.concatenate([member.state_layer.weight, member.action_layer.weight], axis=1)
    joined = eqx.nn.Linear(weight.shape[1], weight.shape[0], key=jax.random.key(0))
    bias = member.state_layer.bias  # the action's layer has none

    def parameters(layer: eqx.nn.Linear) -> tuple[Array, Array | None]:
        return layer.weight, layer.bias

    joined = eqx.tree_at(parameters, joined, (weight, bias))
    return ConcatenatedMLP((joined, *member.hidden), member.norms, member.out)
