"""Q-chunking: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import reference
import small

from otpr.agents.qc import AGENT, PRESETS, QC, QCConfig
from otpr.policies.choosers import ByQ

CANDIDATES = 5
CONFIG = QCConfig(
    critic_width=32,
    batch_size=32,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    candidates=8,
    target_candidates=CANDIDATES,
)
UPDATE = eqx.filter_jit(QC.update)


def test_an_update_is_the_papers():
    agent, data = small.fresh(CONFIG), small.transitions(32)
    updated, metrics = UPDATE(agent, data)
    policy = agent.actor.policy
    _, next_key, noise_key = jax.random.split(agent.key, 3)

    # of several samples in the next state, the critics choose and the target critics judge
    def choice(state, key):
        plans = policy.generator.propose(state, key, CANDIDATES)
        chunks = reference.executed(plans, policy.spec)
        states = jnp.tile(state, (CANDIDATES, 1))
        return chunks[jnp.argmax(reference.q(agent.critics.q, states, chunks).mean(0))]

    following = jax.jit(jax.vmap(choice))(data.next_state, jax.random.split(next_key, 32))
    next_q = reference.q(agent.critics.target, data.next_state, following).mean(0)
    target = reference.q_target(data, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, data.state, data.chunk) - target) ** 2)

    critic, critic_loss_before = reference.adam_step(agent.critics.q, critic_loss, CONFIG.learning_rate)
    reference.assert_close(updated.critics.q, critic)
    reference.assert_moved(agent.critics.target, updated.critics.q, updated.critics.target, 0.05)
    assert float(metrics["critic/loss"]) == pytest.approx(critic_loss_before, rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(target.mean()), rel=1e-4)

    # the score network: mean squared error of the noise in whole plans, nothing weighted
    errors = reference.noise_errors(policy, data.state, data.plan, noise_key)

    def policy_loss(network):
        return jnp.mean(errors(network))

    network, loss = reference.adam_step(agent.actor.network, policy_loss, CONFIG.policy_learning_rate)
    reference.assert_close(updated.actor.network, network)
    assert float(metrics["policy/loss"]) == pytest.approx(loss, rel=1e-4)
    before, after = policy.diffusion.network, updated.actor.policy.diffusion.network
    reference.assert_moved(before, updated.actor.network, after, 0.02)


def test_critics_alone_leave_the_policy():
    agent = small.fresh(CONFIG)
    updated, metrics = UPDATE(agent, small.transitions(32), update_policy=False)
    assert reference.same(agent.actor, updated.actor)
    assert not reference.same(agent.critics.q, updated.critics.q)
    assert "policy/loss" not in metrics


@pytest.mark.long
def test_it_chooses_what_pays_and_imitation_alone_does_not():
    learnt = bandit.learn(dataclasses.replace(CONFIG, batch_size=64, target_candidates=2), rounds=4)
    before = bandit.paying_share(bandit.base())
    assert 0.4 < before < 0.6
    assert bandit.paying_share(learnt.deployed()) > 0.9
    # it imitates demonstrations, half of which pay, and what it chose itself
    assert before - 0.05 < bandit.paying_share(learnt.actor.policy) < 0.9


def test_it_acts_by_its_critics_on_as_many_candidates_as_it_is_told(tmp_path: Path):
    agent = small.fresh(CONFIG)
    for policy in (agent.deployed(), agent.exploring()):
        assert policy.candidates == 8
        assert isinstance(policy.chooser, ByQ)
        assert policy.chooser.reduction == "mean"
        assert reference.same(policy.chooser.critic, agent.critics.q)
    small.assert_comes_back_from_disk(agent.deployed(), tmp_path / "policy")


def test_the_rule_of_choosing_is_a_setting():
    chooser = small.fresh(dataclasses.replace(CONFIG, rule="central")).deployed().chooser
    assert isinstance(chooser, ByQ)
    assert chooser.rule == "central"


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is QC
    assert PRESETS["default"].offline_updates == 0  # it starts from the pre-trained policy
    small.assert_refused(CONFIG, target_rate=1.5, candidates=0, target_candidates=0)
