"""What is measured: an agent, its experience and a policy, untrained and of given sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from benchmarks.sizes import Sizes
from otpr.agents.otpr.agent import OTPR
from otpr.agents.otpr.config import OTPRConfig
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.data.replay import Replay
from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.generators import Diffusion
from otpr.policies.normalization import Normalizer
from otpr.policies.policy import Policy
from otpr.training.finetune import BLOCK


def transitions(sizes: Sizes, n: int, chunk_length: int, seed: int) -> Transitions:
    """`n` transitions without a future, with a smooth reward for how the chunk fits the state.

    As a robot's, the states lie near a surface of few dimensions (as many as an action has), and the actions
    of a chunk hardly differ. So a critic fitted to the reward tells pairs apart, and transport can be learnt.
    """
    keys = jax.random.split(jax.random.key(seed), 4)
    o, a = sizes.observation_dim, sizes.action_dim
    place = jax.random.normal(keys[0], (n, a))
    surface = jax.random.normal(jax.random.key(0), (a, o)) / a**0.5  # the same for every seed
    observation = place @ surface + 0.05 * jax.random.normal(keys[1], (n, o))
    action = jax.random.uniform(keys[2], (n, a), minval=-0.9, maxval=0.9)
    chunk = jnp.tile(action, chunk_length) + 0.05 * jax.random.normal(keys[3], (n, chunk_length * a))
    reward = -jnp.sum((action - 0.9 * jnp.tanh(place)) ** 2, axis=1)
    return Transitions(
        observation=observation,
        chunk=chunk,
        reward=reward,
        discount=jnp.zeros(n),
        next_observation=observation[::-1],
        return_to_go=reward,
    )


def experience(sizes: Sizes, n: int, chunk_length: int) -> Experience:
    """A full replay of `n` transitions that is the target measure too, and 1,000 demonstrations."""
    replay = Replay(transitions(sizes, n, chunk_length, 2), jnp.asarray(n), jnp.asarray(0))
    demonstrations = transitions(sizes, 1000, chunk_length, 3)
    return Experience(replay, replay, Mixture.single(demonstrations), demonstrations)


def batch_keys(updates: int) -> PRNGKeyArray:
    """Keys of the batches of so many gradient steps."""
    return jax.random.split(jax.random.key(0), updates)


def base_policy(sizes: Sizes, *, width: int, depth: int, chunk_length: int, levels: int) -> Policy:
    """An untrained policy, without a chooser."""
    o = sizes.observation_dim
    network = NoiseNetwork(
        o, chunk_length * sizes.action_dim, width=width, depth=depth, key=jax.random.key(0)
    )
    normalizer = Normalizer(jnp.zeros(o), jnp.ones(o))
    generator = Diffusion(network, NoiseSchedule.cosine(levels))
    return Policy(generator, normalizer, None, chunk_length, sizes.action_dim, 1)


def agent(sizes: Sizes, base: Policy, config: OTPRConfig) -> OTPR:
    """An agent with that base policy."""
    return OTPR.create(base, transitions(sizes, 1000, base.chunk_length, 1), config, jax.random.key(1))


def learner(sizes: Sizes, width: int, depth: int) -> OTPR:
    """An agent with networks of one size, otherwise at the default settings."""
    base = base_policy(sizes, width=width, depth=depth, chunk_length=sizes.chunk_length, levels=10)
    config = OTPRConfig(
        batch_size=sizes.batch,
        pairs=_pairs(sizes),
        critic_width=width,
        critic_depth=depth,
        potentials_width=width,
        potentials_depth=depth,
    )
    return agent(sizes, base, config)


def default_agent(sizes: Sizes, chunk_length: int, levels: int, candidates: int = 16) -> OTPR:
    """An agent at the default settings (in a trial: with small networks)."""
    width, depth = sizes.policy_width, sizes.policy_depth
    base = base_policy(sizes, width=width, depth=depth, chunk_length=chunk_length, levels=levels)
    small = min(width, OTPRConfig.critic_width)
    config = OTPRConfig(
        batch_size=min(sizes.batch, OTPRConfig.batch_size),
        pairs=_pairs(sizes),
        critic_width=small,
        potentials_width=small,
        candidates=candidates,
    )
    return agent(sizes, base, config)


def _pairs(sizes: Sizes) -> int:
    """A timed block is shorter than those of a run: so many pairs that their share is the same."""
    return OTPRConfig.pairs * sizes.block // BLOCK
