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
import reference
import small

from otpr.agents.parts.actor_critic import sample_chunks
from otpr.agents.qsm import PRESETS, QSM, QSMConfig

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
    agent, data = small.fresh(config), small.transitions(32)
    updated, metrics = eqx.filter_jit(QSM.update)(agent, data)
    _, next_key, noise_key = jax.random.split(agent.key, 3)

    # Q, towards r + d Q'(s', a'); how the policy samples is tested with DQL, step by step
    following = sample_chunks(agent.actor.policy, data.next_state, next_key)
    next_q = reference.q(agent.critics.target, data.next_state, following).min(0)
    target = data.reward + data.discount * next_q

    def q_loss(critic):
        return jnp.mean((reference.q(critic, data.state, data.chunk) - target) ** 2)

    critic, _ = reference.adam_step(agent.critics.q, q_loss, config.learning_rate)
    reference.assert_close(updated.critics.q, critic)
    reference.assert_moved(agent.critics.target, updated.critics.q, updated.critics.target, 0.05)

    # the score network: minus its noise is the scale times the slope of the new critics' mean, by differences
    noisy, k, _ = reference.noised(agent.actor.policy, data.plan, noise_key)

    @jax.jit
    def mean_q(plans):
        return reference.q(critic, data.state, reference.executed(plans, small.BASE.spec)).mean(0)

    slope, step = np.zeros(noisy.shape), 1e-3  # Q has kinks: a larger step meets them
    for i in range(3):
        for j in range(2):
            aside = jnp.zeros((3, 2)).at[i, j].set(step)
            slope[:, i, j] = (mean_q(noisy + aside) - mean_q(noisy - aside)) / (2 * step)
    assert np.abs(slope[:, :2]).min(axis=0).max() > 0
    assert (slope[:, 2] == 0).all()  # what is not executed has no Q
    assert metrics["policy/q_score"] == pytest.approx(10.0 * np.sqrt(np.mean(slope**2)), rel=1e-2)
    network = agent.actor.network
    predicted = np.asarray(jax.vmap(network)(data.state, noisy, k))
    assert metrics["policy/loss"] == pytest.approx(np.mean((predicted + 10.0 * slope) ** 2), rel=1e-2)

    exact = jax.grad(lambda plans: mean_q(plans).sum())(noisy)

    def policy_loss(network):
        return jnp.mean((jax.vmap(network)(data.state, noisy, k) + 10.0 * exact) ** 2)

    trained, _ = reference.adam_step(network, policy_loss, config.policy_learning_rate)
    reference.assert_close(updated.actor.network, trained)
    before, after = (a.actor.policy.diffusion.network for a in (agent, updated))
    reference.assert_moved(before, updated.actor.network, after, 0.02)


@pytest.mark.long
def test_the_score_leads_to_the_side_that_pays():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    tuned = bandit.learn(CONFIG)
    assert bandit.paying_share(tuned.deployed()) > 0.85


def test_deployed_is_one_sample(tmp_path: Path):
    agent = small.created(PRESETS["default"])
    acting = agent.deployed()
    assert acting.chooser is None
    small.assert_comes_back_from_disk(acting, tmp_path / "policy")
    assert agent.q_values(small.transitions(32)).shape == (2, 32)


def test_settings_that_make_no_algorithm_are_refused():
    small.assert_refused(CONFIG, q_gradient_scale=0.0)
