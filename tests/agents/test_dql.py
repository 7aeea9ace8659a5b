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
import reference
import small

from otpr.agents.dql import DQL, PRESETS, DQLConfig
from otpr.diffusion import NoiseSchedule
from otpr.policies.choosers import ByQ
from otpr.policies.denoising import Diffusion
from tiny import arrays

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
THREE_LEVELS = small.BASE.with_generator(Diffusion(small.BASE.diffusion.network, NoiseSchedule.cosine(3)))
UPDATE = eqx.filter_jit(DQL.update)


def test_an_update_is_td_learning_and_climbing_q_through_the_sampling():
    agent, data, n = small.fresh(CONFIG, THREE_LEVELS), small.transitions(32), 32
    updated, metrics = UPDATE(agent, data)
    policy, spec = agent.actor.policy, small.BASE.spec
    alpha_bar = np.asarray(policy.diffusion.schedule.alpha_bar, np.float64)
    _, next_key, policy_key = jax.random.split(agent.key, 3)

    # Q, towards r + d Q'(s', a') with a' of the moving average
    average, keys = policy.diffusion.network, jax.random.split(next_key, n)
    sample = jax.jit(lambda: reference.ancestral_samples(average, alpha_bar, data.next_state, keys))
    following = reference.executed(sample(), spec)
    next_q = reference.q(agent.critics.target, data.next_state, following).min(0)
    target = reference.q_target(data, next_q)

    def q_loss(critic):
        return jnp.mean((reference.q(critic, data.state, data.chunk) - target) ** 2)

    critic, _ = reference.adam_step(agent.critics.q, q_loss, CONFIG.learning_rate)
    reference.assert_close(updated.critics.q, critic)
    reference.assert_moved(agent.critics.target, updated.critics.q, updated.critics.target, 0.05)
    assert metrics["critic/value"] == pytest.approx(float(jnp.mean(next_q)), rel=1e-3)

    # the score network: imitation of whole plans, and one new critic's Q over the size of the other's
    noise_key, sample_key, member_key = jax.random.split(policy_key, 3)
    errors = reference.noise_errors(policy, data.state, data.plan, noise_key)
    order, sample_keys = jax.random.permutation(member_key, jnp.arange(2)), jax.random.split(sample_key, n)

    def policy_loss(network):
        plans = reference.ancestral_samples(network, alpha_bar, data.state, sample_keys)
        q = reference.q(critic, data.state, reference.executed(plans, spec))[order]
        climb = -jnp.mean(q[0]) / jax.lax.stop_gradient(jnp.mean(jnp.abs(q[1])))
        return jnp.mean(errors(network)) + CONFIG.eta * climb

    network = agent.actor.network
    trained, loss = reference.adam_step(network, policy_loss, CONFIG.policy_learning_rate)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-3)
    reference.assert_close(updated.actor.network, trained, atol=2e-5)
    after = updated.actor.policy.diffusion.network
    reference.assert_moved(average, updated.actor.network, after, 0.02)


@pytest.mark.long
def test_climbing_q_moves_the_policy_itself_to_the_side_that_pays():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    tuned = bandit.learn(CONFIG)
    assert bandit.paying_share(tuned.actor.policy) > 0.85
    assert bandit.paying_share(tuned.deployed()) > 0.95
    # imitation, on top of what Q prefers, keeps most of it near the experts' mode
    assert bandit.good_share(tuned.actor.policy) > 0.75


def test_critics_that_know_nothing_do_not_divide_by_zero():
    agent = small.created(dataclasses.replace(CONFIG, learning_rate=1e-30), base=THREE_LEVELS)
    ignorant = jax.tree.map(lambda x: 0 * x if eqx.is_inexact_array(x) else x, agent.critics.q)
    agent = eqx.tree_at(lambda a: a.critics.trained.model, agent, ignorant)
    updated, metrics = UPDATE(agent, small.transitions(32))
    assert all(np.isfinite(value) for value in metrics.values())
    assert all(np.isfinite(array).all() for array in arrays(updated.actor.network).values())


def test_deployed_takes_the_highest_q_exploring_is_one_sample(tmp_path: Path):
    agent = small.created(PRESETS["default"])
    acting = agent.deployed()
    assert isinstance(acting.chooser, ByQ)
    assert acting.candidates == 16
    assert agent.exploring().chooser is None
    small.assert_comes_back_from_disk(acting, tmp_path / "policy")
    assert agent.q_values(small.transitions(32)).shape == (2, 32)


def test_the_rule_of_choosing_is_a_setting():
    chooser = small.created(dataclasses.replace(PRESETS["default"], rule="central")).deployed().chooser
    assert isinstance(chooser, ByQ)
    assert chooser.rule == "central"


def test_settings_that_make_no_algorithm_are_refused():
    small.assert_refused(CONFIG, eta=-1.0, num_critics=1)
