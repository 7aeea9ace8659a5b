"""Flow Q-learning: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
import reference
import small

from otpr.agents.fql import AGENT, FQL, PRESETS, FQLConfig
from otpr.networks.mlp import sizes

N, STEPS, PLAN = 16, 3, (3, 2)
CONFIG = FQLConfig(
    critic_width=16,
    policy_width=24,
    policy_depth=2,
    batch_size=N,
    flow_steps=STEPS,
    alpha=0.7,
    target_rate=0.1,
)
DATA = small.transitions(N)
UPDATE = eqx.filter_jit(FQL.update)


def test_an_update_is_the_papers():
    agent = small.fresh(CONFIG)
    updated, metrics = UPDATE(agent, DATA)
    _, next_key, flow_key, noise_key = jax.random.split(agent.key, 4)

    def one_step(generator, states, noise):
        rows = jnp.hstack([states, noise.reshape(N, -1)])
        return reference.mlp(generator.network, rows, jax.nn.silu).reshape(N, *PLAN)

    def velocity(flow, x, t):
        rows = jnp.hstack([DATA.state, x.reshape(N, -1), t[:, None]])
        return reference.mlp(flow.network.body.mlp, rows, jax.nn.silu).reshape(N, *PLAN)

    def chunks(plans):
        return jnp.clip(plans[:, :2].reshape(N, 4), -1, 1)

    # Q towards r + discount * mean of the target critics at what the one-step policy does next
    noise = jnp.stack([jax.random.normal(k, (1, *PLAN))[0] for k in jax.random.split(next_key, N)])
    following = chunks(one_step(agent.one_step.model, DATA.next_state, noise))
    next_q = reference.q(agent.critics.target, DATA.next_state, following).mean(0)
    target = reference.q_target(DATA, next_q)

    def critic_loss(critic):
        return jnp.mean((reference.q(critic, DATA.state, DATA.chunk) - target) ** 2)

    critic, loss_of_q = reference.adam_step(agent.critics.q, critic_loss, CONFIG.learning_rate)
    reference.assert_close(updated.critics.q, critic, atol=6e-6)
    reference.assert_moved(agent.critics.target, updated.critics.q, updated.critics.target, 0.1)

    # the flow towards the batch, whole plans
    time_key, from_key = jax.random.split(flow_key)
    t, start = jax.random.uniform(time_key, (N,)), jax.random.normal(from_key, (N, *PLAN))
    between = (1 - t)[:, None, None] * start + t[:, None, None] * DATA.plan

    def flow_loss(flow):
        return jnp.mean((velocity(flow, between, t) - (DATA.plan - start)) ** 2)

    flow, loss_of_flow = reference.adam_step(agent.flow.model, flow_loss, CONFIG.learning_rate)
    reference.assert_close(updated.flow.model, flow, atol=6e-6)

    # the one-step policy towards the flow's ends, and to high Q of what is executed
    noise = jax.random.normal(noise_key, (N, *PLAN))
    ends = noise
    for i in range(STEPS):
        ends = ends + velocity(agent.flow.model, ends, jnp.full(N, i / STEPS)) / STEPS
    ends = jnp.clip(ends, -1, 1)

    def policy_loss(generator):
        plans = one_step(generator, DATA.state, noise)
        q = reference.q(agent.critics.q, DATA.state, chunks(plans))
        return 0.7 * jnp.mean((plans - ends) ** 2) - jnp.mean(q)

    before = agent.one_step.model
    one_step_after, loss = reference.adam_step(before, policy_loss, CONFIG.learning_rate)
    reference.assert_close(updated.one_step.model, one_step_after, atol=6e-6)
    assert float(metrics["critic/loss"]) == pytest.approx(loss_of_q, rel=1e-4)
    assert float(metrics["critic/value"]) == pytest.approx(float(target.mean()), rel=1e-4)
    assert float(metrics["policy/flow_loss"]) == pytest.approx(loss_of_flow, rel=1e-4)
    assert float(metrics["policy/loss"]) == pytest.approx(loss, rel=1e-3)
    parts = 0.7 * metrics["policy/distillation"] - metrics["policy/q"]
    assert float(metrics["policy/loss"]) == pytest.approx(float(parts), rel=1e-4)


def test_critics_alone_leave_flow_and_policy():
    agent = small.fresh(CONFIG)
    updated, metrics = UPDATE(agent, DATA, update_policy=False)
    assert reference.same((agent.one_step, agent.flow), (updated.one_step, updated.flow))
    assert not reference.same(agent.critics.q, updated.critics.q)
    assert not any(name.startswith("policy/") for name in metrics)
    assert not reference.same(agent.key, updated.key)


def test_the_size_of_its_networks_is_its_own():
    agent = small.created(CONFIG)
    for network in (agent.flow.model.network.body.mlp, agent.one_step.model.network):
        assert sizes(network) == {"width": 24, "depth": 2}


@pytest.fixture(scope="module")
def learnt() -> FQL:
    config = FQLConfig(
        critic_width=32,
        policy_width=32,
        policy_depth=2,
        batch_size=64,
        learning_rate=3e-3,
        target_rate=0.05,
        alpha=0.1,
        flow_steps=5,
    )
    agent = bandit.learn(config, offline=600, rounds=4, updates=150, warming=0)
    assert isinstance(agent, FQL)
    return agent


@pytest.mark.long
def test_it_finds_what_pays_and_its_flow_still_imitates(learnt: FQL):
    assert bandit.paying_share(learnt.deployed()) > 0.9
    # two thirds of the data are demonstrations, half of which do not pay
    imitation = learnt.base.with_generator(learnt.flow.model)
    assert 0.5 < bandit.paying_share(imitation) < 0.85


def test_what_it_deploys_comes_back_from_disk(tmp_path: Path):
    small.assert_comes_back_from_disk(small.created(CONFIG).deployed(), tmp_path / "policy")


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is FQL
    assert PRESETS["default"].offline_updates > 0  # it has no policy to begin with
    small.assert_refused(CONFIG, alpha=0.0, target_rate=1.5, flow_steps=0, num_critics=0, policy_width=0)
