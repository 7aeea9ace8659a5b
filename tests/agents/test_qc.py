"""Q-chunking: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

from pathlib import Path

import equinox as eqx
import from_scratch
import jax
import jax.numpy as jnp
import pytest
import reference

from otpr.agents.parts.agent import Batch
from otpr.agents.qc import AGENT, PRESETS, QC, QCConfig
from otpr.choosers import HighestQ

S, A, N, STEPS, CANDIDATES = 3, 4, 12, 3, 5
CONFIG = QCConfig(
    critic_width=16,
    batch_size=N,
    flow_steps=STEPS,
    target_rate=0.1,
    candidates=6,
    target_candidates=CANDIDATES,
)
DATA = reference.transitions(N, S, A)
STATES, NEXT_STATES = from_scratch.normalized(DATA)


def fresh() -> QC:
    return from_scratch.fresh(CONFIG, DATA)


def test_an_update_is_the_papers():
    agent = fresh()
    updated, metrics = eqx.filter_jit(agent.update)(Batch(DATA))
    _, next_key, flow_key = jax.random.split(agent.key, 3)
    flow = agent.policy.generator

    def velocity(flow, states, x, t):
        return reference.mlp(flow.network.mlp, jnp.hstack([states, x, t]), jax.nn.silu)

    # of several samples of the flow in the next state, the critics choose and the target critics judge
    def choice(state, key):
        states = jnp.tile(state, (CANDIDATES, 1))
        x = jax.random.normal(key, (CANDIDATES, A))
        for k in range(STEPS):
            x = x + velocity(flow, states, x, jnp.full((CANDIDATES, 1), k / STEPS)) / STEPS
        x = jnp.clip(x, -1, 1)
        return x[jnp.argmax(reference.q(agent.critic, states, x).mean(0))]

    following = jax.jit(jax.vmap(choice))(NEXT_STATES, jax.random.split(next_key, N))
    next_q = reference.q(agent.target_critic, NEXT_STATES, following).mean(0)
    target = reference.q_target(DATA, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, STATES, DATA.chunk) - target) ** 2)

    reference.assert_first_adam_step(agent.critic, updated.critic, critic_loss, CONFIG.learning_rate)
    reference.assert_moved(agent.target_critic, updated.critic, updated.target_critic, 0.1)

    time_key, from_key = jax.random.split(flow_key)
    t, start = jax.random.uniform(time_key, (N,))[:, None], jax.random.normal(from_key, (N, A))

    def flow_loss(flow):
        predicted = velocity(flow, STATES, (1 - t) * start + t * DATA.chunk, t)
        return jnp.mean((predicted - (DATA.chunk - start)) ** 2)

    reference.assert_first_adam_step(flow, updated.policy.generator, flow_loss, CONFIG.learning_rate)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(agent.critic)), rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(target.mean()), rel=1e-4)
    assert float(metrics["policy/loss"]) == pytest.approx(float(flow_loss(flow)), rel=1e-4)


def test_critics_alone_leave_the_flow():
    agent = fresh()
    updated, metrics = agent.update(Batch(DATA), update_policy=False)
    assert reference.same(agent.policy, updated.policy)
    assert not reference.same(agent.critic, updated.critic)
    assert "policy/loss" not in metrics


@pytest.fixture(scope="module")
def learnt() -> QC:
    config = QCConfig(
        critic_width=32,
        batch_size=64,
        learning_rate=3e-3,
        target_rate=0.05,
        flow_steps=5,
        candidates=8,
        target_candidates=4,
    )
    agent = from_scratch.learn(config, offline=600, rounds=2, updates=100)
    assert isinstance(agent, QC)
    return agent


def test_it_chooses_what_pays_and_its_flow_imitates(learnt: QC):
    assert from_scratch.paid_share(learnt.deployed()) > 0.9
    assert 0.4 < from_scratch.paid_share(learnt.policy) < 0.8


def test_it_acts_by_its_critics_on_as_many_candidates_as_it_is_told():
    agent = fresh()
    deployed = agent.deployed()
    assert deployed.candidates == 6
    assert isinstance(deployed.chooser, HighestQ)
    assert deployed.chooser.reduction == "mean"
    assert reference.same(deployed.chooser.critic, agent.critic)


def test_what_it_deploys_comes_back_from_disk(learnt: QC, tmp_path: Path):
    from_scratch.assert_comes_back_from_disk(learnt.deployed(), tmp_path / "policy")


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is QC
    assert PRESETS["default"].offline_updates > 0  # it has no policy to begin with
    from_scratch.assert_refused(CONFIG, target_rate=1.5, flow_steps=0, candidates=0, target_candidates=0)
