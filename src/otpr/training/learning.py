"""Blocks of gradient steps as one compiled program, with batches drawn on the device."""

from __future__ import annotations

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from otpr.agents.parts.agent import Agent
from otpr.data.experience import Experience
from otpr.scanning import scan_state

AnyAgent = TypeVar("AnyAgent", bound=Agent)


@eqx.filter_jit
def update_block(
    agent: AnyAgent, experience: Experience, keys: PRNGKeyArray, update_policy: bool
) -> tuple[AnyAgent, dict[str, Array]]:
    """Take a gradient step for each of the keys, which its batch is drawn by; the metrics, step by step."""

    def step(agent: AnyAgent, key: PRNGKeyArray) -> tuple[AnyAgent, dict[str, Array]]:
        return agent.update(agent.draw(experience, key), update_policy)

    return scan_state(step, agent, keys)


def update_keys(agent: AnyAgent, updates: int) -> tuple[AnyAgent, PRNGKeyArray, PRNGKeyArray]:
    """The agent as a block begins with it, the keys of its gradient steps, and one for `beyond_bound`."""
    key, scan_key = jax.random.split(agent.key)
    agent = eqx.tree_at(lambda a: a.key, agent, key)
    return agent, jax.random.split(scan_key, updates), jax.random.fold_in(scan_key, updates)


@eqx.filter_jit
def follow(agent: AnyAgent, experience: Experience) -> tuple[AnyAgent, dict[str, Array]]:
    """What the agent has to do once a round, compiled; see `Agent.follow`."""
    return agent.follow(experience)


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
