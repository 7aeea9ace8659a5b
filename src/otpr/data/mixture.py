"""Several data sets as one source of batches, and episodes held out of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.data.chunks import Transitions, chunk_transitions, concatenate, take
from otpr.data.episodes import Episode
from otpr.errors import OtprError


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Episodes to train on and episodes held out, each in their order.

    Args:
        episodes: n of them.
        share: of episodes that are held out, in [0, 1); rounded, at least one episode where it is above 0.
        seed: which ones.

    Raises:
        OtprError: nothing would be left to train on.
    """
    if not 0 <= share < 1:
        raise OtprError(f"held_out must lie in [0, 1), given {share}.")
    count = max(1, round(share * len(episodes))) if share > 0 else 0
    if count >= len(episodes):
        raise OtprError(f"Holding {count} of {len(episodes)} episodes out leaves none to train on.")
    # a second word beside the seed: other streams derive from the seed too
    held = set(np.random.default_rng([seed, 2]).permutation(len(episodes))[:count].tolist())
    return (
        [episode for i, episode in enumerate(episodes) if i not in held],
        [episode for i, episode in enumerate(episodes) if i in held],
    )


class Mixture(NamedTuple):
    """The transitions of one or more data sets, one after the other, and how often each set is drawn."""

    transitions: Transitions  # n rows
    starts: Int[Array, " k"]  # first row of each set
    sizes: Int[Array, " k"]  # rows of each set
    weights: Float[Array, " k"]  # relative frequency of each set

    @classmethod
    def of(
        cls, sets: Sequence[Sequence[Episode]], weights: Sequence[float], chunk_length: int, gamma: float
    ) -> Mixture:
        """The chunks of several data sets.

        Args:
            sets: k data sets.
            weights: k relative frequencies, positive; none: every transition is as frequent as any other.
            chunk_length: h, actions in a chunk.
            gamma: discount of one environment step.

        Raises:
            OtprError: the weights are not positive, or not one a set.
        """
        check_weights(weights, len(sets))
        if not weights:  # one set of all: then no set need be drawn first
            sets, weights = [[episode for episodes in sets for episode in episodes]], (1.0,)
        parts = [
            concatenate([chunk_transitions(episode, chunk_length, gamma) for episode in episodes])
            for episodes in sets
        ]
        sizes = np.array([len(part.reward) for part in parts], np.int32)
        return cls(
            Transitions(*map(jnp.asarray, concatenate(parts))),
            jnp.asarray(np.cumsum(sizes) - sizes),
            jnp.asarray(sizes),
            jnp.asarray(weights, jnp.float32),
        )

    @classmethod
    def single(cls, transitions: Transitions) -> Mixture:
        """One set of `n` transitions."""
        n = transitions.reward.shape[0]
        return cls(transitions, jnp.zeros(1, jnp.int32), jnp.full(1, n, jnp.int32), jnp.ones(1))

    def sample(self, key: PRNGKeyArray, n: int) -> Transitions:
        """`n` transitions with replacement: a set by its weight, then any of its rows."""
        if self.weights.shape[0] == 1:
            return take(self.transitions, key, n)
        set_key, row_key = jax.random.split(key)
        chosen = jax.random.categorical(set_key, jnp.log(self.weights), shape=(n,))
        rows = self.starts[chosen] + jax.random.randint(row_key, (n,), 0, self.sizes[chosen])
        return Transitions(*(field[rows] for field in self.transitions))


def check_weights(weights: Sequence[float], sets: int) -> None:
    """Refuse weights that fit no mixture of so many data sets; see `Mixture.of`."""
    if weights and len(weights) != sets:
        raise OtprError(f"{len(weights)} weights for {sets} data sets; give one for each, or none.")
    if bad := [weight for weight in weights if not 0 < weight < float("inf")]:
        raise OtprError(f"The weight of a data set must be a positive number, given {bad[0]}.")
