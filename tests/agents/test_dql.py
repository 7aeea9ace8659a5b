"""DQL: what one update computes, through the whole sampling, and that it climbs Q."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents.dql import DQL, PRESETS, DQLConfig
from otpr.agents.parts.agent import Batch
from otpr.diffusion import NoiseSchedule
from otpr.policies.choosers import HighestQ
from otpr.policies.generators import Diffusion
from otpr.policies.policy import load_policy
from tiny import TASK, arrays, assert_same_arrays

CONFIG = DQLConfig(
    eta=1.0,
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    candidates=8,
)
update = eqx.filter_jit(DQL.update)


def ancestral_samples(network, alpha_bar, states, keys):
    """DDPM's sampling written out, a level at a time, one chunk for each state."""
    starts, steps = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    a = jax.vmap(lambda key: jax.random.normal(key, (1, 1))[0])(starts)
    ahead = np.append(1.0, alpha_bar[:-1])
    for k in range(len(alpha_bar) - 1, -1, -1):
        noise = jax.vmap(network, in_axes=(0, 0, None))(states, a, jnp.asarray(k))
        clean = jnp.clip((a - np.sqrt(1 - alpha_bar[k]) * noise) / np.sqrt(alpha_bar[k]), -1, 1)
        # mean and variance of q(a_{k-1} | a_k, clean), eq. 7 of Ho et al. (2020)
        beta = 1 - alpha_bar[k] / ahead[k]
        mean = (np.sqrt(ahead[k]) * beta * clean + np.sqrt(alpha_bar[k] / ahead[k]) * (1 - ahead[k]) * a) / (
            1 - alpha_bar[k]
        )
        steps, drawn = jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key))(steps), 0, 1)
        fresh = jax.vmap(lambda key: jax.random.normal(key, (1, 1))[0])(drawn)
        a = mean + np.sqrt((1 - ahead[k]) / (1 - alpha_bar[k]) * beta) * fresh
    return a


def test_an_update_is_td_learning_and_climbing_q_through_the_sampling():
    three_levels = Diffusion(bandit.base().diffusion.network, NoiseSchedule.cosine(3))
    base = dataclasses.replace(bandit.base(), generator=three_levels)
    agent, other = (DQL.create(base, bandit.demonstrations(), CONFIG, jax.random.key(i)) for i in (3, 4))
    # the trained network is not its moving average, nor are the target critics the critics
    network = jax.tree.map(lambda x: 0.9 * x if eqx.is_inexact_array(x) else x, agent.network)
    agent = dataclasses.replace(agent, target_critic=other.critic, network=network)
    data, n = bandit.some_batch(), 32
    updated, metrics = update(agent, Batch(data))
    alpha_bar = np.asarray(agent.policy.diffusion.schedule.alpha_bar, np.float64)
    _, next_key, policy_key = jax.random.split(agent.key, 3)

    # Q, towards r + d Q'(s', a') with a' of the moving average
    average = agent.policy.diffusion.network
    following = ancestral_samples(average, alpha_bar, data.next_observation, jax.random.split(next_key, n))
    next_q = jnp.minimum(*(m(data.next_observation, following) for m in agent.target_critic.unstacked))
    target = jnp.maximum(data.reward + data.discount * next_q, data.return_to_go)

    def q_loss(critic):
        first, second = (member(data.observation, data.chunk) for member in critic.unstacked)
        return jnp.mean((first - target) ** 2 + (second - target) ** 2) / 2

    critic = bandit.adam_step(agent.critic, q_loss, CONFIG.learning_rate)
    bandit.assert_close(updated.critic, critic)
    bandit.assert_close(updated.target_critic, bandit.moved(agent.target_critic, critic, 0.05))
    assert metrics["critic/value"] == pytest.approx(float(jnp.mean(next_q)), rel=1e-3)

    # the score network: imitation, and one new critic's Q over the size of the other's
    noise_key, sample_key, member_key = jax.random.split(policy_key, 3)
    noisy, k, noise = bandit.noised(agent.policy, data.chunk, noise_key)
    order = jax.random.permutation(member_key, jnp.arange(2))

    def policy_loss(network):
        imitation = jnp.mean((jax.vmap(network)(data.observation, noisy, k) - noise) ** 2)
        chunks = ancestral_samples(network, alpha_bar, data.observation, jax.random.split(sample_key, n))
        q = jnp.stack([member(data.observation, chunks) for member in critic.unstacked])[order]
        return imitation - CONFIG.eta * jnp.mean(q[0]) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q[1])))

    assert metrics["policy/loss"] == pytest.approx(float(policy_loss(agent.network)), rel=1e-3)
    trained = bandit.adam_step(agent.network, policy_loss, CONFIG.policy_learning_rate)
    bandit.assert_close(updated.network, trained, atol=2e-5)
    bandit.assert_close(updated.policy.diffusion.network, bandit.moved(average, trained, 0.02))


def test_climbing_q_moves_the_policy_itself_to_the_side_that_pays():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    tuned = bandit.fine_tune(CONFIG)
    assert bandit.paying_share(tuned.policy) > 0.85
    assert bandit.paying_share(tuned.deployed()) > 0.95
    # imitation, on top of what Q prefers, keeps most of it near the experts' mode
    assert bandit.good_share(tuned.policy) > 0.75


def test_critics_that_know_nothing_do_not_divide_by_zero():
    agent = bandit.new_agent(CONFIG)
    ignorant = jax.tree.map(lambda x: 0 * x if eqx.is_inexact_array(x) else x, agent.critic)
    agent = dataclasses.replace(
        agent, critic=ignorant, config=dataclasses.replace(CONFIG, learning_rate=1e-30)
    )
    updated, metrics = update(agent, Batch(bandit.some_batch()))
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(array).all() for array in arrays(updated.network).values())


def test_deployed_takes_the_highest_q_exploring_is_one_sample(tmp_path: Path):
    agent = bandit.new_agent(PRESETS["default"])
    acting = agent.deployed()
    assert isinstance(acting.chooser, HighestQ)
    assert acting.candidates == 16
    assert agent.exploring().chooser is None
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(acting))
    observation = np.asarray([0.3], np.float32)
    np.testing.assert_array_equal(loaded.act(observation, 3), acting.act(observation, 3))
    assert agent.q_values(bandit.some_batch()).shape == (2, 32)


def test_settings_that_make_no_algorithm_are_refused():
    with pytest.raises(ValueError, match="eta"):
        dataclasses.replace(CONFIG, eta=-1.0)
    with pytest.raises(ValueError, match="num_critics"):
        dataclasses.replace(CONFIG, num_critics=1)
