"""What surrounds the sampling in `Policy.act`: refusals, and a budget of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.errors import OtprError

if TYPE_CHECKING:
    from otpr.compatibility import Compatibility
    from otpr.policy import Policy

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
    count = -(-policy.candidates // SLICE)
    parts = []
    for i in range(count):
        parts.append(_slice(policy, policy.chooser, observation, jax.random.fold_in(propose_key, i)))
        jax.block_until_ready(parts[-1])
        now = time.perf_counter()
        if now - started + (now - begun) > seconds:
            break
        begun = now
    chunks, H, idql = (np.concatenate(field)[: policy.candidates] for field in zip(*parts, strict=True))
    # of one length, so that the draw compiles once
    weights = np.zeros(policy.candidates, np.float32)
    weights[: len(H)] = H if (H > 0).any() else idql
    chosen = int(jax.random.categorical(choose_key, jnp.log(jnp.asarray(weights))))
    return chunks[chosen].reshape(policy.chunk_length, policy.action_dim)


@eqx.filter_jit
def _slice(
    policy: Policy, chooser: Compatibility, observation: Float[Array, " o"], key: PRNGKeyArray
) -> tuple[Float[Array, "n a"], Float[Array, " n"], Float[Array, " n"]]:
    """`SLICE` candidates, the H of each (0 before there are potentials), and its weight by IDQL's rule.

    The rules are those of `Compatibility.choose`, which sees all candidates at once.
    """
    state = policy.normalizer(observation)
    chunks = policy.propose(state, key, SLICE)
    states = jnp.broadcast_to(state, (SLICE, *state.shape))
    q = chooser.cost.critic.minimum(states, chunks)
    idql = jnp.where(q > chooser.cost.value(state), 0.7, 0.3)
    return chunks, jnp.where(chooser.trained, chooser(states, chunks), 0.0), idql
