"""IDQL: what one update computes, and that choosing by Q does what imitation does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents.idql import IDQL, PRESETS, IDQLConfig
from otpr.agents.parts.agent import Batch
from otpr.policies.choosers import ExpectileWeights, HighestQ
from otpr.policies.policy import load_policy
from tiny import TASK, arrays, assert_same_arrays

CONFIG = IDQLConfig(
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    candidates=8,
)


@pytest.mark.parametrize("return_bound", [True, False])
def test_an_update_is_iql_and_plain_score_matching(return_bound: bool):
    config = dataclasses.replace(CONFIG, expectile=0.8, return_bound=return_bound)
    agent, other = bandit.new_agent(config), bandit.new_agent(config, seed=4)
    agent = dataclasses.replace(agent, target_critic=other.critic)  # not the critics themselves
    data = bandit.some_batch()
    updated, metrics = eqx.filter_jit(IDQL.update)(agent, Batch(data))

    # V, by the expectile regression written out
    members = [member(data.observation, data.chunk) for member in agent.target_critic.unstacked]
    target_q = jnp.minimum(*members)

    def value_loss(value):
        v = jax.vmap(value)(data.observation)
        return jnp.mean(jnp.abs(0.8 - (target_q < v)) * (target_q - v) ** 2)

    value = bandit.adam_step(agent.value, value_loss, config.learning_rate)
    bandit.assert_close(updated.value, value)
    # Q, towards r + d V(s') with the new V
    target = data.reward + data.discount * jax.vmap(value)(data.next_observation)
    if return_bound:
        target = jnp.maximum(target, data.return_to_go)

    def q_loss(critic):
        first, second = (member(data.observation, data.chunk) for member in critic.unstacked)
        return jnp.mean((first - target) ** 2 + (second - target) ** 2) / 2

    critic = bandit.adam_step(agent.critic, q_loss, config.learning_rate)
    bandit.assert_close(updated.critic, critic)
    bandit.assert_close(updated.target_critic, bandit.moved(agent.target_critic, critic, 0.05))
    assert metrics["critic/loss"] == pytest.approx(float(q_loss(agent.critic)), rel=1e-4)
    assert metrics["critic/value_loss"] == pytest.approx(float(value_loss(agent.value)), rel=1e-4)

    # the score network: mean squared error of the noise, nothing weighted
    noisy, k, noise = bandit.noised(agent.policy, data.chunk, jax.random.split(agent.key)[1])

    def policy_loss(network):
        return jnp.mean((jax.vmap(network)(data.observation, noisy, k) - noise) ** 2)

    network = bandit.adam_step(agent.network, policy_loss, config.policy_learning_rate)
    bandit.assert_close(updated.network, network)
    assert metrics["policy/loss"] == pytest.approx(float(policy_loss(agent.network)), rel=1e-4)
    average = bandit.moved(agent.policy.diffusion.network, network, 0.02)
    bandit.assert_close(updated.policy.diffusion.network, average)


def test_warming_up_leaves_the_policy_alone():
    agent = bandit.new_agent(CONFIG)
    warmed, metrics = eqx.filter_jit(IDQL.update)(agent, Batch(bandit.some_batch()), update_policy=False)
    assert "policy/loss" not in metrics
    assert_same_arrays(arrays(warmed.policy), arrays(agent.policy))
    weights = [arrays(a.critic)[".members.out.weight"] for a in (warmed, agent)]
    assert (weights[0] != weights[1]).any()


def test_choosing_by_q_finds_the_mode_that_pays_and_imitation_does_not():
    before = bandit.good_share(bandit.base())
    assert 0.4 < before < 0.6
    tuned = bandit.fine_tune(CONFIG)
    assert bandit.good_share(tuned.deployed()) > 0.9
    # the weights of the implicit policy lean to it: 0.7 to 0.3 where half of the candidates pay
    assert 0.6 < bandit.good_share(tuned.exploring()) < 0.85
    # imitation of what was chosen that way leans to it too, but slowly
    assert before - 0.05 < bandit.good_share(tuned.policy) < 0.8


def test_deployed_is_greedy_exploring_is_not_and_both_come_back_from_disk(tmp_path: Path):
    agent = bandit.new_agent(PRESETS["default"])
    for name, acting, chooser in (
        ("deployed", agent.deployed(), HighestQ),
        ("exploring", agent.exploring(), ExpectileWeights),
    ):
        assert isinstance(acting.chooser, chooser)
        assert acting.candidates == 16
        acting.save(tmp_path / name, task=TASK)
        loaded = load_policy(tmp_path / name)
        assert_same_arrays(arrays(loaded), arrays(acting))
        observation = np.asarray([0.3], np.float32)
        np.testing.assert_array_equal(loaded.act(observation, 3), acting.act(observation, 3))
    assert agent.q_values(bandit.some_batch()).shape == (2, 32)


def test_settings_that_make_no_algorithm_are_refused():
    with pytest.raises(ValueError, match="expectile"):
        dataclasses.replace(CONFIG, expectile=1.0)
    with pytest.raises(ValueError, match="target_rate"):
        dataclasses.replace(CONFIG, target_rate=0.0)
    with pytest.raises(ValueError, match="demonstration_share"):
        dataclasses.replace(CONFIG, demonstration_share=1.5)
