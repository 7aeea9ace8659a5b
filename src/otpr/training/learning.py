"""Blocks of gradient steps as one compiled program: `lax.scan` over updates, batches drawn on the device."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from otpr.agents.otpr import OTPR, Batch
from otpr.data.chunks import Transitions
from otpr.data.replay import Replay


class Experience(NamedTuple):
    """What the agent learns from."""

    replay: Replay  # everything it did
    successes: Replay  # the episodes that succeeded, demonstrations first
    demonstrations: Transitions  # always kept


def _rows(data: Transitions, key, n):
    rows = jax.random.randint(key, (n,), 0, data.reward.shape[0])
    return Transitions(*(f[rows] for f in data))


def _cat(*parts):
    return Transitions(*(jnp.concatenate(f) for f in zip(*parts, strict=True)))


def target_samples(experience, config, key, n):
    k1, k2 = jax.random.split(key)
    if config.target_measure == "successes":
        return experience.successes.sample(k1, n)
    m = int(n * config.demo_share)
    return _cat(_rows(experience.demonstrations, k2, m), experience.replay.sample(k1, n - m))


def draw(experience, config, key) -> Batch:
    k1, k2, k3 = jax.random.split(key, 3)
    n_demo = int(config.batch_size * config.demo_share)
    return Batch(
        replay=experience.replay.sample(k1, config.batch_size - n_demo),
        demonstrations=_rows(experience.demonstrations, k2, n_demo),
        pool=target_samples(experience, config, k3, config.pool * config.batch_size),
    )


@eqx.filter_jit
def update_block(agent: OTPR, experience: Experience, n: int, update_policy: bool):
    dynamic, static = eqx.partition(agent, eqx.is_array)
    key, sub = jax.random.split(agent.key)

    def step(dynamic, key):
        agent = eqx.combine(dynamic, static)
        agent, metrics = agent.update(draw(experience, agent.config, key), update_policy)
        return eqx.filter(agent, eqx.is_array), metrics

    dynamic, metrics = jax.lax.scan(step, dynamic, jax.random.split(sub, n))
    agent = eqx.combine(dynamic, static)
    agent = eqx.tree_at(lambda a: a.key, agent, key)
    return agent, jax.tree.map(lambda m: m[-1] if m.ndim == 1 else m, metrics)


@eqx.filter_jit
def update_potentials(agent: OTPR, experience: Experience):
    c = agent.config
    key, *k = jax.random.split(agent.key, 5)
    agent = eqx.tree_at(lambda a: a.key, agent, key)
    n = c.ot_block

    def rows(key, n):
        a, b = jax.random.split(key)
        m = int(n * c.demo_share)
        return _cat(_rows(experience.demonstrations, a, m), experience.replay.sample(b, n - m))

    r = rows(k[0], n)
    columns = r if c.target_measure == "replay" else target_samples(experience, c, k[1], n)
    return agent.update_potentials(r, columns, rows(k[2], 256), target_samples(experience, c, k[3], 256))
