"""Episodes as decisions of the acting policy, for on-policy algorithms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otpr.data.experience import Collected
from otpr.spec import Spec

AnyArray = Any  # NumPy arrays at collection, JAX arrays in an agent


class Decisions(NamedTuple):
    """n decisions in order, episode after episode. Every field has n rows."""

    state: AnyArray  # (n, s) float32
    next_state: AnyArray  # (n, s) float32, after the executed actions or at the episode's end
    reward: AnyArray  # (n,) float32 sum_i gamma^i r_i over the steps taken
    discount: AnyArray  # (n,) float32 gamma^(steps taken), 0 if the episode terminated in the chunk
    last: AnyArray  # (n,) bool, whether it is the last of its episode
    seed: AnyArray  # (n,) uint32 of the episode
    number: AnyArray  # (n,) uint32 of the decision in its episode, from 0

    @classmethod
    def zeros(cls, n: int, state_dim: int) -> Decisions:
        """Placeholders for n decisions, filled with zeros."""
        states = np.zeros((n, state_dim), np.float32)
        floats, integers = np.zeros(n, np.float32), np.zeros(n, np.uint32)
        return cls(states, states, floats, floats, np.zeros(n, np.bool_), integers, integers)


def decisions_of(collected: Sequence[Collected], spec: Spec, gamma: float) -> Decisions:
    """All decisions of the episodes.

    Args:
        collected: episodes that a policy acted, each with its seed.
        spec: the policy's spec. An episode may end within its last chunk.
        gamma: discount per environment step, in (0, 1].
    """
    return joined([_of_episode(each, spec, gamma) for each in collected])


def _of_episode(collected: Collected, spec: Spec, gamma: float) -> Decisions:
    episode, e = collected.episode, spec.execute
    T = len(episode)
    start = np.arange(0, T, e)
    end = np.minimum(start + e, T)
    discounted = gamma ** np.arange(e)
    rewards = [
        discounted[: stop - first] @ episode.rewards[first:stop]
        for first, stop in zip(start, end, strict=True)
    ]
    discount = gamma ** (end - start)
    if episode.terminated:
        discount[-1] = 0.0
    assert episode.seed is not None  # acted, not read from a file
    before = np.arange(spec.history - 1, -1, -1)

    def states(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        window = np.maximum(rows[:, None] - before, 0)
        return collected.features[window].reshape(len(rows), -1)

    return Decisions(
        state=states(start),
        next_state=states(end),
        reward=np.asarray(rewards, np.float32),
        discount=discount.astype(np.float32),
        last=end == T,
        seed=np.full(len(start), episode.seed, np.uint32),
        number=np.arange(len(start), dtype=np.uint32),
    )


def joined(parts: Sequence[Decisions]) -> Decisions:
    """Concatenate decisions, as NumPy arrays."""
    return jax.tree.map(_end_to_end, *parts)


def _end_to_end(*fields: np.ndarray) -> np.ndarray:
    return np.concatenate(fields)


def advantages(
    decisions: Decisions, values: Float[np.ndarray, " n"], next_values: Float[np.ndarray, " n"], share: float
) -> NDArray[np.float32]:
    """Generalised advantage estimates (Schulman et al., 2016, eq. 16) within each episode.

    Args:
        decisions: whole episodes.
        values: V of the observations.
        next_values: V of the next observations. It is used after a truncation but not after a termination.
        share: lambda, in [0, 1].
    """
    errors = decisions.reward + decisions.discount * next_values - values
    result, following = np.zeros_like(errors), 0.0
    for i in reversed(range(len(errors))):
        if decisions.last[i]:
            following = 0.0
        following = errors[i] + decisions.discount[i] * share * following
        result[i] = following
    return result
