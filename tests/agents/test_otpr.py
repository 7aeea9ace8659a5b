"""The agent as a whole: it learns what it should, and its parts do what the paper says."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from otpr.agents.otpr import OTPR, OTPRConfig
from otpr.data.chunks import Transitions, take
from otpr.data.replay import Replay
from otpr.diffusion import NoiseNetwork, NoiseSchedule, denoising_losses
from otpr.normalization import Normalizer
from otpr.policy import Policy
from otpr.training.learning import Experience, update_block, update_potentials

MODE = 0.5
CONFIG = OTPRConfig(
    critic_width=32,
    potentials_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    demonstration_share=0.25,
    ot_block=64,
    ot_batch=64,
    ot_blocks=2,
    dual_steps=50,
    candidates=8,
)


def one_step(observation, action, reward) -> Transitions:
    """Episodes of a single step that ends them: a contextual bandit."""
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
    """The best mode is the one on the observation's side."""
    return (observation * action > 0).astype(np.float32)


@pytest.fixture(scope="module")
def demonstrations() -> Transitions:
    """Half of the experts go to one mode, half to the other, whatever they observe."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, 400)
    action = np.where(np.arange(400) % 2, MODE, -MODE) + 0.05 * rng.normal(size=400)
    return Transitions(*map(jnp.asarray, one_step(observation, action, reward_of(observation, action))))


@pytest.fixture(scope="module")
def base(demonstrations: Transitions) -> Policy:
    """Imitation of the demonstrations."""
    schedule = NoiseSchedule.cosine(10)
    network = NoiseNetwork(1, 1, width=64, depth=2, key=jax.random.key(0))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(arrays, key):
        def step(carry, key):
            arrays, state = carry
            batch = take(demonstrations, key, 128)

            def loss(arrays):
                network = eqx.combine(arrays, static)
                return jnp.mean(denoising_losses(network, schedule, batch.observation, batch.chunk, key))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, 1500))
        return arrays

    arrays, static = eqx.partition(network, eqx.is_array)
    network = eqx.combine(train(arrays, jax.random.key(1)), static)
    normalizer = Normalizer(jnp.zeros(1), jnp.ones(1))
    return Policy(network, schedule, normalizer, None, chunk_length=1, action_dim=1, candidates=1)


def sample(policy: Policy, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and one action of the policy for each."""
    observations = np.random.default_rng(seed).uniform(-1, 1, (n, 1)).astype(np.float32)
    chunks, _ = policy.act_batch(observations, jax.random.split(jax.random.key(seed), n))
    return observations[:, 0], np.asarray(chunks)[:, 0, 0]


def good_share(policy: Policy) -> float:
    """Share of 512 actions that lie within the best mode, not merely on its side."""
    observation, action = sample(policy, 512, seed=99)
    return float(np.mean(np.abs(action - MODE * np.sign(observation)) < 0.25))


def successful(data: Transitions) -> Transitions:
    rows = np.flatnonzero(np.asarray(data.reward) > 0)
    return Transitions(*(np.asarray(field)[rows] for field in data))


def fine_tune(base: Policy, demonstrations: Transitions, config: OTPRConfig) -> OTPR:
    agent = OTPR.create(base, demonstrations, config, jax.random.key(3))
    experience = Experience(
        Replay.create(1024, 1, 1), Replay.create(1024, 1, 1).add(successful(demonstrations)), demonstrations
    )
    for i in range(8):
        observation, action = sample(agent.deployed(), 64, seed=i)
        data = one_step(observation, action, reward_of(observation, action))
        experience = Experience(
            experience.replay.add(data), experience.successes.add(successful(data)), demonstrations
        )
        agent, _ = update_block(agent, experience, 100, i > 0)
        agent, _ = update_potentials(agent, experience)
    return agent


@pytest.mark.parametrize("measure", ["successes", "replay"])
def test_otpr_moves_the_mass_to_the_best_mode(measure, base, demonstrations):
    before = good_share(base)
    assert 0.4 < before < 0.6
    tuned = fine_tune(base, demonstrations, dataclasses.replace(CONFIG, target_measure=measure))
    assert good_share(tuned.deployed()) > 0.9
    # the score network itself, one sample; a quarter of its batch is demonstrations of both modes
    assert good_share(tuned.policy) > before + 0.2


def test_imitation_alone_does_not(base, demonstrations):
    imitator = dataclasses.replace(CONFIG, pairing="imitation", target_measure="replay", candidates=1)
    imitated = fine_tune(base, demonstrations, imitator)
    assert abs(good_share(imitated.policy) - good_share(base)) < 0.1
