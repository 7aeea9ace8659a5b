"""What surrounds the sampling in `Policy.act`: refusals, and a budget of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from otpr.errors import OtprError

if TYPE_CHECKING:
    from otpr.policies.choosers import Chooser
    from otpr.policies.policy import Policy

SLICE = 4
"""Candidates drawn between two looks at the clock."""


def checked_observation(observation: np.ndarray, length: int) -> np.ndarray:
    """The observation as float32.

    Raises:
        ValueError: it has another shape than `(length,)`, or is not finite (as float32).
    """
    with np.errstate(over="ignore"):  # a number too large for float32 is named below
        observation = np.asarray(observation, np.float32)
    if observation.shape != (length,):
        raise ValueError(f"observation has shape {observation.shape}, the policy expects ({length},).")
    if not np.isfinite(observation).all():
        raise ValueError(
            f"observation is not finite at indices {np.flatnonzero(~np.isfinite(observation)).tolist()}."
        )
    return observation


def checked_chunk(chunk: np.ndarray) -> np.ndarray:
    """The chunk as it is.

    Raises:
        OtprError: it is not finite. Observations are, and are clipped: so it is the weights.
    """
    if not np.isfinite(chunk).all():
        raise OtprError("The policy's actions are not finite: its weights hold NaN or infinity.")
    return chunk


def act_within(
    policy: Policy, observation: Float[Array, " o"], key: PRNGKeyArray, seconds: float
) -> np.ndarray:
    """A chunk chosen among the candidates that there is time for, `SLICE` at a time, at least one slice.

    Args:
        policy: with a chooser.
        observation: raw.
        key: of the draw.
        seconds: no further slice is begun that would end later, if it takes as long as the one before it.

    Returns:
        (h, action_dim) float32.
    """
    assert policy.chooser is not None
    started = begun = time.perf_counter()
    propose_key, choose_key = jax.random.split(key)
    parts = []
    for i in range(-(-policy.candidates // SLICE)):
        parts.append(_slice(policy, policy.chooser, observation, jax.random.fold_in(propose_key, i)))
        jax.block_until_ready(parts[-1])
        now = time.perf_counter()
        if now - started + (now - begun) > seconds:
            break
        begun = now
    n = policy.candidates
    chunks = np.concatenate([chunks for chunks, _ in parts])[:n]
    scores = [np.concatenate(field)[:n] for field in zip(*(scores for _, scores in parts), strict=True)]
    # of one length, so that the choice compiles once; -infinity is never picked
    padded = [np.pad(score, (0, n - len(score)), constant_values=-np.inf) for score in scores]
    chosen = int(_pick(policy.chooser, tuple(map(jnp.asarray, padded)), choose_key))
    return chunks[chosen].reshape(policy.chunk_length, policy.action_dim)


@eqx.filter_jit
def _slice(
    policy: Policy, chooser: Chooser, observation: Float[Array, " o"], key: PRNGKeyArray
) -> tuple[Float[Array, "n a"], tuple[Float[Array, " n"], ...]]:
    """`SLICE` candidates, and their scores."""
    state = policy.normalizer(observation)
    chunks = policy.propose(state, key, SLICE)
    return chunks, chooser.scores(state, chunks)


@eqx.filter_jit
def _pick(chooser: Chooser, scores: tuple[Float[Array, " n"], ...], key: PRNGKeyArray) -> Int[Array, ""]:
    return chooser.pick(scores, key)[0]


@jax.jit
def decision_keys(
    action_seed: int | np.int32, seeds: UInt32[Array, " n"] | np.ndarray, decision: int | np.uint32
) -> PRNGKeyArray:
    """The key of a decision in each of n episodes: from the run's seed, the episode's own and the number."""

    def key_of(seed: UInt32[Array, ""]) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(action_seed), seed), decision)

    return jax.vmap(key_of)(jnp.asarray(seeds))
