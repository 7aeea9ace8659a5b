"""Blocks of gradient steps as one compiled program, with batches drawn on the device."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from otpr.agents.otpr import OTPR, Batch, OTPRConfig, concatenate
from otpr.data.chunks import Transitions, take
from otpr.data.mixture import Mixture
from otpr.data.replay import Replay
from otpr.ot import NO_KEYPOINT, TransportProblem, keypoint_mask
from otpr.scanning import scan_state


class Experience(NamedTuple):
    """What the agent learns from."""

    replay: Replay  # everything it did
    successes: Replay  # the demonstrations, then the episodes of its own that succeeded
    demonstrations: Mixture  # always kept
    keypoints: Transitions  # those of the demonstrations that may become keypoints


def _from_target_measure(
    experience: Experience, config: OTPRConfig, key: PRNGKeyArray, n: int
) -> Transitions:
    buffer = experience.successes if config.target_measure == "successes" else experience.replay
    return buffer.sample(key, n)


def draw_batch(experience: Experience, config: OTPRConfig, key: PRNGKeyArray) -> Batch:
    """A batch for `OTPR.update`."""
    replay_key, expert_key, pool_key = jax.random.split(key, 3)
    n_expert = config.demonstrations_in_batch
    return Batch(
        replay=experience.replay.sample(replay_key, config.batch_size - n_expert),
        demonstrations=experience.demonstrations.sample(expert_key, n_expert),
        pool=_from_target_measure(experience, config, pool_key, config.pool * config.batch_size),
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
    actions = _from_target_measure(experience, config, action_key, n)
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


@eqx.filter_jit
def update_block(
    agent: OTPR, experience: Experience, updates: int, update_policy: bool
) -> tuple[OTPR, dict[str, Array]]:
    """Take `updates` gradient steps; the metrics are their means, and `beyond_bound` at their end."""

    def step(agent: OTPR, key: PRNGKeyArray) -> tuple[OTPR, dict[str, Array]]:
        return agent.update(draw_batch(experience, agent.config, key), update_policy)

    agent, scan_key = _split_key(agent)
    agent, metrics = scan_state(step, agent, jax.random.split(scan_key, updates))
    means = jax.tree.map(jnp.mean, metrics)
    return agent, means | beyond_bound(agent, experience, jax.random.fold_in(scan_key, updates))


def update_keys(agent: OTPR, updates: int) -> tuple[OTPR, PRNGKeyArray]:
    """The agent as `update_block` begins with it, and the keys of its batches, one a gradient step."""
    agent, scan_key = _split_key(agent)
    return agent, jax.random.split(scan_key, updates)


def _split_key(agent: OTPR) -> tuple[OTPR, PRNGKeyArray]:
    key, scan_key = jax.random.split(agent.key)
    return eqx.tree_at(lambda a: a.key, agent, key), scan_key


def return_bounds(experience: Experience) -> tuple[Array, Array]:
    """The least and the greatest Q that the rewards seen so far allow; 0, where critics begin, included.

    A transition of reward R (of its chunk, discounted) and discount D asks for Q = R + D * V(s'), D being 0
    after a termination and else gamma to the steps taken. So no Q exceeds M, the largest R / (1 - D) of all
    transitions: from V <= M follows R + D * V <= M * (1 - D) + D * M = M; likewise below. For a reward of 1
    that ends the episode that is [0, 1], for a reward of r at every step r / (1 - gamma), and so on, without
    knowing which. A chunk with a reward and D = 1 (gamma = 1) bounds nothing: infinite.
    """
    replay = experience.replay
    low, high = jnp.asarray(0.0), jnp.asarray(0.0)
    known = jnp.arange(replay.capacity) < replay.size
    for data, real in ((replay.data, known), (experience.demonstrations.transitions, True)):
        # 0 / 0, no reward and no discount, asks for nothing
        bound = jnp.where((data.reward != 0) & real, data.reward / (1 - data.discount), 0.0)
        low, high = jnp.minimum(low, jnp.min(bound)), jnp.maximum(high, jnp.max(bound))
    return low, high


MARGIN = 0.1
"""A critic may leave its bounds by so much of their distance: it is an estimate, not the truth."""


def beyond_bound(agent: OTPR, experience: Experience, key: PRNGKeyArray) -> dict[str, Array]:
    """Metrics: the share of replayed pairs whose Q is beyond its bounds, and these; no reward, no bounds."""
    low, high = return_bounds(experience)
    margin = MARGIN * (high - low)
    pairs = experience.replay.sample(key, SPREAD)
    q = agent.critic(agent.policy.normalizer(pairs.observation), pairs.chunk)
    beyond = (q < low - margin) | (q > high + margin)
    share = jnp.where(high > low, jnp.mean(beyond), 0.0)
    return {"critic/beyond_bound": share, "critic/bound_low": low, "critic/bound_high": high}


@eqx.filter_jit
def update_potentials(agent: OTPR, experience: Experience) -> tuple[OTPR, dict[str, Array]]:
    """Let the agent's potentials follow its critic."""
    key, occurring_key = jax.random.split(agent.key)
    agent = eqx.tree_at(lambda a: a.key, agent, key)
    agent = agent.begin_round(experience.replay.sample(occurring_key, SPREAD))

    def draw(key: PRNGKeyArray, n: int) -> TransportProblem:
        return draw_problem(experience, agent, key, n)

    return agent.update_potentials(draw)


SPREAD = 256
"""Replayed pairs over which the spread of Q is taken."""
