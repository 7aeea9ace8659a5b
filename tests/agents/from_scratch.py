"""Algorithms that do not start from the pre-trained policy, at work on the bandit."""

from __future__ import annotations

import bandit
import jax
import jax.numpy as jnp

from otpr.agents import agent_class
from otpr.agents.parts.agent import Agent, AgentConfig
from otpr.diffusion import NoiseNetwork, NoiseSchedule
from otpr.generators import Diffusion
from otpr.normalization import Normalizer
from otpr.policy import Policy
from otpr.training.learning import update_block


def base(observation_dim: int, chunk_length: int, action_dim: int, width: int) -> Policy:
    """An untrained diffusion policy: of it they take sizes and normalisation alone."""
    chunk_dim = chunk_length * action_dim
    network = NoiseNetwork(observation_dim, chunk_dim, width=width, depth=2, key=jax.random.key(0))
    normalizer = Normalizer(jnp.full(observation_dim, 0.1), jnp.full(observation_dim, 1.5))
    diffusion = Diffusion(network, NoiseSchedule.cosine(4))
    return Policy(diffusion, normalizer, None, chunk_length, action_dim, candidates=1)


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


def paid_share(policy: Policy) -> float:
    """Share of 512 actions that are paid for, in the best mode or not."""
    return float(bandit.reward_of(*bandit.sample(policy, 512, seed=99)).mean())
