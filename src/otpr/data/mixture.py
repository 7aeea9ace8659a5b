"""Several data sets as one source of batches, and a split into training and held-out episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.data.episodes import Episode
from otpr.errors import OtprError


def split(episodes: Sequence[Episode], share: float, seed: int) -> tuple[list[Episode], list[Episode]]:
    """Split episodes into training and held-out ones, both in order.

    Args:
        episodes: n episodes.
        share: share of held-out episodes, in [0, 1), rounded; at least one episode if it is above 0.
        seed: draws the held-out episodes.

    Raises:
        OtprError: no episode would be left for training.
    """
    if not 0 <= share < 1:
        raise OtprError(f"held_out must lie in [0, 1), given {share}.")
    count = max(1, round(share * len(episodes))) if share > 0 else 0
    if count >= len(episodes):
        raise OtprError(f"Holding {count} of {len(episodes)} episodes out leaves none to train on.")
    # a second word of entropy, because other streams derive from the seed too
    held = set(np.random.default_rng([seed, 2]).permutation(len(episodes))[:count].tolist())
    return (
        [episode for i, episode in enumerate(episodes) if i not in held],
        [episode for i, episode in enumerate(episodes) if i in held],
    )


class Mixture(NamedTuple):
    """Rows of a store at which transitions of data sets start, and the sets' relative frequencies."""

    rows: Int[Array, " n"]  # one set after the other
    starts: Int[Array, " k"]  # where each set begins in `rows`
    sizes: Int[Array, " k"]  # rows of each set
    weights: Float[Array, " k"]  # relative frequency of each set

    @classmethod
    def of(cls, sets: Sequence[Int[np.ndarray, " _"]], weights: Sequence[float] = ()) -> Mixture:
        """The rows of several data sets.

        Args:
            sets: k arrays of row numbers.
            weights: k positive relative frequencies; empty: all rows are equally frequent.

        Raises:
            OtprError: the weights are not positive, or there is not one for each set.
        """
        check_weights(weights, len(sets))
        if not weights:  # a single set of all rows, so that no set has to be drawn first
            sets, weights = [np.concatenate(sets)], (1.0,)
        sizes = np.array([len(rows) for rows in sets], np.int32)
        return cls(
            jnp.asarray(np.concatenate(sets), jnp.int32),
            jnp.asarray(np.cumsum(sizes) - sizes),
            jnp.asarray(sizes),
            jnp.asarray(weights, jnp.float32),
        )

    def draw(self, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
        """Draw `n` rows with replacement: a set by its weight, then a uniform row of it."""
        if self.weights.shape[0] == 1:
            return self.rows[jax.random.randint(key, (n,), 0, self.rows.shape[0])]
        set_key, row_key = jax.random.split(key)
        chosen = jax.random.categorical(set_key, jnp.log(self.weights), shape=(n,))
        return self.rows[self.starts[chosen] + jax.random.randint(row_key, (n,), 0, self.sizes[chosen])]


def check_weights(weights: Sequence[float], sets: int) -> None:
    """Check the weights of a mixture of data sets; see `Mixture.of`."""
    if weights and len(weights) != sets:
        raise OtprError(f"{len(weights)} weights for {sets} data sets; give one for each, or none.")
    if bad := [weight for weight in weights if not 0 < weight < float("inf")]:
        raise OtprError(f"The weight of a data set must be a positive number, given {bad[0]}.")
