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
from otpr.data.chunks import Transitions, chunk_transitions, concatenate
from otpr.data.replay import Replay

from otpr.agents.dawr import DAWR, PRESETS, DAWRBatch, DAWRConfig
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.policies.policy import load_policy
from tiny import TASK, arrays, assert_same_arrays

CONFIG = DAWRConfig(
    critic_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    ema_rate=0.02,
    lookahead=4,
)
H, GAMMA = 3, 0.9


def episode(steps: int, terminated: bool, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        observations=rng.uniform(-1, 1, (steps + 1, 1)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 1)).astype(np.float32),
        rewards=rng.uniform(0, 1, steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        seed=seed,
    )


EPISODES = [episode(20, True, 1), episode(16, False, 2), episode(7, True, 3)]


def walked_return(walked: Episode, start: int, value, config: DAWRConfig) -> float:
    """TD(lambda) from a step of an episode, chunk by chunk, over the episode itself."""
    T, chunks = len(walked.actions), []
    while start < T and len(chunks) < config.lookahead:
        chunks.append((start, min(start + H, T)))
        start += H
    begin, _ = chunks[-1]
    rest = sum(GAMMA**i * r for i, r in enumerate(walked.rewards[begin:]))
    looked_up = len(chunks) == config.lookahead
    result = rest
    for j, (begin, end) in reversed(list(enumerate(chunks))):
        if looked_up and j == config.lookahead - 1:
            continue  # what was really achieved
        reward = sum(GAMMA**i * r for i, r in enumerate(walked.rewards[begin:end]))
        v = value(walked.observations[end])
        share = config.lambda_share if j < len(chunks) - 1 else 0.0
        over = walked.terminated and end == T
        following = 0.0 if over else (1 - share) * v + share * result
        result = reward + GAMMA ** (end - begin) * following
    return result


@pytest.fixture(scope="module")
def agent() -> DAWR:
    base = dataclasses.replace(bandit.base(), chunk_length=H)
    data = concatenate([chunk_transitions(e, H, GAMMA) for e in EPISODES])
    # the network's chunk is one number; returns ask for the length of a chunk alone
    return DAWR.create(base, bandit.on_device(data), CONFIG, jax.random.key(0))


@pytest.mark.parametrize("replayed", [True, False])
def test_returns_are_td_lambda_along_the_episodes(agent: DAWR, replayed: bool):
    parts = [chunk_transitions(e, H, GAMMA) for e in EPISODES]
    stored = concatenate(parts)
    other = bandit.on_device(chunk_transitions(episode(9, True, 4), H, GAMMA))
    if replayed:  # one episode after the other, as a run adds them, in a buffer that is not full
        replay = Replay.create(64, 1, H)
        for part in parts:
            replay = replay.add(part)
        experience = Experience(replay, replay, Mixture.single(other), other)
        share = 0.0
    else:
        empty = Replay.create(64, 1, H)
        experience = Experience(
            empty, empty, Mixture.of([EPISODES[:1], EPISODES[1:]], (0.5, 0.5), H, GAMMA), other
        )
        share = 1.0
    agent = dataclasses.replace(agent, config=dataclasses.replace(CONFIG, demonstration_share=share))
    paths = agent.draw(experience, jax.random.key(1)).paths
    returns = np.asarray(agent.lambda_returns(paths))

    def value(observation: np.ndarray) -> float:
        return float(agent.value(agent.policy.normalizer(jnp.asarray(observation, jnp.float32))))

    starts = [(e, t) for e in EPISODES for t in range(len(e.actions))]
    expected = np.asarray([walked_return(e, t, value, CONFIG) for e, t in starts])
    first = np.asarray(paths.observation)[:: CONFIG.lookahead]
    rows = np.argmin(np.abs(first - stored.observation.T), axis=1)
    np.testing.assert_array_equal(stored.observation[rows], first)
    assert len(set(rows.tolist())) > 20
    np.testing.assert_allclose(returns, expected[rows], atol=1e-5)


def test_what_was_achieved_in_a_cut_off_episode_with_costs_is_not_known(agent: DAWR):
    cut = dataclasses.replace(EPISODES[1], rewards=-EPISODES[1].rewards)
    paths = chunk_transitions(cut, H, GAMMA)
    rows = np.arange(CONFIG.lookahead) * H
    assert np.isneginf(paths.return_to_go).all()
    returns = agent.lambda_returns(bandit.on_device(Transitions(*(field[rows] for field in paths))))
    assert np.isfinite(returns).all()


def test_an_update_regresses_v_and_weighs_the_score_matching_by_its_errors():
    config = dataclasses.replace(CONFIG, beta=5.0, largest_weight=20.0)
    agent = bandit.new_agent(config)
    paths = bandit.some_batch(32 * config.lookahead)  # no two of them follow each other
    updated, metrics = eqx.filter_jit(DAWR.update)(agent, DAWRBatch(paths))
    first = Transitions(*(field[:: config.lookahead] for field in paths))
    returns = first.reward + first.discount * jax.vmap(agent.value)(first.next_observation)

    def value_loss(value):
        return jnp.mean((jax.vmap(value)(first.observation) - returns) ** 2)

    bandit.assert_close(updated.value, bandit.adam_step(agent.value, value_loss, config.learning_rate))
    advantage = np.asarray(returns - jax.vmap(agent.value)(first.observation), np.float64)
    weights = np.exp(5.0 * (advantage - advantage.mean()) / advantage.std()).clip(max=20.0)
    assert (weights == 20.0).any()
    assert (weights < 1.0).any()
    assert metrics["policy/weight"] == pytest.approx(weights.mean(), rel=1e-4)
    noisy, k, noise = bandit.noised(agent.policy, first.chunk, jax.random.split(agent.key)[1])

    def policy_loss(network):
        errors = (jax.vmap(network)(first.observation, noisy, k) - noise) ** 2
        return jnp.mean(weights * errors[:, 0])

    network = bandit.adam_step(agent.network, policy_loss, config.policy_learning_rate)
    bandit.assert_close(updated.network, network)
    assert metrics["policy/loss"] == pytest.approx(float(policy_loss(agent.network)), rel=1e-4)
    average = bandit.moved(agent.policy.diffusion.network, network, 0.02)
    bandit.assert_close(updated.policy.diffusion.network, average)
    warmed, metrics = eqx.filter_jit(DAWR.update)(agent, DAWRBatch(paths), update_policy=False)
    assert "policy/loss" not in metrics
    assert_same_arrays(arrays(warmed.policy), arrays(agent.policy))


def test_advantages_move_the_policy_itself_to_the_side_that_pays_and_equal_weights_do_not():
    assert 0.4 < bandit.paying_share(bandit.base()) < 0.6
    assert bandit.paying_share(bandit.fine_tune(CONFIG).deployed()) > 0.8
    imitator = bandit.fine_tune(dataclasses.replace(CONFIG, beta=1e-3), rounds=4)
    assert bandit.paying_share(imitator.deployed()) < 0.65


def test_deployed_is_one_sample(tmp_path: Path):
    agent = bandit.new_agent(PRESETS["default"])
    acting = agent.deployed()
    assert acting.chooser is None
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(acting))
    observation = np.asarray([0.3], np.float32)
    np.testing.assert_array_equal(loaded.act(observation, 3), acting.act(observation, 3))
    assert agent.q_values(bandit.some_batch()) is None


def test_settings_that_make_no_algorithm_are_refused():
    for name in ("beta", "largest_weight"):
        with pytest.raises(ValueError, match=name):
            dataclasses.replace(CONFIG, **{name: 0.0})
    with pytest.raises(ValueError, match="lookahead"):
        dataclasses.replace(CONFIG, lookahead=0)
