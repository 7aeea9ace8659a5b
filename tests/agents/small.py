"""Algorithms that do not start from the pre-trained policy, at work on the bandit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import bandit
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from otpr.data.chunks import Transitions
from otpr.policies.normalization import Normalizer

from otpr.agents import agent_class
from otpr.agents.parts.agent import Agent, AgentConfig
from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.generators import Diffusion
from otpr.policies.policy import Policy, load_policy
from otpr.training.learning import update_block


def base(observation_dim: int, chunk_length: int, action_dim: int, width: int) -> Policy:
    """An untrained diffusion policy: of it they take sizes and normalisation alone."""
    chunk_dim = chunk_length * action_dim
    network = NoiseNetwork(observation_dim, chunk_dim, width=width, depth=2, key=jax.random.key(0))
    normalizer = Normalizer(jnp.full(observation_dim, 0.1), jnp.full(observation_dim, 1.5))
    diffusion = Diffusion(network, NoiseSchedule.cosine(4))
    return Policy(diffusion, normalizer, None, chunk_length, action_dim, candidates=1)


def normalized(data: Transitions) -> tuple[jax.Array, jax.Array]:
    """States and next states as `base` normalises them."""
    return (data.observation - 0.1) / 1.5, (data.next_observation - 0.1) / 1.5


def fresh(config: AgentConfig, data: Transitions) -> Any:
    """An agent of few weights, for two actions; its target critics are not its critics."""
    start = base(data.observation.shape[1], chunk_length=2, action_dim=2, width=16)
    agent, other = (
        agent_class(config.algorithm).create(start, data, config, jax.random.key(seed)) for seed in (0, 9)
    )
    return dataclasses.replace(agent, target_critic=other.critic)


def learn(config: AgentConfig, *, offline: int, rounds: int, updates: int) -> Agent:
    """An agent after steps from the demonstrations alone, then rounds of 64 episodes of its own."""
    start = base(1, 1, 1, width=32)
    agent = agent_class(config.algorithm).create(start, bandit.demonstrations(), config, jax.random.key(3))
    experience = bandit.experience_of()
    if offline:
        agent, _ = update_block(agent, experience, jax.random.split(jax.random.key(4), offline), True)
    for i in range(rounds):
        observation, action = bandit.sample(agent.exploring(), 64, seed=i)
        data = bandit.one_step(observation, action, bandit.reward_of(observation, action))
        experience = experience._replace(replay=experience.replay.add(data))
        agent, _ = update_block(agent, experience, jax.random.split(jax.random.key(i), updates), True)
    return agent


def assert_comes_back_from_disk(policy: Policy, folder: Path) -> Policy:
    """Saved and loaded, it acts the same; the loaded one."""
    policy.save(folder, task="a/b")
    loaded = load_policy(folder)
    observations = jax.random.normal(jax.random.key(1), (7, 1))
    keys = jax.random.split(jax.random.key(0), 7)
    np.testing.assert_array_equal(
        loaded.act_batch(observations, keys)[0], policy.act_batch(observations, keys)[0]
    )
    return loaded


def assert_refused(config: AgentConfig, **changes: float) -> None:
    """Each change by itself is refused, and its field named."""
    for field, value in changes.items():
        with pytest.raises(ValueError, match=field):
            dataclasses.replace(config, **{field: value})
