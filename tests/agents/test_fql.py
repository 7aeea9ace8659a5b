"""Flow Q-learning: its update is the paper's, it learns, and what it deploys is kept."""

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

from otpr.agents.fql import AGENT, FQL, PRESETS, FQLConfig
from otpr.agents.parts.agent import Batch

S, A, N, STEPS = 3, 4, 16, 3
CONFIG = FQLConfig(critic_width=16, batch_size=N, flow_steps=STEPS, alpha=0.7, target_rate=0.1)
DATA = reference.transitions(N, S, A)
STATES, NEXT_STATES = from_scratch.normalized(DATA)


def fresh() -> FQL:
    return from_scratch.fresh(CONFIG, DATA)


def test_an_update_is_the_papers():
    agent = fresh()
    updated, metrics = eqx.filter_jit(agent.update)(Batch(DATA))
    _, next_key, flow_key, noise_key = jax.random.split(agent.key, 4)

    def one_step(generator, states, noise):
        return reference.mlp(generator.network, jnp.hstack([states, noise]), jax.nn.silu)

    def velocity(flow, x, t):
        return reference.mlp(flow.network.mlp, jnp.hstack([STATES, x, t]), jax.nn.silu)

    # Q towards r + discount * mean of the target critics at what the one-step policy does next
    noise = jnp.stack([jax.random.normal(k, (1, A))[0] for k in jax.random.split(next_key, N)])
    following = jnp.clip(one_step(agent.policy.generator, NEXT_STATES, noise), -1, 1)
    next_q = reference.q(agent.target_critic, NEXT_STATES, following).mean(0)
    target = reference.q_target(DATA, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, STATES, DATA.chunk) - target) ** 2)

    reference.assert_first_adam_step(agent.critic, updated.critic, critic_loss, CONFIG.learning_rate)
    reference.assert_moved(agent.target_critic, updated.critic, updated.target_critic, 0.1)

    # the flow towards the batch
    time_key, from_key = jax.random.split(flow_key)
    t, start = jax.random.uniform(time_key, (N,))[:, None], jax.random.normal(from_key, (N, A))

    def flow_loss(flow):
        predicted = velocity(flow, (1 - t) * start + t * DATA.chunk, t)
        return jnp.mean((predicted - (DATA.chunk - start)) ** 2)

    reference.assert_first_adam_step(agent.flow, updated.flow, flow_loss, CONFIG.learning_rate)

    # the one-step policy towards the flow's ends and high Q
    noise = jax.random.normal(noise_key, (N, A))
    ends = noise
    for i in range(STEPS):
        ends = ends + velocity(agent.flow, ends, jnp.full((N, 1), i / STEPS)) / STEPS
    ends = jnp.clip(ends, -1, 1)

    def policy_loss(generator):
        chunks = one_step(generator, STATES, noise)
        q = reference.q(agent.critic, STATES, jnp.clip(chunks, -1, 1))
        return 0.7 * jnp.mean((chunks - ends) ** 2) - jnp.mean(q)

    before, after = agent.policy.generator, updated.policy.generator
    reference.assert_first_adam_step(before, after, policy_loss, CONFIG.learning_rate)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(agent.critic)), rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(target.mean()), rel=1e-4)
    assert float(metrics["policy/flow_loss"]) == pytest.approx(float(flow_loss(agent.flow)), rel=1e-4)
    assert float(metrics["policy/loss"]) == pytest.approx(float(policy_loss(before)), rel=1e-3)
    parts = 0.7 * metrics["policy/distillation"] - metrics["policy/q"]
    assert float(metrics["policy/loss"]) == pytest.approx(float(parts), rel=1e-4)


def test_critics_alone_leave_flow_and_policy():
    agent = fresh()
    updated, metrics = agent.update(Batch(DATA), update_policy=False)
    assert reference.same((agent.policy, agent.flow), (updated.policy, updated.flow))
    assert not reference.same(agent.critic, updated.critic)
    assert not any(name.startswith("policy/") for name in metrics)
    assert not reference.same(agent.key, updated.key)


@pytest.fixture(scope="module")
def learnt() -> FQL:
    config = FQLConfig(
        critic_width=32, batch_size=64, learning_rate=3e-3, target_rate=0.05, alpha=0.1, flow_steps=5
    )
    agent = from_scratch.learn(config, offline=600, rounds=4, updates=150)
    assert isinstance(agent, FQL)
    return agent


def test_it_finds_what_pays_and_its_flow_still_imitates(learnt: FQL):
    assert bandit.paying_share(learnt.deployed()) > 0.9
    # two thirds of the data are demonstrations, half of which do not pay
    imitation = dataclasses.replace(learnt.policy, generator=learnt.flow)
    assert 0.5 < bandit.paying_share(imitation) < 0.85


def test_what_it_deploys_comes_back_from_disk(learnt: FQL, tmp_path: Path):
    from_scratch.assert_comes_back_from_disk(learnt.deployed(), tmp_path / "policy")


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is FQL
    assert PRESETS["default"].offline_updates > 0  # it has no policy to begin with
    from_scratch.assert_refused(CONFIG, alpha=0.0, target_rate=1.5, flow_steps=0, num_critics=0)
