"""What OTPR's updates and its potentials learn from, drawn on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from otpr.agents.otpr.config import OTPRConfig
from otpr.data.chunks import Transitions, take
from otpr.data.experience import Experience
from otpr.ot import NO_KEYPOINT, TransportProblem, keypoint_mask

if TYPE_CHECKING:
    from otpr.agents.otpr.agent import OTPR


class OTPRBatch(NamedTuple):
    """What one update learns from."""

    replay: Transitions  # (batch_size - demonstrations_in_batch) transitions of the agent's own
    demonstrations: Transitions  # demonstrations_in_batch of the experts'


def concatenate(*parts: Transitions) -> Transitions:
    """Batches of transitions, one after the other."""
    return Transitions(*(jnp.concatenate(field) for field in zip(*parts, strict=True)))


def draw_targets(experience: Experience, config: OTPRConfig, key: PRNGKeyArray, n: int) -> Transitions:
    """Transitions whose chunks are drawn from the target measure."""
    buffer = experience.successes if config.target_measure == "successes" else experience.replay
    return buffer.sample(key, n)


def draw_batch(experience: Experience, config: OTPRConfig, key: PRNGKeyArray) -> OTPRBatch:
    """A batch for `OTPR.update`."""
    replay_key, expert_key = jax.random.split(key)
    n_expert = config.demonstrations_in_batch
    return OTPRBatch(
        replay=experience.replay.sample(replay_key, config.batch_size - n_expert),
        demonstrations=experience.demonstrations.sample(expert_key, n_expert),
    )


def draw_problem(experience: Experience, agent: OTPR, key: PRNGKeyArray, n: int) -> TransportProblem:
    """A transport problem of `n` states and `n` actions, in random order.

    States come from replay and demonstrations, actions from the target measure (and demonstrations),
    independently. With keypoints, some expert pairs are in both, and the mask ties each to itself.
    """
    config = agent.config
    replay_key, expert_key, action_key, key_key, *order_keys = jax.random.split(key, 6)
    n_expert = round(n * config.demonstration_share)
    n_key = round(n * config.keypoint_share)
    states = concatenate(
        experience.demonstrations.sample(expert_key, n_expert),
        experience.replay.sample(replay_key, n - n_expert),
    )
    actions = draw_targets(experience, config, action_key, n)
    keypoints = _draw_keypoints(experience.keypoints, agent, key_key, n_key)
    row_order, column_order = (jax.random.permutation(k, n) for k in order_keys)
    ids = jnp.where(jnp.arange(n) < n_key, jnp.arange(n), NO_KEYPOINT)
    observation = jnp.concatenate([keypoints.observation, states.observation[n_key:]])[row_order]
    chunk = jnp.concatenate([keypoints.chunk, actions.chunk[n_key:]])[column_order]
    mask = keypoint_mask(ids[row_order], ids[column_order]) if n_key else None
    return TransportProblem(agent.policy.normalizer(observation), chunk, mask)


def _draw_keypoints(pool: Transitions, agent: OTPR, key: PRNGKeyArray, n: int) -> Transitions:
    if agent.config.keypoint_strategy != "top-q":
        return take(pool, key, n)
    drawn = take(pool, key, TOP_Q * n)
    q = agent.target_critic.minimum(agent.policy.normalizer(drawn.observation), drawn.chunk)
    _, best = jax.lax.top_k(q, n)
    return Transitions(*(field[best] for field in drawn))


TOP_Q = 4
"""Strategy "top-q" keeps the best of so many times the keypoints needed."""
