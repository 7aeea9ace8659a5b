"""Q-chunking: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import from_scratch
import jax
import jax.numpy as jnp
import pytest
import reference

from otpr.agents.parts.agent import Batch
from otpr.agents.qc import AGENT, PRESETS, QC, QCConfig
from otpr.policies.choosers import HighestQ

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


def fresh() -> QC:
    """An agent whose target critics are not its critics."""
    agent, other = bandit.new_agent(CONFIG), bandit.new_agent(CONFIG, seed=4)
    return dataclasses.replace(agent, target_critic=other.critic)


def test_an_update_is_the_papers():
    agent, data = fresh(), bandit.some_batch()
    updated, metrics = eqx.filter_jit(QC.update)(agent, Batch(data))
    _, next_key, noise_key = jax.random.split(agent.key, 3)

    # of several samples in the next state, the critics choose and the target critics judge
    def choice(state, key):
        chunks = agent.policy.propose(state, key, CANDIDATES)
        states = jnp.tile(state, (CANDIDATES, 1))
        return chunks[jnp.argmax(reference.q(agent.critic, states, chunks).mean(0))]

    following = jax.jit(jax.vmap(choice))(data.next_observation, jax.random.split(next_key, 32))
    next_q = reference.q(agent.target_critic, data.next_observation, following).mean(0)
    target = reference.q_target(data, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, data.observation, data.chunk) - target) ** 2)

    reference.assert_first_adam_step(agent.critic, updated.critic, critic_loss, CONFIG.learning_rate)
    reference.assert_moved(agent.target_critic, updated.critic, updated.target_critic, 0.05)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(agent.critic)), rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(target.mean()), rel=1e-4)

    # the score network: mean squared error of the noise, nothing weighted
    noisy, k, noise = bandit.noised(agent.policy, data.chunk, noise_key)

    def policy_loss(network):
        return jnp.mean((jax.vmap(network)(data.observation, noisy, k) - noise) ** 2)

    network = bandit.adam_step(agent.network, policy_loss, CONFIG.policy_learning_rate)
    bandit.assert_close(updated.network, network)
    assert float(metrics["policy/loss"]) == pytest.approx(float(policy_loss(agent.network)), rel=1e-4)
    average = bandit.moved(agent.policy.diffusion.network, network, 0.02)
    bandit.assert_close(updated.policy.diffusion.network, average)


def test_critics_alone_leave_the_policy():
    agent = fresh()
    updated, metrics = eqx.filter_jit(QC.update)(agent, Batch(bandit.some_batch()), update_policy=False)
    assert reference.same((agent.policy, agent.network), (updated.policy, updated.network))
    assert not reference.same(agent.critic, updated.critic)
    assert "policy/loss" not in metrics


@pytest.fixture(scope="module")
def learnt() -> QC:
    agent = bandit.fine_tune(dataclasses.replace(CONFIG, batch_size=64, target_candidates=2), rounds=4)
    assert isinstance(agent, QC)
    return agent


def test_it_chooses_what_pays_and_imitation_alone_does_not(learnt: QC):
    before = bandit.paying_share(bandit.base())
    assert 0.4 < before < 0.6
    assert bandit.paying_share(learnt.deployed()) > 0.9
    # it imitates demonstrations, half of which pay, and what it chose itself
    assert before - 0.05 < bandit.paying_share(learnt.policy) < 0.9


def test_it_acts_by_its_critics_on_as_many_candidates_as_it_is_told():
    agent = fresh()
    for policy in (agent.deployed(), agent.exploring()):
        assert policy.candidates == 8
        assert isinstance(policy.chooser, HighestQ)
        assert policy.chooser.reduction == "mean"
        assert reference.same(policy.chooser.critic, agent.critic)


def test_what_it_deploys_comes_back_from_disk(learnt: QC, tmp_path: Path):
    from_scratch.assert_comes_back_from_disk(learnt.deployed(), tmp_path / "policy")


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is QC
    assert PRESETS["default"].offline_updates == 0  # it starts from the pre-trained policy
    from_scratch.assert_refused(CONFIG, target_rate=1.5, candidates=0, target_candidates=0)
