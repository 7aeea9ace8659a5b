"""Blocks of gradient steps as compiled programs, batches drawn on the device."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.agents.parts.agent import OffPolicyAgent, OnPolicyAgent, Round
from otpr.agents.parts.seeing import Seeing, Seen
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.frames import DecisionObservations
from otpr.devices import divided, on_each
from otpr.policies.encoder import encode
from otpr.scanning import scan_state

AnyAgent = TypeVar("AnyAgent", bound=OffPolicyAgent)
AnyOnPolicyAgent = TypeVar("AnyOnPolicyAgent", bound=OnPolicyAgent)


@eqx.filter_jit
def update_block(
    agent: AnyAgent, experience: Experience, keys: PRNGKeyArray, update_policy: bool
) -> tuple[AnyAgent, dict[str, Array]]:
    """Take one gradient step for each key, which draws its batch; also returns the metrics of each step.

    With several devices, the batch is divided among them and the agent is replicated.
    """
    mesh = experience.store.mesh
    if update_policy:
        agent = on_each(agent.begin_block(experience), mesh)

    def step(agent: AnyAgent, key: PRNGKeyArray) -> tuple[AnyAgent, dict[str, Array]]:
        agent, metrics = agent.update(divided(agent.draw(experience, key), mesh), update_policy)
        return on_each(agent, mesh), metrics

    return scan_state(step, agent, keys)


def take_block(
    agent: AnyAgent,
    experience: Experience,
    updates: int,
    update_policy: bool,
    frames: DecisionObservations | None = None,
) -> tuple[AnyAgent, dict[str, float]]:
    """Take `updates` gradient steps; returns mean metrics, and those of `beyond_bound` at the end.

    Args:
        agent: before them.
        experience: what they learn from.
        updates: how many steps.
        update_policy: whether the policy is trained, and not the critics alone.
        frames: the observations of the states in `experience`, if the encoder is trained (`Seeing`).
    """
    agent, keys, bound_key = update_keys(agent, updates)
    if frames is None:
        agent, metrics = update_block(agent, experience, keys, update_policy)
    else:
        agent, metrics = _seeing_block(agent, experience, keys, update_policy, frames)
    means = {name: float(np.mean(values)) for name, values in jax.device_get(metrics).items()}
    return agent, means | as_floats(beyond_bound(agent, experience, bound_key))


def _seeing_block(
    agent: AnyAgent,
    experience: Experience,
    keys: PRNGKeyArray,
    update_policy: bool,
    frames: DecisionObservations,
) -> tuple[AnyAgent, dict[str, Array]]:
    """`update_block` with frames that are read on the host between steps."""
    mesh = experience.store.mesh
    if update_policy:
        agent = on_each(_begin_block(agent, experience), mesh)
    steps: list[dict[str, Array]] = []
    for key in keys:
        batch = divided(drawn(agent, experience, key, frames), mesh)
        agent, metrics = update(agent, batch, update_policy)
        agent = on_each(agent, mesh)
        steps.append(metrics)
    return agent, {name: jnp.stack([step[name] for step in steps]) for name in steps[0]}


@eqx.filter_jit
def _begin_block(agent: AnyAgent, experience: Experience) -> AnyAgent:
    return agent.begin_block(experience)


def drawn(
    agent: OffPolicyAgent, experience: Experience, key: PRNGKeyArray, frames: DecisionObservations | None
) -> Any:
    """The batch of one gradient step, with its observations if the encoder is trained."""
    batch, rows = _draw(agent, experience, key)
    if frames is None:
        return batch
    assert isinstance(agent, Seeing)
    return Seen(batch, agent.encoder.on_device(frames.of(np.asarray(rows))))


@eqx.filter_jit
def _draw(agent: OffPolicyAgent, experience: Experience, key: PRNGKeyArray) -> tuple[Any, Int[Array, " n"]]:
    batch = agent.draw(experience, key)
    return batch, agent.states_at(batch)


@eqx.filter_jit
def update(agent: AnyAgent, batch: Any, update_policy: bool) -> tuple[AnyAgent, dict[str, Array]]:
    """A single gradient step, as in `update_block`."""
    return agent.update(batch, update_policy)


def encode_anew(
    agent: Seeing, experience: Experience, episodes: Sequence[Episode]
) -> tuple[Seeing, Experience, float]:
    """Re-encode all states with the trained encoder, which acts from then on.

    Args:
        agent: whose encoder was trained.
        experience: with states of the encoder as it was.
        episodes: every one in the store, in order, with what was seen in it.

    Returns:
        the agent and its experience; and how far the features moved: the root mean square of the changes of
        all of them, over their standard deviation.
    """
    agent = agent.acting_anew()
    before = experience.store.features
    experience = experience.encoded(episodes, functools.partial(encode, agent.encoder))
    moved = _moved(before, experience.store.features, experience.store.size)
    return agent.states_moved(experience), experience, float(moved)


@jax.jit
def _moved(
    before: Float[Array, "rows f"], after: Float[Array, "rows f"], size: Int[Array, ""]
) -> Float[Array, ""]:
    taken = (jnp.arange(before.shape[0]) < size)[:, None]
    mean = jnp.sum(taken * before, axis=0) / size
    change = jnp.sum(taken * (after - before) ** 2)
    spread = jnp.sum(taken * (before - mean) ** 2)
    return jnp.sqrt(change / jnp.maximum(spread, 1e-12))  # a camera may show a constant image


def end_round(agent: AnyAgent, experience: Experience) -> tuple[AnyAgent, dict[str, float]]:
    """The agent's work once per round; blocks until it is done. See `OffPolicyAgent.end_round`."""
    agent, metrics = agent.end_round(experience)
    return on_each(agent, experience.store.mesh), as_floats(metrics)


def learn_round(agent: AnyOnPolicyAgent, data: Round) -> tuple[AnyOnPolicyAgent, int, dict[str, float]]:
    """Let an on-policy algorithm learn from a round; blocks until it is done."""
    agent, updates, metrics = agent.learn_round(data)
    return agent, updates, as_floats(metrics)


def as_floats(metrics: Mapping[str, Array]) -> dict[str, float]:
    """Transfer scalars from the device in one call."""
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}


def update_keys(agent: AnyAgent, updates: int) -> tuple[AnyAgent, PRNGKeyArray, PRNGKeyArray]:
    """The agent as a block begins with it, the keys of its gradient steps, and one for `beyond_bound`."""
    key, scan_key = jax.random.split(agent.key)
    agent = eqx.tree_at(_key_of, agent, key)
    return agent, jax.random.split(scan_key, updates), jax.random.fold_in(scan_key, updates)


def _key_of(agent: Any) -> PRNGKeyArray:
    return agent.key


MARGIN = 0.1
"""Tolerance of the bounds on Q, relative to their distance, because critics are estimates."""

LOOKED_AT = 256
"""Number of replayed pairs whose Q is compared with the bounds."""


@eqx.filter_jit
def beyond_bound(agent: OffPolicyAgent, experience: Experience, key: PRNGKeyArray) -> dict[str, Array]:
    """Metrics: the share of replayed pairs whose Q is beyond its bounds, and these; no reward, no bounds.

    Empty for an agent without Q. While the replay is empty, demonstrated pairs are used.
    """
    q = agent.q_values(experience.sample_both(key, LOOKED_AT, demonstration_share=0.0))
    if q is None:
        return {}
    low, high = experience.return_bounds()
    margin = MARGIN * (high - low)
    beyond = (q < low - margin) | (q > high + margin)
    share = jnp.where(high > low, jnp.mean(beyond), 0.0)
    return {"critic/beyond_bound": share, "critic/bound_low": low, "critic/bound_high": high}
