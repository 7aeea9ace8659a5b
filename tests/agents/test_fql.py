"""Flow Q-learning: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import equinox as eqx
import from_scratch
import jax
import jax.numpy as jnp
import pytest
import reference

from otpr.agents.fql import AGENT, FQL, PRESETS, FQLConfig
from otpr.agents.parts.agent import Batch
from otpr.diffusion.network import time_embedding

S, A, N = 3, 4, 16
CONFIG = FQLConfig(critic_width=16, batch_size=N, alpha=0.7, target_rate=0.1, ema_rate=0.02)
DATA = reference.transitions(N, S, A)
STATES, NEXT_STATES = from_scratch.normalized(DATA)


def fresh() -> FQL:
    """An agent that has learnt nothing, but knows more than demonstrations; its teacher lags its network."""
    agent, other = from_scratch.fresh(CONFIG, DATA), from_scratch.fresh(CONFIG, DATA)
    lagging = jax.tree.map(
        lambda x: 1.1 * x if eqx.is_inexact_array(x) else x, other.teacher.diffusion.network
    )
    teacher = dataclasses.replace(agent.teacher, generator=agent.teacher.diffusion.with_network(lagging))
    return dataclasses.replace(agent, online=jnp.asarray(True), teacher=teacher)


def one_step(generator, states, noise):
    return reference.mlp(generator.network, jnp.hstack([states, noise]), jax.nn.silu)


def predicted(network, x, k):
    levels = jnp.stack([time_embedding(each, network.time_width) for each in k])
    return reference.mlp(network.mlp, jnp.hstack([STATES, x, levels]), jax.nn.silu)


def distillation(agent: FQL, generator, key: jax.Array):
    """Mean squared distance from where DDIM carries the same noise, one level after the other."""
    schedule = agent.teacher.diffusion.schedule
    keys = jax.random.split(key, N)
    noise = jnp.stack([jax.random.normal(jax.random.split(each)[0], (A,)) for each in keys])
    x = noise
    for k in reversed(range(schedule.steps)):
        kept = schedule.alpha_bar[k]
        kept_next = schedule.alpha_bar[k - 1] if k else 1.0
        eps = predicted(agent.teacher.diffusion.network, x, jnp.full(N, k))
        clean = jnp.clip((x - jnp.sqrt(1 - kept) * eps) / jnp.sqrt(kept), -1, 1)
        eps = (x - jnp.sqrt(kept) * clean) / jnp.sqrt(1 - kept)
        x = jnp.sqrt(kept_next) * clean + jnp.sqrt(1 - kept_next) * eps
    chunks = one_step(generator, STATES, noise)
    return jnp.mean((chunks - x) ** 2), chunks


def test_an_update_is_the_papers():
    agent = fresh()
    updated, metrics = eqx.filter_jit(agent.update)(Batch(DATA))
    _, next_key, noise_key, distil_key = jax.random.split(agent.key, 4)

    # Q towards r + discount * minimum of the target critics at what the one-step policy does next
    noise = jnp.stack([jax.random.normal(k, (1, A))[0] for k in jax.random.split(next_key, N)])
    following = jnp.clip(one_step(agent.policy.generator, NEXT_STATES, noise), -1, 1)
    next_q = reference.q(agent.target_critic, NEXT_STATES, following).min(0)
    target = reference.q_target(DATA, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, STATES, DATA.chunk) - target) ** 2)

    reference.assert_first_adam_step(agent.critic, updated.critic, critic_loss, CONFIG.learning_rate)
    reference.assert_moved(agent.target_critic, updated.critic, updated.target_critic, 0.1)

    # the teacher towards the batch
    level_key, draw_key = jax.random.split(noise_key)
    alpha_bar = agent.teacher.diffusion.schedule.alpha_bar
    k = jax.random.randint(level_key, (N,), 0, alpha_bar.shape[0])
    eps = jax.random.normal(draw_key, (N, A))
    noisy = jnp.sqrt(alpha_bar[k])[:, None] * DATA.chunk + jnp.sqrt(1 - alpha_bar[k])[:, None] * eps

    def teacher_loss(network):
        return jnp.mean((predicted(network, noisy, k) - eps) ** 2)

    reference.assert_first_adam_step(
        agent.network, updated.network, teacher_loss, CONFIG.policy_learning_rate
    )
    lagging = agent.teacher.diffusion.network, updated.network, updated.teacher.diffusion.network
    reference.assert_moved(*lagging, 0.02)

    # the one-step policy towards the flow's ends and high Q
    def policy_loss(generator):
        distance, chunks = distillation(agent, generator, distil_key)
        return 0.7 * distance - jnp.mean(reference.q(agent.critic, STATES, jnp.clip(chunks, -1, 1)))

    before, after = agent.policy.generator, updated.policy.generator
    reference.assert_first_adam_step(before, after, policy_loss, CONFIG.learning_rate)
    assert float(metrics["critic/loss"]) == pytest.approx(float(critic_loss(agent.critic)), rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(next_q.mean()), rel=1e-4)
    assert float(metrics["policy/teacher_loss"]) == pytest.approx(
        float(teacher_loss(agent.network)), rel=1e-4
    )
    assert float(metrics["policy/loss"]) == pytest.approx(float(policy_loss(before)), rel=1e-3)
    parts = 0.7 * metrics["policy/distillation"] - metrics["policy/q"]
    assert float(metrics["policy/loss"]) == pytest.approx(float(parts), rel=1e-4)


def test_before_there_is_experience_it_only_distils():
    agent = dataclasses.replace(fresh(), online=jnp.asarray(False))
    updated, _ = eqx.filter_jit(agent.update)(Batch(DATA))
    distil_key = jax.random.split(agent.key, 4)[3]

    def policy_loss(generator):
        return 0.7 * distillation(agent, generator, distil_key)[0]

    before, after = agent.policy.generator, updated.policy.generator
    reference.assert_first_adam_step(before, after, policy_loss, CONFIG.learning_rate)
    for name in ("critic", "target_critic", "critic_state", "network", "teacher", "teacher_state"):
        assert reference.same(getattr(agent, name), getattr(updated, name))
    assert not reference.same(agent.key, updated.key)


def test_critics_alone_leave_teacher_and_policy():
    agent = dataclasses.replace(fresh(), online=jnp.asarray(False))  # as in warming up after the offline part
    updated, metrics = agent.update(Batch(DATA), update_policy=False)
    assert reference.same((agent.policy, agent.teacher), (updated.policy, updated.teacher))
    assert not reference.same(agent.critic, updated.critic)
    assert not any(name.startswith("policy/") for name in metrics)
    assert not reference.same(agent.key, updated.key)


@pytest.fixture(scope="module")
def learnt() -> FQL:
    config = FQLConfig(
        critic_width=32,
        batch_size=64,
        learning_rate=3e-3,
        policy_learning_rate=1e-3,
        target_rate=0.05,
        alpha=0.1,
    )
    agent = from_scratch.learn(config, offline=600, rounds=4, updates=150)
    assert isinstance(agent, FQL)
    return agent


def test_it_finds_what_pays_and_its_teacher_still_imitates(learnt: FQL):
    assert from_scratch.paid_share(learnt.deployed()) > 0.9
    # half of what it learns from are demonstrations, half of which do not pay
    assert 0.5 < from_scratch.paid_share(learnt.teacher) < 0.85


def test_distilled_it_does_what_the_pre_trained_policy_does():
    config = FQLConfig(batch_size=64, learning_rate=3e-3)
    agent = from_scratch.learn(config, offline=1000, rounds=0, updates=0)
    assert isinstance(agent, FQL)
    observations = jnp.linspace(-1, 1, 8)[:, None]

    def spread(policy):
        keys = jax.random.split(jax.random.key(5), 8)
        chunks = jax.vmap(lambda state, key: policy.propose(state, key, 64))(observations, keys)
        return jnp.sort(chunks[..., 0], axis=1)

    # modes at -0.5 and 0.5: sorted, two thirds of the samples lie within either
    assert float(jnp.mean(jnp.abs(spread(agent.policy) - spread(agent.teacher)))) < 0.15


def test_what_it_deploys_comes_back_from_disk(learnt: FQL, tmp_path: Path):
    from_scratch.assert_comes_back_from_disk(learnt.deployed(), tmp_path / "policy")


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is FQL
    assert PRESETS["default"].offline_updates > 0  # its one-step policy has yet to be distilled
    from_scratch.assert_refused(CONFIG, alpha=0.0, target_rate=1.5, num_critics=0)
