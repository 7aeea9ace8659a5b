"""A contextual bandit that tests of algorithms share: two modes of demonstrations, one of them pays.

The best mode is the one on the observation's side; half of the experts go to either, whatever they observe.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from otpr.agents import agent_class
from otpr.agents.parts.agent import AgentConfig
from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.diffusion import NoiseSchedule, denoising_losses
from otpr.networks.mlp import NoiseMLP
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training.learning import update_block
from tiny import batch_keys

MODE = 0.5
SPEC = Spec.flat(1, 1)


def one_step(observation: np.ndarray, action: np.ndarray) -> list[Episode]:
    """Episodes of a single step, which ends them: with success where it pays."""
    rewards = reward_of(observation, action)
    return [
        Episode(
            observations={"state": np.asarray([[o], [0.0]], np.float32)},
            actions=np.asarray([[a]], np.float32),
            rewards=np.asarray([r], np.float32),
            terminated=True,
            truncated=False,
            success=bool(r > 0),
            seed=seed,
        )
        for seed, (o, a, r) in enumerate(zip(observation, action, rewards, strict=True))
    ]


def reward_of(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    return (observation * action > 0).astype(np.float32)


@functools.cache
def demonstrated() -> tuple[np.ndarray, np.ndarray]:
    """What the experts observe, and what they do."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, 400)
    action = np.where(np.arange(400) % 2, MODE, -MODE) + 0.05 * rng.normal(size=400)
    return observation.astype(np.float32), action.astype(np.float32)


def features(observations: Mapping[str, np.ndarray]) -> np.ndarray:
    """As `base` encodes them."""
    return np.asarray(observations["state"])


@functools.cache
def _demonstrations() -> Experience:
    # an episode of one step takes two rows
    return Experience.of([one_step(*demonstrated())], (), features, spec=SPEC, gamma=0.99, room=1024)


def experience() -> Experience:
    """The demonstrations, and room; a copy, for whoever adds consumes it."""
    return jax.tree.map(jnp.copy, _demonstrations())


def added(experience: Experience, observation: np.ndarray, action: np.ndarray) -> Experience:
    """With so many episodes of an agent's own."""
    for episode in one_step(observation, action):
        experience = experience.add(Collected(episode, features(episode.observations)))
    return experience


@functools.cache
def base() -> Policy:
    """Imitation of the demonstrations."""
    schedule = NoiseSchedule.cosine(10)
    network = NoiseMLP(1, (1, 1), width=64, depth=2, key=jax.random.key(0))
    optimizer = optax.adam(3e-3)
    data = experience()
    arrays, static = eqx.partition(network, eqx.is_array)

    @jax.jit
    def train(arrays: Any, key: jax.Array) -> Any:
        def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
            arrays, state = carry
            batch = data.sample_demonstrations(key, 128)

            def loss(arrays: Any) -> jax.Array:
                network = eqx.combine(arrays, static)
                return jnp.mean(denoising_losses(network, schedule, batch.state, batch.plan, key))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, 1500))
        return arrays

    network = eqx.combine(train(arrays, jax.random.key(1)), static)
    encoder = VectorEncoder({"state": Normalizer(jnp.zeros(1), jnp.ones(1))})
    return Policy(encoder, Diffusion(network, schedule), None, SPEC)


def sample(policy: Policy, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and one action of the policy for each."""
    observations = np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), n)
    seen, actions = observations[:, None, None], []
    for start in range(0, n, 64):  # always as many at a time: it compiles once
        rows = slice(start, start + 64)
        actions.append(np.asarray(policy.act_batch({"state": seen[rows]}, keys[rows])[0])[:, 0, 0])
    return observations, np.concatenate(actions)


def good_share(policy: Policy) -> float:
    """Share of 512 actions that pay and lie within the best mode, not merely on its side."""
    observation, action = sample(policy, 512, seed=99)
    return float(np.mean(np.abs(action - MODE * np.sign(observation)) < 0.25))


def paying_share(policy: Policy) -> float:
    """Share of 512 actions that pay."""
    return float(np.mean(reward_of(*sample(policy, 512, seed=99))))


def new_agent(config: AgentConfig, seed: int = 3) -> Any:
    return agent_class(config.algorithm).create(base(), experience(), config, jax.random.key(seed))


def learn(
    config: AgentConfig, *, rounds: int = 8, updates: int = 100, offline: int = 0, warming: int = 1
) -> Any:
    """An agent after steps from the demonstrations alone, then rounds of 64 actions, each with updates.

    In the first `warming` rounds the critics learn alone, and no chooser has a say. Steps from the
    demonstrations are taken in blocks as long as a round's, which are one compiled program with them.
    """
    agent, seen = new_agent(config), experience()
    keys = batch_keys(offline)
    for start in range(0, offline, updates):
        agent, _ = update_block(agent, seen, keys[start : start + updates], True)
    for i in range(rounds):
        explorer = agent.exploring() if i >= warming else agent.exploring().single()
        seen = added(seen, *sample(explorer, 64, seed=i))
        keys = jax.random.split(jax.random.key(i), updates)
        agent, metrics = update_block(agent, seen, keys, i >= warming)
        assert all(np.isfinite(value).all() for value in metrics.values())
        agent, metrics = agent.end_round(seen)
        assert all(np.isfinite(value).all() for value in metrics.values())
    return agent
