"""Episodes as the decisions of the policy that acted, for algorithms that learn from its own draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otpr.data.episodes import Episode

AnyArray = Any  # of NumPy where decisions are made, of JAX where an agent keeps them


class Decisions(NamedTuple):
    """n decisions in the order they were taken, episode after episode; every field has n rows."""

    observation: AnyArray  # (n, o) float32, raw
    next_observation: AnyArray  # (n, o) float32 after the chunk, or the last observation of the episode
    reward: AnyArray  # (n,) float32 sum_i gamma^i r_i over the steps taken
    discount: AnyArray  # (n,) float32 gamma^(steps taken), 0 where the episode terminated inside the chunk
    last: AnyArray  # (n,) bool, the last of its episode
    seed: AnyArray  # (n,) uint32 of the episode
    number: AnyArray  # (n,) uint32 of the decision in its episode, from 0

    @classmethod
    def zeros(cls, n: int, observation_dim: int) -> Decisions:
        """Room for n of them."""
        observations = np.zeros((n, observation_dim), np.float32)
        floats, integers = np.zeros(n, np.float32), np.zeros(n, np.uint32)
        return cls(observations, observations, floats, floats, np.zeros(n, np.bool_), integers, integers)


def decisions_of(episodes: Sequence[Episode], chunk_length: int, gamma: float) -> Decisions:
    """Every decision of the episodes.

    Args:
        episodes: as a policy acted them, each with its seed.
        chunk_length: h, actions in a chunk; the last chunk of an episode may have been cut short.
        gamma: discount of one environment step, in (0, 1].
    """
    return concatenate([_of_episode(episode, chunk_length, gamma) for episode in episodes])


def _of_episode(episode: Episode, h: int, gamma: float) -> Decisions:
    T = len(episode)
    start = np.arange(0, T, h)
    end = np.minimum(start + h, T)
    discounted = gamma ** np.arange(h)
    rewards = [
        discounted[: stop - first] @ episode.rewards[first:stop]
        for first, stop in zip(start, end, strict=True)
    ]
    discount = gamma ** (end - start)
    if episode.terminated:
        discount[-1] = 0.0
    assert episode.seed is not None  # it was acted, not read from a file
    return Decisions(
        observation=episode.observations[start],
        next_observation=episode.observations[end],
        reward=np.asarray(rewards, np.float32),
        discount=discount.astype(np.float32),
        last=end == T,
        seed=np.full(len(start), episode.seed, np.uint32),
        number=np.arange(len(start), dtype=np.uint32),
    )


def concatenate(parts: Sequence[Decisions]) -> Decisions:
    """All the decisions of `parts`, in order, as NumPy arrays."""
    return Decisions(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def advantages(
    decisions: Decisions, values: Float[np.ndarray, " n"], next_values: Float[np.ndarray, " n"], share: float
) -> NDArray[np.float32]:
    """Generalised advantage estimates (Schulman et al., 2016, eq. 16), each within its own episode.

    Args:
        decisions: whole episodes.
        values: V of the observations.
        next_values: V of the next observations: that of a time-out is counted, that of an end is not.
        share: lambda, how much of the estimate after it each one takes on, in [0, 1].
    """
    errors = decisions.reward + decisions.discount * next_values - values
    result, following = np.zeros_like(errors), 0.0
    for i in reversed(range(len(errors))):
        if decisions.last[i]:
            following = 0.0
        following = errors[i] + decisions.discount[i] * share * following
        result[i] = following
    return result
