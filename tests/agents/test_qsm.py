"""QSM: what one update computes, and that its score leads to where Q is high."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from otpr.agents.parts.td import sample_chunks

from otpr.agents.parts.agent import Batch
from otpr.agents.qsm import PRESETS, QSM, QSMConfig
from otpr.policies.policy import load_policy
from tiny import TASK, arrays, assert_same_arrays

CONFIG = QSMConfig(
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    q_gradient_scale=10.0,
)


def test_an_update_is_td_learning_and_regression_on_the_gradient_of_q():
    config = dataclasses.replace(CONFIG, return_bound=False)  # with it, DQL's is tested
    agent, other = bandit.new_agent(config), bandit.new_agent(config, seed=4)
    agent = dataclasses.replace(agent, target_critic=other.critic)  # not the critics themselves
    data = bandit.some_batch()
    updated, metrics = eqx.filter_jit(QSM.update)(agent, Batch(data))
    _, next_key, noise_key = jax.random.split(agent.key, 3)

    # Q, towards r + d Q'(s', a'); how the policy samples is tested with DQL, step by step
    following = sample_chunks(agent.policy, data.next_observation, next_key)
    next_q = jnp.minimum(*(m(data.next_observation, following) for m in agent.target_critic.unstacked))
    target = data.reward + data.discount * next_q

    def q_loss(critic):
        first, second = (member(data.observation, data.chunk) for member in critic.unstacked)
        return jnp.mean((first - target) ** 2 + (second - target) ** 2) / 2

    critic = bandit.adam_step(agent.critic, q_loss, config.learning_rate)
    bandit.assert_close(updated.critic, critic)
    bandit.assert_close(updated.target_critic, bandit.moved(agent.target_critic, critic, 0.05))

    # the score network: minus its noise is the scale times the slope of the new critics' mean, by differences
    noisy, k, _ = bandit.noised(agent.policy, data.chunk, noise_key)

    def mean_q(chunks):
        return np.mean([m(data.observation, chunks) for m in critic.unstacked], axis=0)

    step = 1e-3  # Q has kinks: a larger step meets them
    slope = (mean_q(noisy + step) - mean_q(noisy - step)) / (2 * step)
    assert metrics["policy/q_score"] == pytest.approx(10.0 * np.sqrt(np.mean(slope**2)), rel=1e-2)
    predicted = np.asarray(jax.vmap(agent.network)(data.observation, noisy, k))[:, 0]
    assert metrics["policy/loss"] == pytest.approx(np.mean((predicted + 10.0 * slope) ** 2), rel=1e-2)

    exact = jax.grad(lambda a: sum(m(data.observation, a).sum() for m in critic.unstacked) / 2)(noisy)

    def policy_loss(network):
        return jnp.mean((jax.vmap(network)(data.observation, noisy, k) + 10.0 * exact) ** 2)

    network = bandit.adam_step(agent.network, policy_loss, config.policy_learning_rate)
    bandit.assert_close(updated.network, network)
    average = bandit.moved(agent.policy.diffusion.network, network, 0.02)
    bandit.assert_close(updated.policy.diffusion.network, average)


def test_the_score_leads_to_the_side_that_pays():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    tuned = bandit.fine_tune(CONFIG)
    assert bandit.paying_share(tuned.deployed()) > 0.85


def test_deployed_is_one_sample(tmp_path: Path):
    agent = bandit.new_agent(PRESETS["default"])
    acting = agent.deployed()
    assert acting.chooser is None
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(acting))
    observation = np.asarray([0.3], np.float32)
    np.testing.assert_array_equal(loaded.act(observation, 3), acting.act(observation, 3))
    assert agent.q_values(bandit.some_batch()).shape == (2, 32)


def test_settings_that_make_no_algorithm_are_refused():
    with pytest.raises(ValueError, match="q_gradient_scale"):
        dataclasses.replace(CONFIG, q_gradient_scale=0.0)
