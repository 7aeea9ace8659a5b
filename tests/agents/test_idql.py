"""IDQL: what one update computes, and that choosing by Q does what imitation does not."""

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

from otpr.agents.idql import IDQL, PRESETS, IDQLConfig
from otpr.policies.choosers import ByQ, ExpectileWeights
from tiny import arrays, assert_same_arrays

CONFIG = IDQLConfig(
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    candidates=8,
)
UPDATE = eqx.filter_jit(IDQL.update)


@pytest.mark.parametrize("return_bound", [True, False])
def test_an_update_is_iql_and_plain_score_matching(return_bound: bool):
    config = dataclasses.replace(CONFIG, expectile=0.8, return_bound=return_bound)
    agent, data = small.fresh(config), small.transitions(32)
    updated, metrics = UPDATE(agent, data)

    reference.assert_iql_step(agent.critics, updated.critics, metrics, data, config)

    # the score network: mean squared error of the noise in whole plans, nothing weighted
    policy, noise_key = agent.actor.policy, jax.random.split(agent.key)[1]
    errors = reference.noise_errors(policy, data.state, data.plan, noise_key)

    def policy_loss(network):
        return jnp.mean(errors(network))

    network, loss = reference.adam_step(agent.actor.network, policy_loss, config.policy_learning_rate)
    reference.assert_close(updated.actor.network, network)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-4)
    before, after = (a.actor.policy.diffusion.network for a in (agent, updated))
    reference.assert_moved(before, updated.actor.network, after, 0.02)


def test_warming_up_leaves_the_policy_alone():
    agent = small.created(CONFIG)
    warmed, metrics = UPDATE(agent, small.transitions(32), update_policy=False)
    assert "policy/loss" not in metrics
    assert_same_arrays(arrays(warmed.actor), arrays(agent.actor))
    assert not reference.same(warmed.critics.q, agent.critics.q)


@pytest.mark.long
def test_choosing_by_q_finds_the_mode_that_pays_and_imitation_does_not():
    before = bandit.good_share(bandit.base())
    assert 0.4 < before < 0.6
    tuned = bandit.learn(CONFIG)
    assert bandit.good_share(tuned.deployed()) > 0.9
    # the weights of the implicit policy lean to it: 0.7 to 0.3 where half of the candidates pay
    assert 0.6 < bandit.good_share(tuned.exploring()) < 0.85
    # imitation of what was chosen that way leans to it too, but slowly
    assert before - 0.05 < bandit.good_share(tuned.actor.policy) < 0.8


def test_deployed_is_greedy_exploring_is_not_and_both_come_back_from_disk(tmp_path: Path):
    agent = small.created(PRESETS["default"])
    for name, acting, chooser in (
        ("deployed", agent.deployed(), ByQ),
        ("exploring", agent.exploring(), ExpectileWeights),
    ):
        assert isinstance(acting.chooser, chooser)
        assert acting.candidates == 16
        loaded = small.assert_comes_back_from_disk(acting, tmp_path / name)
        assert_same_arrays(arrays(loaded), arrays(acting))
    assert agent.q_values(small.transitions(32)).shape == (2, 32)


def test_the_rule_of_choosing_is_a_setting():
    chooser = small.created(dataclasses.replace(PRESETS["default"], rule="central")).deployed().chooser
    assert isinstance(chooser, ByQ)
    assert chooser.rule == "central"


def test_settings_that_make_no_algorithm_are_refused():
    small.assert_refused(CONFIG, expectile=1.0, target_rate=0.0, demonstration_share=1.5)
