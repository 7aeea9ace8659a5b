"""DAWR: its returns against episodes walked by hand, its weights, and that it learns."""

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

from otpr.agents.dawr import DAWR, PRESETS, DAWRConfig, Paths
from otpr.data.episodes import Episode
from tiny import arrays, assert_same_arrays

CONFIG = DAWRConfig(
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    ema_rate=0.02,
    lookahead=4,
)
E, GAMMA = small.BASE.spec.execute, small.GAMMA
UPDATE = eqx.filter_jit(DAWR.update)


def walked_return(walked: Episode, start: int, value, config: DAWRConfig) -> float:
    """TD(lambda) from a step of an episode, chunk by chunk, over the episode itself."""
    T, chunks, first = len(walked), [], start
    while start < T and len(chunks) < config.lookahead:
        chunks.append((start, min(start + E, T)))
        start += E
    begin, _ = chunks[-1]
    rest = sum(GAMMA**i * r for i, r in enumerate(walked.rewards[begin:]))
    looked_up = len(chunks) == config.lookahead
    result = rest
    for j, (begin, end) in reversed(list(enumerate(chunks))):
        if looked_up and j == config.lookahead - 1:
            continue  # what was really achieved
        reward = sum(GAMMA**i * r for i, r in enumerate(walked.rewards[begin:end]))
        v = value(small.walked(walked, first + j * E).next_state)
        share = config.lambda_share if j < len(chunks) - 1 else 0.0
        over = walked.terminated and end == T
        following = 0.0 if over else (1 - share) * v + share * result
        result = reward + GAMMA ** (end - begin) * following
    return result


@pytest.fixture(scope="module")
def agent() -> DAWR:
    return small.created(CONFIG)


@pytest.mark.parametrize("replayed", [True, False])
def test_returns_are_td_lambda_along_the_episodes(agent: DAWR, replayed: bool):
    share, episodes = (0.0, small.OWN) if replayed else (1.0, small.DEMONSTRATIONS)
    agent = dataclasses.replace(agent, config=dataclasses.replace(CONFIG, demonstration_share=share))
    paths = agent.draw(small.experience(), jax.random.key(1))
    returns = np.asarray(agent.lambda_returns(paths))

    def value(state: np.ndarray) -> float:
        return float(reference.mlp(agent.value, state[None], jax.nn.relu)[0, 0])

    expected = {
        small.walked(e, t).state.tobytes(): (e, t, walked_return(e, t, value, CONFIG))
        for _, e, t in small.rows_of(episodes)
    }
    first = np.asarray(paths.data.state)[:: CONFIG.lookahead]
    drawn = [expected[state.tobytes()] for state in first]
    np.testing.assert_allclose(returns, [result for *_, result in drawn], atol=1e-5)
    # with paths that go on beyond the chunks looked up, that end inside them, and of one chunk
    lengths = {-(-(len(e) - t) // E) for e, t, _ in drawn}
    assert lengths >= {1, 2, 3, 4}
    assert len({(id(e), t) for e, t, _ in drawn}) > 15


def test_what_was_achieved_in_a_cut_off_episode_with_costs_is_not_known(agent: DAWR):
    cut = small.episode(20, 9, terminated=False)
    cut = dataclasses.replace(cut, rewards=-cut.rewards)
    agent = dataclasses.replace(agent, config=dataclasses.replace(CONFIG, demonstration_share=0.0))
    paths = agent.draw(small.experience([cut]), jax.random.key(1))
    assert np.isneginf(paths.data.return_to_go).all()
    assert np.isfinite(agent.lambda_returns(paths)).all()


def test_an_update_regresses_v_and_weighs_the_score_matching_by_its_errors():
    config = dataclasses.replace(CONFIG, beta=5.0, largest_weight=20.0)
    agent, n = small.fresh(config), 32
    data = small.transitions(n * config.lookahead)
    paths = Paths(data, jnp.zeros((n, config.lookahead - 1), bool))  # no two of them follow each other
    updated, metrics = UPDATE(agent, paths)
    first = jax.tree.map(lambda field: field[:: config.lookahead], data)

    def value_of(value, states):
        return reference.mlp(value, states, jax.nn.relu)[:, 0]

    returns = first.reward + first.discount * value_of(agent.value, first.next_state)

    def value_loss(value):
        return jnp.mean((value_of(value, first.state) - returns) ** 2)

    value, _ = reference.adam_step(agent.value, value_loss, config.learning_rate)
    reference.assert_close(updated.value, value)
    advantage = np.asarray(returns - value_of(agent.value, first.state), np.float64)
    weights = np.exp(5.0 * (advantage - advantage.mean()) / advantage.std()).clip(max=20.0)
    assert (weights == 20.0).any()
    assert (weights < 1.0).any()
    assert metrics["policy/weight"] == pytest.approx(weights.mean(), rel=1e-4)
    noise_key = jax.random.split(agent.key)[1]
    errors = reference.noise_errors(agent.actor.policy, first.state, first.plan, noise_key)

    def policy_loss(network):
        return jnp.mean(weights * errors(network))

    network, loss = reference.adam_step(agent.actor.network, policy_loss, config.policy_learning_rate)
    reference.assert_close(updated.actor.network, network)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-4)
    before, after = (a.actor.policy.diffusion.network for a in (agent, updated))
    reference.assert_moved(before, updated.actor.network, after, 0.02)
    warmed, metrics = UPDATE(agent, paths, update_policy=False)
    assert "policy/loss" not in metrics
    assert_same_arrays(arrays(warmed.actor), arrays(agent.actor))


@pytest.mark.long
def test_advantages_move_the_policy_itself_to_the_side_that_pays_and_equal_weights_do_not():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    assert bandit.paying_share(bandit.learn(CONFIG).deployed()) > 0.8
    imitator = bandit.learn(dataclasses.replace(CONFIG, beta=1e-3), rounds=4)
    assert bandit.paying_share(imitator.deployed()) < 0.65


def test_deployed_is_one_sample(tmp_path: Path):
    agent = small.created(PRESETS["default"])
    acting = agent.deployed()
    assert acting.chooser is None
    small.assert_comes_back_from_disk(acting, tmp_path / "policy")
    assert agent.q_values(small.transitions(32)) is None


def test_settings_that_make_no_algorithm_are_refused():
    small.assert_refused(CONFIG, beta=0.0, largest_weight=0.0, lookahead=0)
