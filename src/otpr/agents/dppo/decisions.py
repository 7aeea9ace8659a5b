"""Episodes as the decisions of the policy that acted, for algorithms that learn from its own draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from otpr.data.experience import Collected
from otpr.spec import Spec

AnyArray = Any  # of NumPy where decisions are made, of JAX where an agent keeps them


class Decisions(NamedTuple):
    """n decisions in the order they were taken, episode after episode; every field has n rows."""

    state: AnyArray  # (n, s) float32
    next_state: AnyArray  # (n, s) float32 after the executed actions, or at the episode's last observation
    reward: AnyArray  # (n,) float32 sum_i gamma^i r_i over the steps taken
    discount: AnyArray  # (n,) float32 gamma^(steps taken), 0 where the episode terminated inside the chunk
    last: AnyArray  # (n,) bool, the last of its episode
    seed: AnyArray  # (n,) uint32 of the episode
    number: AnyArray  # (n,) uint32 of the decision in its episode, from 0

    @classmethod
    def zeros(cls, n: int, state_dim: int) -> Decisions:
        """Room for n of them."""
        states = np.zeros((n, state_dim), np.float32)
        floats, integers = np.zeros(n, np.float32), np.zeros(n, np.uint32)
        return cls(states, states, floats, floats, np.zeros(n, np.bool_), integers, integers)


def decisions_of(collected: Sequence[Collected], spec: Spec, gamma: float) -> Decisions:
    """Every decision of the episodes.

    Args:
        collected: episodes as a policy acted them, each with its seed.
        spec: of that policy; the last actions of an episode may have been cut short.
        gamma: discount of one environment step, in (0, 1].
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
    assert episode.seed is not None  # it was acted, not read from a file
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
    """All the decisions of `parts`, in order, as NumPy arrays."""
    return jax.tree.map(_end_to_end, *parts)


def _end_to_end(*fields: np.ndarray) -> np.ndarray:
    return np.concatenate(fields)


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
