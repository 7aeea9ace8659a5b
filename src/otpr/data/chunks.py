"""From episodes to transitions over action chunks.

A transition spans one chunk of h actions, starting at ANY step of an episode (not only where the policy
replanned):
its reward is the discounted sum inside the chunk and its bootstrap discount is gamma^(steps taken), 0 after a
termination. A time-out (truncation) keeps its bootstrap.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from otpr.data.episodes import Episode

AnyArray = Any  # of NumPy where transitions are made, of JAX where an agent learns from them


class Transitions(NamedTuple):
    """n transitions over chunks; every field has n rows. Float32."""

    observation: AnyArray  # (n, o) where the chunk starts
    chunk: (
        AnyArray  # (n, h * a) the h actions, flattened step by step; past the episode's end the last repeats
    )
    reward: AnyArray  # (n,) sum_i gamma^i r_i over the steps taken
    discount: AnyArray  # (n,) gamma^(steps taken), 0 where the episode terminated inside the chunk
    next_observation: AnyArray  # (n, o) after the chunk, or the last observation of the episode
    # (n,) discounted sum of the rewards from the chunk's start to the episode's end: what was really
    # achieved.
    # -inf in a truncated episode with a negative reward, whose unseen rest may cost more: no lower bound then
    return_to_go: AnyArray


def chunk_transitions(episode: Episode, chunk_length: int, gamma: float) -> Transitions:
    """All windows of an episode of T steps: T transitions, the last h - 1 of them shorter than h steps.

    Args:
        episode: one whole episode.
        chunk_length: h, actions in a chunk.
        gamma: discount of one environment step, in (0, 1].
    """
    T, h = len(episode.actions), chunk_length
    start = np.arange(T)
    steps = start[:, None] + np.arange(h)  # (T, h)
    inside = steps < T
    chunk = episode.actions[np.minimum(steps, T - 1)].reshape(T, -1)
    rewards = np.where(inside, episode.rewards[np.minimum(steps, T - 1)], 0.0)
    taken = inside.sum(axis=1)
    discount = gamma**taken
    if episode.terminated:
        discount = np.where(start + taken == T, 0.0, discount)
    return_to_go = np.zeros(T + 1)
    for t in reversed(range(T)):
        return_to_go[t] = episode.rewards[t] + gamma * return_to_go[t + 1]
    if not episode.terminated and (episode.rewards < 0).any():
        return_to_go[:] = -np.inf
    return Transitions(
        observation=episode.observations[:-1].astype(np.float32),
        chunk=chunk.astype(np.float32),
        reward=(rewards @ gamma ** np.arange(h)).astype(np.float32),
        discount=discount.astype(np.float32),
        next_observation=episode.observations[start + taken].astype(np.float32),
        return_to_go=return_to_go[:-1].astype(np.float32),
    )


def concatenate(parts: list[Transitions]) -> Transitions:
    """All the transitions of `parts`, in order, as NumPy arrays."""
    return Transitions(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def take(transitions: Transitions, key: PRNGKeyArray, n: int) -> Transitions:
    """`n` transitions, uniformly with replacement."""
    rows = jax.random.randint(key, (n,), 0, transitions.reward.shape[0])
    return Transitions(*(field[rows] for field in transitions))
