"""RLPD: its update is the paper's, it learns, and what it deploys is kept."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import small

from otpr.agents.rlpd import AGENT, PRESETS, RLPD, RLPDConfig
from otpr.networks.critics import QEnsemble
from otpr.policies.generators import TanhGaussian

A, N = 2, 12
CONFIG = RLPDConfig(width=16, batch_size=N, num_critics=3, target_rate=0.1, initial_temperature=0.5)
SPEC = CONFIG.acting_spec(small.BASE.spec)
DATA = small.transitions(N, SPEC)
UPDATE = eqx.filter_jit(RLPD.update)  # compiled once


def fresh() -> RLPD:
    return small.fresh(CONFIG)


def draws(generator: eqx.Module, states: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Squashed normal samples and the logarithms of their densities, by the change of variables."""
    output = reference.mlp(cast(TanhGaussian, generator).network, states, jax.nn.relu)
    mean, log_std = output[:, :A], jnp.clip(output[:, A:], -20, 2)
    noise = jnp.stack([jax.random.normal(k, (A,)) for k in jax.random.split(key, len(states))])
    x = mean + jnp.exp(log_std) * noise
    log_normal = jax.scipy.stats.norm.logpdf(x, mean, jnp.exp(log_std))
    return jnp.tanh(x), (log_normal - jnp.log(1 - jnp.tanh(x) ** 2)).sum(1)


def test_an_update_is_the_papers():
    agent = fresh()
    updated, metrics = UPDATE(agent, DATA)
    _, next_key, subset_key, policy_key = jax.random.split(agent.key, 4)

    # the least of two of the three target critics, without the entropy
    following, _ = draws(agent.actor.model, DATA.next_state, next_key)
    chosen = jax.random.permutation(subset_key, 3)[:2]
    next_q = reference.q(agent.critics.target, DATA.next_state, following)[chosen].min(0)
    target = reference.q_target(DATA, next_q)

    def critic_loss(critic: QEnsemble) -> jax.Array:
        return jnp.mean((reference.q(critic, DATA.state, DATA.chunk) - target) ** 2)

    critic, loss_of_q = reference.adam_step(agent.critics.q, critic_loss, CONFIG.learning_rate)
    reference.assert_close(updated.critics.q, critic, atol=6e-6)
    reference.assert_moved(agent.critics.target, updated.critics.q, updated.critics.target, 0.1)

    # the policy sees the critics as they are after their step, and the mean of all
    def policy_loss(generator: eqx.Module) -> jax.Array:
        chunks, log_densities = draws(generator, DATA.state, policy_key)
        return jnp.mean(0.5 * log_densities - reference.q(updated.critics.q, DATA.state, chunks).mean(0))

    before = agent.actor.model
    after, loss = reference.adam_step(before, policy_loss, CONFIG.learning_rate)
    reference.assert_close(updated.actor.model, after, atol=6e-6)

    # the entropy is above its target of -1, so the temperature falls
    entropy = -float(draws(before, DATA.state, policy_key)[1].mean())
    assert entropy > -A / 2
    expected = float(jnp.log(0.5)) - CONFIG.learning_rate
    assert float(updated.temperature.model) == pytest.approx(expected, abs=1e-6)
    assert float(metrics["policy/entropy"]) == pytest.approx(entropy, abs=1e-3)
    assert float(metrics["policy/temperature"]) == pytest.approx(0.5)
    assert float(metrics["policy/loss"]) == pytest.approx(loss, abs=1e-3)
    assert float(metrics["critic/loss"]) == pytest.approx(loss_of_q, rel=1e-3)


def test_the_targets_come_from_two_different_networks_and_all_have_their_turn():
    agent = fresh()
    alone = reference.q(agent.critics.target, DATA.state, DATA.chunk)
    by_pair = {(i, j): np.asarray(alone[jnp.asarray([i, j])].min(0)) for i, j in ((0, 1), (0, 2), (1, 2))}
    values = eqx.filter_jit(agent._next_values)
    seen = set()
    for seed in range(12):
        drawn = np.asarray(values(DATA.state, DATA.chunk, jax.random.key(seed)))
        seen |= {pair for pair, least in by_pair.items() if np.allclose(drawn, least, atol=1e-5)}
    assert seen == set(by_pair)


def test_it_acts_a_step_at_a_time_by_its_mode_and_explores_by_samples():
    agent = fresh()
    assert agent.deployed().spec == SPEC
    assert (SPEC.history, SPEC.horizon, SPEC.execute) == (2, 1, 1)
    observations = {"state": jnp.zeros((5, 2, 3))}
    keys = jax.random.split(jax.random.key(0), 5)
    modes, _ = agent.deployed().act_batch(observations, keys)
    samples, _ = agent.exploring().act_batch(observations, keys)
    assert modes.shape == samples.shape == (5, 1, A)
    assert len(np.unique(np.asarray(modes), axis=0)) == 1
    assert len(np.unique(np.asarray(samples), axis=0)) == 5


def test_the_temperature_rises_where_the_entropy_is_below_its_target():
    agent = fresh()
    narrow = eqx.tree_at(
        lambda a: a.actor.model.network.layers[-1].bias, agent, jnp.asarray([0.0] * A + [-5.0] * A)
    )
    updated, _ = UPDATE(narrow, DATA)
    assert float(updated.temperature.model - narrow.temperature.model) == pytest.approx(3e-4, rel=0.01)


def test_critics_alone_leave_policy_and_temperature():
    agent = fresh()
    updated, metrics = UPDATE(agent, DATA, update_policy=False)
    assert reference.same((agent.actor, agent.temperature), (updated.actor, updated.temperature))
    assert not reference.same(agent.critics.q, updated.critics.q)
    assert not any(name.startswith("policy/") for name in metrics)


@pytest.mark.long
def test_it_finds_what_pays():
    config = RLPDConfig(
        width=32,
        batch_size=64,
        learning_rate=3e-3,
        target_rate=0.05,
        num_critics=3,
        initial_temperature=0.1,
    )
    learnt = bandit.learn(config, rounds=6, warming=0)
    assert bandit.paying_share(learnt.deployed()) > 0.9


def test_what_it_deploys_comes_back_from_disk(tmp_path: Path):
    loaded = small.assert_comes_back_from_disk(fresh().deployed(), tmp_path / "policy")
    assert cast(TanhGaussian, loaded.generator).deterministic


def test_settings_that_make_no_algorithm_are_refused():
    assert AGENT is RLPD
    assert PRESETS["default"].offline_updates == 0
    small.assert_refused(CONFIG, target_rate=1.5, initial_temperature=0.0, target_critics=4)
