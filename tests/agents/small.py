"""Small agents whose states are of two observations, and whose plans are longer than what is executed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents import agent_class
from otpr.agents.parts.actor_critic import ImplicitCritics
from otpr.agents.parts.agent import AgentConfig
from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.data.store import Transitions
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.policies.packed import pack, unpack
from otpr.policies.policy import Policy
from otpr.spec import Spec, zeros
from tiny import arrays, assert_same_arrays, policy
from tiny import experience as demonstrated

BASE = policy(observation_dim=3, action_dim=2, history=2, horizon=3, execute=2)
GAMMA = 0.9


def episode(steps: int, seed: int, *, terminated: bool = True, success: bool | None = None) -> Episode:
    """Random numbers; it succeeds where it terminates, unless told otherwise."""
    rng = np.random.default_rng(seed)
    return Episode(
        observations={"state": rng.normal(size=(steps + 1, 3)).astype(np.float32)},
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.uniform(0, 1, steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated if success is None else success,
        seed=seed,
    )


DEMONSTRATIONS = [episode(9, 0), episode(7, 1), episode(6, 2, terminated=False)]
OWN = [episode(8, 3, terminated=False), episode(5, 4), episode(1, 5), episode(6, 6, success=False)]
EPISODES = [*DEMONSTRATIONS, *OWN]


def features(walked: Episode) -> np.ndarray:
    return encode(BASE.encoder, walked.observations)


def experience(own: Sequence[Episode] = OWN, spec: Spec = BASE.spec, gamma: float = GAMMA) -> Experience:
    """Demonstrations, and some of an agent's own episodes."""
    result = demonstrated(BASE, DEMONSTRATIONS, gamma, room=64, spec=spec)
    for each in own:
        result = result.add(Collected(each, features(each)))
    return result


def rows_of(episodes: Sequence[Episode]) -> list[tuple[int, Episode, int]]:
    """Of every row that a step is taken from: its number in the store, its episode, and the step in it."""
    found, row = [], 0
    for each in episodes:
        found += [(row + t, each, t) for t in range(len(each))]
        row += len(each) + 1
    return found


def walked(each: Episode, t: int, spec: Spec = BASE.spec, gamma: float = GAMMA) -> Transitions:
    """The transition from step t of an episode, by loops over its steps."""
    T, coded = len(each), features(each)

    def state(at: int) -> np.ndarray:
        return np.concatenate([coded[max(at - back, 0)] for back in reversed(range(spec.history))])

    plan = np.stack([each.actions[min(t + i, T - 1)] for i in range(spec.horizon)])
    end = min(t + spec.execute, T)
    rest = sum(gamma**i * r for i, r in enumerate(each.rewards[t:]))
    known = each.terminated or (each.rewards >= 0).all()
    fields = (
        state(t),
        plan[: spec.execute].reshape(-1),
        plan,
        sum(gamma**i * r for i, r in enumerate(each.rewards[t:end])),
        0.0 if each.terminated and end == T else gamma ** (end - t),
        state(end),
        rest if known else -np.inf,
    )
    return Transitions(*(np.asarray(field, np.float32) for field in fields))


def transitions(n: int, spec: Spec = BASE.spec, observation_dim: int = 3) -> Transitions:
    """Random ones; some end their episode, some pay, from some more was achieved than critics will know."""
    rng = np.random.default_rng(7)
    width = spec.history * observation_dim
    plan = rng.uniform(-1, 1, (n, spec.horizon, spec.action_dim))
    fields = (
        rng.normal(size=(n, width)),
        plan[:, : spec.execute].reshape(n, -1),
        plan,
        rng.uniform(size=n) < 0.3,
        np.where(rng.uniform(size=n) < 0.3, 0, 0.9),
        rng.normal(size=(n, width)),
        rng.uniform(-0.5, 1, n),
    )
    return Transitions(*(jnp.asarray(field, jnp.float32) for field in fields))


def created(config: AgentConfig, seed: int = 0, base: Policy = BASE) -> Any:
    """An agent that has learnt nothing, from the demonstrations alone."""
    seen = experience((), config.acting_spec(base.spec))
    return agent_class(config.algorithm).create(base, seen, config, jax.random.key(seed))


def fresh(config: AgentConfig, base: Policy = BASE) -> Any:
    """One whose target critics are not its critics, nor its trained network the moving average."""
    agent, other = (created(config, seed, base) for seed in (3, 4))
    if hasattr(agent, "critics"):
        implicit = isinstance(agent.critics, ImplicitCritics)
        where = (lambda a: a.critics.critics.target) if implicit else (lambda a: a.critics.target)
        agent = eqx.tree_at(where, agent, other.critics.q)
    if hasattr(agent, "actor") and hasattr(agent.actor, "network"):
        less = jax.tree.map(lambda x: 0.9 * x if eqx.is_inexact_array(x) else x, agent.actor.network)
        agent = eqx.tree_at(lambda a: a.actor.trained.model, agent, less)
    return agent


def assert_comes_back_from_disk(given: Policy, folder: Path) -> Policy:
    """Saved and loaded, and packed for a worker, it acts the same bit for bit; the loaded one."""
    given.save(folder, task="a/b")
    loaded = load_policy(folder)
    assert_same_arrays(arrays(unpack(pack(given))), arrays(loaded))
    assert unpack(pack(given)).document() == loaded.document() == given.document()
    observations = {
        name: np.random.default_rng(1).normal(size=entry.shape).astype(entry.dtype)
        for name, entry in zeros(given.spec.observation, 7, given.spec.history).items()
    }
    keys = jax.random.split(jax.random.key(0), 7)
    np.testing.assert_array_equal(
        loaded.act_batch(observations, keys)[0], given.act_batch(observations, keys)[0]
    )
    return loaded


def assert_refused(config: AgentConfig, **changes: float) -> None:
    """Each change by itself is refused, and its field named."""
    for field, value in changes.items():
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(config, **{field: value})
