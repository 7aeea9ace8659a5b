"""Blocks of gradient steps as compiled programs, batches drawn on the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from otpr.agents.parts.agent import OffPolicyAgent, OnPolicyAgent, Round
from otpr.data.experience import Experience
from otpr.scanning import scan_state

AnyAgent = TypeVar("AnyAgent", bound=OffPolicyAgent)
AnyOnPolicyAgent = TypeVar("AnyOnPolicyAgent", bound=OnPolicyAgent)


@eqx.filter_jit
def update_block(
    agent: AnyAgent, experience: Experience, keys: PRNGKeyArray, update_policy: bool
) -> tuple[AnyAgent, dict[str, Array]]:
    """Take a gradient step for each of the keys, which its batch is drawn by; the metrics, step by step."""
    if update_policy:
        agent = agent.begin_block(experience)

    def step(agent: AnyAgent, key: PRNGKeyArray) -> tuple[AnyAgent, dict[str, Array]]:
        return agent.update(agent.draw(experience, key), update_policy)

    return scan_state(step, agent, keys)


def take_block(
    agent: AnyAgent, experience: Experience, updates: int, update_policy: bool
) -> tuple[AnyAgent, dict[str, float]]:
    """Take `updates` gradient steps; the metrics are their means, and `beyond_bound` at their end."""
    agent, keys, bound_key = update_keys(agent, updates)
    agent, metrics = update_block(agent, experience, keys, update_policy)
    means = {name: float(np.mean(values)) for name, values in jax.device_get(metrics).items()}
    return agent, means | as_floats(beyond_bound(agent, experience, bound_key))


def end_round(agent: AnyAgent, experience: Experience) -> tuple[AnyAgent, dict[str, float]]:
    """What the agent has to do once a round, done when this returns; see `OffPolicyAgent.end_round`."""
    agent, metrics = agent.end_round(experience)
    return agent, as_floats(metrics)


def learn_round(agent: AnyOnPolicyAgent, data: Round) -> tuple[AnyOnPolicyAgent, int, dict[str, float]]:
    """Let an on-policy algorithm learn from a round, done when this returns."""
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


def _key_of(agent: Any) -> PRNGKeyArray:
    return agent.key


MARGIN = 0.1
"""A critic may leave its bounds by so much of their distance: it is an estimate, not the truth."""

LOOKED_AT = 256
"""Replayed pairs whose Q is compared with its bounds."""


@eqx.filter_jit
def beyond_bound(agent: OffPolicyAgent, experience: Experience, key: PRNGKeyArray) -> dict[str, Array]:
    """Metrics: the share of replayed pairs whose Q is beyond its bounds, and these; no reward, no bounds.

    Nothing of an agent without Q. While there is no replay, demonstrated pairs are looked at.
    """
    q = agent.q_values(experience.sample_both(key, LOOKED_AT, demonstration_share=0.0))
    if q is None:
        return {}
    low, high = experience.return_bounds()
    margin = MARGIN * (high - low)
    beyond = (q < low - margin) | (q > high + margin)
    share = jnp.where(high > low, jnp.mean(beyond), 0.0)
    return {"critic/beyond_bound": share, "critic/bound_low": low, "critic/bound_high": high}
