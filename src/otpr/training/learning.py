"""What a run learns from, and blocks of gradient steps as compiled programs, batches drawn on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from otpr.agents.parts.agent import Agent, AgentConfig, Round
from otpr.data.chunks import Transitions, chunk_transitions
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.data.replay import Replay
from otpr.errors import OtprError
from otpr.scanning import scan_state

AnyAgent = TypeVar("AnyAgent", bound=Agent)


def first_experience(
    sets: Sequence[Sequence[Episode]],
    weights: Sequence[float],
    config: AgentConfig,
    chunk_length: int,
    env_steps: int,
) -> Experience:
    """Demonstrations, and room for what will be done.

    Args:
        sets: data sets of demonstrations.
        weights: how often each set is drawn; see `Mixture.of`.
        config: settings of the algorithm.
        chunk_length: h, actions in a chunk.
        env_steps: the most environment steps that the run can take.

    Raises:
        OtprError: the algorithm needs a success, and no demonstration is one.
    """
    demonstrations = Mixture.of(sets, weights, chunk_length, config.gamma)
    episodes = [episode for part in sets for episode in part]
    solved = [chunk_transitions(each, chunk_length, config.gamma) for each in episodes if each.success]
    if not solved and config.needs_success:
        raise OtprError(
            "No demonstration succeeded: there are no successes to transport to. Use demonstrations that "
            "solve the task, or --set target_measure=replay."
        )
    rows = config.keypoint_rows(episodes, chunk_length)
    transitions = demonstrations.transitions
    dims = (transitions.observation.shape[1], transitions.chunk.shape[1])
    successes = Replay.create(env_steps + transitions.reward.shape[0], *dims)
    for part in solved:
        successes = successes.add(part)
    keypoints = Transitions(*(field[rows] for field in transitions))
    return Experience(Replay.create(env_steps, *dims), successes, demonstrations, keypoints)


@eqx.filter_jit
def update_block(
    agent: AnyAgent, experience: Experience, keys: PRNGKeyArray, update_policy: bool
) -> tuple[AnyAgent, dict[str, Array]]:
    """Take a gradient step for each of the keys, which its batch is drawn by; the metrics, step by step."""
    if update_policy:
        agent = cast(AnyAgent, agent.prepare(experience))

    def step(agent: AnyAgent, key: PRNGKeyArray) -> tuple[AnyAgent, dict[str, Array]]:
        after, metrics = agent.update(agent.draw(experience, key), update_policy)
        return cast(AnyAgent, after), metrics

    return scan_state(step, agent, keys)


def take_block(
    agent: AnyAgent, experience: Experience, updates: int, update_policy: bool
) -> tuple[AnyAgent, dict[str, float]]:
    """Take `updates` gradient steps; the metrics are their means, and `beyond_bound` at their end."""
    agent, keys, bound_key = update_keys(agent, updates)
    agent, metrics = update_block(agent, experience, keys, update_policy)
    means = {name: float(np.mean(values)) for name, values in jax.device_get(metrics).items()}
    return agent, means | as_floats(beyond_bound(agent, experience, bound_key))


def follow_round(agent: AnyAgent, experience: Experience) -> tuple[AnyAgent, dict[str, float]]:
    """What the agent has to do once a round, done when this returns; see `Agent.follow`."""
    agent, metrics = follow(agent, experience)
    return agent, as_floats(metrics)


def learn_round(agent: Agent, data: Round) -> tuple[Agent, int, dict[str, float]]:
    """Let an on-policy algorithm learn from a round, done when this returns; see `Agent.learn_round`."""
    agent, updates, metrics = agent.learn_round(data)
    return agent, updates, as_floats(metrics)


def as_floats(metrics: Mapping[str, Array]) -> dict[str, float]:
    """Scalars from the device, all at once."""
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}


def update_keys(agent: AnyAgent, updates: int) -> tuple[AnyAgent, PRNGKeyArray, PRNGKeyArray]:
    """The agent as a block begins with it, the keys of its gradient steps, and one for `beyond_bound`."""
    key, scan_key = jax.random.split(agent.key)
    agent = eqx.tree_at(_key_of, agent, key)
    return agent, jax.random.split(scan_key, updates), jax.random.fold_in(scan_key, updates)


def _key_of(agent: Agent) -> PRNGKeyArray:
    return agent.key


@eqx.filter_jit
def follow(agent: AnyAgent, experience: Experience) -> tuple[AnyAgent, dict[str, Array]]:
    """What the agent has to do once a round, compiled; see `Agent.follow`."""
    after, metrics = agent.follow(experience)
    return cast(AnyAgent, after), metrics


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

LOOKED_AT = 256
"""Replayed pairs whose Q is compared with its bounds."""


@eqx.filter_jit
def beyond_bound(agent: Agent, experience: Experience, key: PRNGKeyArray) -> dict[str, Array]:
    """Metrics: the share of replayed pairs whose Q is beyond its bounds, and these; no reward, no bounds.

    Nothing of an agent without Q. While there is no replay, demonstrated pairs are looked at.
    """
    q = agent.q_values(experience.sample_both(key, LOOKED_AT, demonstration_share=0.0))
    if q is None:
        return {}
    low, high = return_bounds(experience)
    margin = MARGIN * (high - low)
    beyond = (q < low - margin) | (q > high + margin)
    share = jnp.where(high > low, jnp.mean(beyond), 0.0)
    return {"critic/beyond_bound": share, "critic/bound_low": low, "critic/bound_high": high}
