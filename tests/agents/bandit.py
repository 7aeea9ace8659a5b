"""A contextual bandit that tests of algorithms share: two modes of demonstrations, one of them pays.

The best mode is the one on the observation's side; half of the experts go to either, whatever they observe.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from otpr.data.chunks import Transitions, take
from otpr.data.replay import Replay
from otpr.policies.normalization import Normalizer

from otpr.agents import agent_class
from otpr.agents.parts.agent import AgentConfig
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.diffusion import NoiseSchedule, denoising_losses
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.generators import Diffusion
from otpr.policies.policy import Policy
from otpr.training.learning import update_block

MODE = 0.5


def one_step(observation: np.ndarray, action: np.ndarray, reward: np.ndarray) -> Transitions:
    """Episodes of a single step that ends them."""
    n = len(reward)
    return Transitions(
        observation=np.asarray(observation, np.float32).reshape(n, 1),
        chunk=np.asarray(action, np.float32).reshape(n, 1),
        reward=np.asarray(reward, np.float32),
        discount=np.zeros(n, np.float32),
        next_observation=np.zeros((n, 1), np.float32),
        return_to_go=np.asarray(reward, np.float32),
    )


def reward_of(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    return (observation * action > 0).astype(np.float32)


@functools.cache
def demonstrations() -> Transitions:
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, 400)
    action = np.where(np.arange(400) % 2, MODE, -MODE) + 0.05 * rng.normal(size=400)
    return on_device(one_step(observation, action, reward_of(observation, action)))


def on_device(data: Transitions) -> Transitions:
    return Transitions(*map(jnp.asarray, data))


@functools.cache
def base() -> Policy:
    """Imitation of the demonstrations."""
    schedule = NoiseSchedule.cosine(10)
    network = NoiseNetwork(1, 1, width=64, depth=2, key=jax.random.key(0))
    optimizer = optax.adam(3e-3)
    data = demonstrations()
    arrays, static = eqx.partition(network, eqx.is_array)

    @jax.jit
    def train(arrays: Any, key: jax.Array) -> Any:
        def step(carry: tuple[Any, Any], key: jax.Array) -> tuple[tuple[Any, Any], None]:
            arrays, state = carry
            batch = take(data, key, 128)

            def loss(arrays: Any) -> jax.Array:
                network = eqx.combine(arrays, static)
                return jnp.mean(denoising_losses(network, schedule, batch.observation, batch.chunk, key))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, 1500))
        return arrays

    network = eqx.combine(train(arrays, jax.random.key(1)), static)
    normalizer = Normalizer(jnp.zeros(1), jnp.ones(1))
    return Policy(Diffusion(network, schedule), normalizer, None, chunk_length=1, action_dim=1, candidates=1)


def sample(policy: Policy, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and one action of the policy for each."""
    observations = np.random.default_rng(seed).uniform(-1, 1, (n, 1)).astype(np.float32)
    chunks, _ = policy.act_batch(jnp.asarray(observations), jax.random.split(jax.random.key(seed), n))
    return observations[:, 0], np.asarray(chunks)[:, 0, 0]


def good_share(policy: Policy) -> float:
    """Share of 512 actions that pay and lie within the best mode, not merely on its side."""
    observation, action = sample(policy, 512, seed=99)
    return float(np.mean(np.abs(action - MODE * np.sign(observation)) < 0.25))


def experience_of(replayed: Transitions | None = None) -> Experience:
    """The demonstrations, and a replay."""
    replay = Replay.create(1024, 1, 1)
    if replayed is not None:
        replay = replay.add(replayed)
    data = demonstrations()
    return Experience(replay, Replay.create(1, 1, 1), Mixture.single(data), data)


def paying_share(policy: Policy) -> float:
    """Share of 512 actions that pay."""
    return float(np.mean(reward_of(*sample(policy, 512, seed=99))))


def some_batch(n: int = 32) -> Transitions:
    """Transitions of all sorts: terminated, timed out, with more achieved than the critics know."""
    rng = np.random.default_rng(7)
    return on_device(
        Transitions(
            observation=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
            chunk=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
            reward=rng.uniform(-1, 1, n).astype(np.float32),
            discount=rng.choice([0.0, 0.9], n).astype(np.float32),
            next_observation=rng.uniform(-1, 1, (n, 1)).astype(np.float32),
            return_to_go=rng.uniform(-1, 1, n).astype(np.float32),
        )
    )


def new_agent(config: AgentConfig, seed: int = 3) -> Any:
    return agent_class(config.algorithm).create(base(), demonstrations(), config, jax.random.key(seed))


def fine_tune(config: AgentConfig, rounds: int = 8, updates: int = 100) -> Any:
    """Rounds of 64 actions, each followed by so many updates; the first of the critics alone."""
    agent, experience = new_agent(config), experience_of()
    for i in range(rounds):
        explorer = agent.exploring() if i else agent.exploring().single()
        observation, action = sample(explorer, 64, seed=i)
        data = one_step(observation, action, reward_of(observation, action))
        experience = experience._replace(replay=experience.replay.add(data))
        agent, metrics = update_block(agent, experience, jax.random.split(jax.random.key(i), updates), i > 0)
        assert all(np.isfinite(value).all() for value in metrics.values())
    return agent


# --- plain references


def adam_step(model: Any, loss: Callable[[Any], jax.Array], learning_rate: float) -> Any:
    """A model after Adam's first step: the learning rate times each entry's gradient over its size."""
    gradient = jax.jit(jax.grad(lambda arrays: loss(eqx.combine(arrays, static))))
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    step = jax.tree.map(lambda g: -learning_rate * g / (jnp.abs(g) + 1e-8), gradient(arrays))
    return eqx.apply_updates(model, step)


def moved(target: Any, online: Any, rate: float) -> Any:
    """The weighted mean of two models, array by array."""
    arrays, static = eqx.partition(target, eqx.is_inexact_array)
    others = eqx.filter(online, eqx.is_inexact_array)
    return eqx.combine(jax.tree.map(lambda t, o: (1 - rate) * t + rate * o, arrays, others), static)


def assert_close(given: Any, expected: Any, atol: float = 1e-5) -> None:
    """Array by array."""
    leaves = [
        jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_inexact_array))
        for tree in (given, expected)
    ]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, err_msg=jax.tree_util.keystr(path))


def noised(policy: Policy, chunks: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noisy chunks, their levels and their noise, as score matching draws them."""
    level_key, noise_key = jax.random.split(key)
    alpha_bar = policy.diffusion.schedule.alpha_bar
    k = jax.random.randint(level_key, (chunks.shape[0],), 0, alpha_bar.shape[0])
    noise = jax.random.normal(noise_key, chunks.shape)
    return jnp.sqrt(alpha_bar[k])[:, None] * chunks + jnp.sqrt(1 - alpha_bar[k])[:, None] * noise, k, noise
