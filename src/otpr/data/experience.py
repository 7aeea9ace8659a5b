"""The data of an agent: one store of episodes, and the rows of demonstrations and of replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from otpr.data.episodes import Episode, seen_spec
from otpr.data.mixture import Mixture
from otpr.data.row_sets import IndexSet
from otpr.data.store import EpisodeStore, Transitions, startable
from otpr.devices import on_each
from otpr.spec import Spec

Encode = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""Maps n observations by entry name to their features, (n, f)."""


class Collected(NamedTuple):
    """An episode, and the features of its observations, (T + 1, f)."""

    episode: Episode
    features: NDArray[np.float32]

    @classmethod
    def of(cls, episode: Episode, encode: Encode) -> Collected:
        """Encode an episode; a step without images has the features of the last step with them."""
        if episode.looked is None:
            return cls(episode, encode(episode.observations))
        looked = episode.looked
        frames = seen_spec(episode).images
        features = encode(
            {name: rows if name in frames else rows[looked] for name, rows in episode.observations.items()}
        )
        return cls(episode, features[episode.frames(np.arange(len(episode) + 1))])


class Experience(eqx.Module):
    """Demonstrations, and the agent's own episodes.

    Args:
        store: all episodes, the demonstrations first.
        demonstrations: rows at which demonstrated transitions start, by data set.
        replay: rows at which the agent's own transitions start.
    """

    store: EpisodeStore
    demonstrations: Mixture
    replay: IndexSet

    @classmethod
    def of(
        cls,
        sets: Sequence[Sequence[Episode]],
        weights: Sequence[float],
        encode: Encode,
        *,
        spec: Spec,
        gamma: float,
        room: int = 0,
        mesh: Mesh | None = None,
    ) -> Experience:
        """An experience of demonstrations, with capacity for the agent's episodes.

        Args:
            sets: data sets of demonstrations.
            weights: relative frequency of each set; see `Mixture.of`.
            encode: the policy's encoder.
            spec: the policy's spec.
            gamma: discount of one environment step, in (0, 1].
            room: number of environment steps that will be added; more are possible but cause a recompilation.
            mesh: the devices among which the rows are divided; None: a single device.

        Raises:
            OtprError: the weights are not positive, or there is not one for each set.
        """
        # an episode has one row more than steps; a sixteenth suffices for episodes of 16 steps or more
        demonstrated = sum(len(episode) + 1 for episodes in sets for episode in episodes)
        coded = [[Collected.of(episode, encode) for episode in episodes] for episodes in sets]
        width = coded[0][0].features.shape[1]
        store = EpisodeStore.empty(spec, gamma, width, demonstrated + room + room // 16, mesh)
        rows: list[list[NDArray[np.int32]]] = []
        at = 0
        for part in coded:
            rows.append([])
            for episode, features in part:
                store = store.add(features, episode)
                rows[-1].append(_starts(episode, spec, at))
                at += len(episode) + 1
        mixture = Mixture.of([np.concatenate(parts) for parts in rows], weights)
        return cls(store, on_each(mixture, mesh), IndexSet.empty(room, mesh))

    def add(self, collected: Collected) -> Experience:
        """Add an episode of the agent. The old experience is consumed."""
        start = int(self.store.size)
        store = self.store.add(collected.features, collected.episode)
        starts = _starts(collected.episode, self.store.spec, start)
        return Experience(store, self.demonstrations, self.replay.add(starts))

    def encoded(self, episodes: Sequence[Episode], encode: Encode) -> Experience:
        """Re-encode all states.

        Args:
            episodes: all episodes of the store, in order.
            encode: the encoder.
        """
        features = np.concatenate([Collected.of(episode, encode).features for episode in episodes])
        return Experience(self.store.with_features(features), self.demonstrations, self.replay)

    def sample_replay(self, key: PRNGKeyArray, n: int) -> Transitions:
        """Draw `n` transitions of the agent, uniformly with replacement. The replay must not be empty."""
        return self.store.transitions(self.replay.draw(key, n))

    def sample_demonstrations(self, key: PRNGKeyArray, n: int) -> Transitions:
        """Draw `n` demonstrated transitions, with sets by their weights."""
        return self.store.transitions(self.demonstrations.draw(key, n))

    def sample_all(self, key: PRNGKeyArray, n: int) -> Transitions:
        """Draw `n` transitions uniformly from demonstrations and replay together."""
        demonstrated = self.demonstrations.rows.shape[0]
        number = jax.random.randint(key, (n,), 0, demonstrated + self.replay.size)
        own = self.replay.rows[jnp.maximum(number - demonstrated, 0)]
        theirs = self.demonstrations.rows[jnp.minimum(number, demonstrated - 1)]
        return self.store.transitions(jnp.where(number >= demonstrated, own, theirs))

    def sample_both(self, key: PRNGKeyArray, n: int, demonstration_share: float) -> Transitions:
        """Draw `n` transitions, a fixed share of them demonstrated; all of them while the replay is empty."""
        demonstration_key, replay_key, mix_key = jax.random.split(key, 3)
        theirs = self.demonstrations.draw(demonstration_key, n)
        own = self.replay.draw(replay_key, n)
        take_own = (jnp.arange(n) >= round(n * demonstration_share)) & (self.replay.size > 0)
        return self.store.transitions(jnp.where(jax.random.permutation(mix_key, take_own), own, theirs))

    def return_bounds(self) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Bounds on Q from the rewards so far; they include 0, where critics start.

        A transition with discounted chunk reward R and discount D has the target Q = R + D * V(s'), where D
        is 0 after a termination and otherwise gamma^(steps taken). No Q exceeds M, the largest R / (1 - D) of
        all transitions: V <= M implies R + D * V <= M * (1 - D) + D * M = M. The lower bound is analogous.
        For example, a reward of 1 that ends the episode gives [0, 1], and a reward of r at every step gives r
        / (1 - gamma). A chunk with a reward and D = 1 (gamma = 1) has an infinite bound.
        """
        reward, discount, known = self.store.every_reward()
        # 0 / 0: no reward and D = 1 gives no bound
        bound = jnp.where((reward != 0) & known, reward / (1 - discount), 0.0)
        return jnp.minimum(jnp.min(bound), 0.0), jnp.maximum(jnp.max(bound), 0.0)


def _starts(episode: Episode, spec: Spec, first: int) -> NDArray[np.int32]:
    """The rows at which transitions of an episode start, given its first row."""
    return (first + np.flatnonzero(startable(episode, spec))).astype(np.int32)
