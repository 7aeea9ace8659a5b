from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.data.episodes import Episode, validate_episodes
from otpr.envs import ChunkedVectorEnv, make_env
from otpr.training.rollout import run_episodes
from tiny import TASK, chooser, policy

SEEDS = [4, 5, 6, 7]
ACTION_SEED = 11
POLICY = policy(chooser=chooser(u=-0.2))


@pytest.fixture(scope="module")
def rollout():
    """Four episodes, three side by side: the second wave has idle slots."""
    waves: list[int] = []
    with ChunkedVectorEnv(TASK, 3, POLICY.chunk_length, processes=False) as env:
        outcome = run_episodes(env, POLICY, SEEDS, action_seed=ACTION_SEED, on_wave=waves.append)
    assert waves == [3, 1]
    return outcome


def plain_loop(seed: int) -> tuple[Episode, list[bool]]:
    """One episode in one environment, a step at a time; and which decisions had no positive H."""
    env = make_env(TASK)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, none = [observation], [], [], []
    terminated = truncated = success = False
    key = jax.random.fold_in(jax.random.key(ACTION_SEED), seed)
    while not (terminated or truncated):
        decision = jax.random.fold_in(key, len(none))
        chunk, zero = POLICY.act_batch(jnp.asarray(observation)[None], decision[None])
        none.append(bool(zero[0]))
        for action in np.asarray(chunk[0]):
            observation, reward, terminated, truncated, info = env.step(action)
            observations.append(observation)
            actions.append(action)
            rewards.append(reward)
            success = success or info["success"]
            if terminated or truncated:
                break
    env.close()
    episode = Episode(
        np.stack(observations),
        np.stack(actions),
        np.asarray(rewards, np.float32),
        terminated,
        truncated,
        success,
        seed,
    )
    return episode, none


def assert_same(given: Episode, expected: Episode, tolerance: float) -> None:
    assert (given.terminated, given.truncated, given.success, given.seed) == (
        expected.terminated,
        expected.truncated,
        expected.success,
        expected.seed,
    )
    np.testing.assert_allclose(given.actions, expected.actions, atol=tolerance, rtol=0)
    np.testing.assert_allclose(given.observations, expected.observations, atol=tolerance, rtol=0)
    np.testing.assert_array_equal(given.rewards, expected.rewards)


def test_episodes_are_those_of_a_plain_loop_in_one_environment(rollout):
    loops = [plain_loop(seed) for seed in SEEDS]
    for given, (expected, _) in zip(rollout.episodes, loops, strict=True):
        assert_same(given, expected, tolerance=1e-5)
    none = [zero for _, zeros in loops for zero in zeros]
    assert rollout.zero_compatibility == pytest.approx(sum(none) / len(none))
    assert 0.02 < rollout.zero_compatibility < 0.98


def test_episodes_are_whole_and_valid(rollout):
    validate_episodes(rollout.episodes, source="rollout", observation_dim=39, action_dim=4)
    assert [episode.seed for episode in rollout.episodes] == SEEDS
    assert [len(episode) for episode in rollout.episodes] == [200] * 4
    assert all(episode.truncated and not episode.terminated for episode in rollout.episodes)
    # each from its own initial condition and with its own randomness
    starts = np.stack([episode.observations[0] for episode in rollout.episodes])
    assert len(np.unique(starts, axis=0)) == 4
    first_actions = np.stack([episode.actions[0] for episode in rollout.episodes])
    assert len(np.unique(first_actions, axis=0)) == 4


def test_episode_is_the_same_bit_for_bit_whichever_run_beside_it_and_wherever(rollout):
    with ChunkedVectorEnv(TASK, 3, POLICY.chunk_length, processes=False) as env:
        alone = run_episodes(env, POLICY, [SEEDS[1]], action_seed=ACTION_SEED)
        moved = run_episodes(env, POLICY, [SEEDS[3], 99, SEEDS[0]], action_seed=ACTION_SEED)
    for given, number in ((alone.episodes[0], 1), (moved.episodes[0], 3), (moved.episodes[2], 0)):
        assert_same(given, rollout.episodes[number], tolerance=0)


def test_other_action_seed_gives_other_actions_from_the_same_start(rollout):
    with ChunkedVectorEnv(TASK, 3, POLICY.chunk_length, processes=False) as env:
        other = run_episodes(env, POLICY, [SEEDS[0]], action_seed=ACTION_SEED + 1).episodes[0]
    np.testing.assert_array_equal(other.observations[0], rollout.episodes[0].observations[0])
    assert np.abs(other.actions[:8] - rollout.episodes[0].actions[:8]).max() > 0.1
