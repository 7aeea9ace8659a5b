from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
import pytest

from otpr.agents.otpr.compatibility import ZERO
from otpr.data.episodes import Episode, validate_episodes
from otpr.envs import ChunkedVectorEnv, make_env, task_spec
from otpr.policies.policy import Policy
from otpr.policies.prefix import Prefix
from otpr.training.rollout import Delay, acts_alike, run_episodes
from tiny import TASK, chooser, policy

SEEDS = [4, 5, 6, 7]
ACTION_SEED = 11
POLICY = policy(chooser=chooser(u=-0.2))


@pytest.fixture(scope="module")
def rollout():
    """Four episodes, three side by side: the second wave has idle slots."""
    waves: list[int] = []
    with ChunkedVectorEnv(TASK, 3, POLICY.spec.execute, processes=False) as env:
        outcome = run_episodes(env, POLICY, SEEDS, action_seed=ACTION_SEED, on_wave=waves.append)
    assert waves == [3, 1]
    return outcome


def plain_loop(seed: int, policy: Policy = POLICY) -> tuple[Episode, list[bool]]:
    """One episode in one environment, a step at a time; and which decisions had no positive H."""
    env, history = make_env(TASK), policy.spec.history
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards, none = [observation], [], [], []
    terminated = truncated = success = False
    key = jax.random.fold_in(jax.random.key(ACTION_SEED), seed)
    while not (terminated or truncated):
        decision = jax.random.fold_in(key, len(none))
        seen = [observations[0]] * history + observations[1:]
        chunk, metrics = policy.act_batch({"state": np.stack(seen[-history:])[None]}, decision[None])
        none.append(bool(metrics.get(ZERO, np.zeros(1))[0]))
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
        {"state": np.stack(observations)},
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
    np.testing.assert_allclose(
        given.observations["state"], expected.observations["state"], atol=tolerance, rtol=0
    )
    np.testing.assert_array_equal(given.rewards, expected.rewards)


def test_episodes_are_those_of_a_plain_loop_in_one_environment(rollout):
    loops = [plain_loop(seed) for seed in SEEDS]
    for given, (expected, _) in zip(rollout.episodes, loops, strict=True):
        assert_same(given, expected, tolerance=1e-5)
    none = [zero for _, zeros in loops for zero in zeros]
    assert rollout.metrics[ZERO] == pytest.approx(sum(none) / len(none))
    assert 0.02 < rollout.metrics[ZERO] < 0.98


def test_episodes_are_whole_and_valid(rollout):
    validate_episodes(rollout.episodes, source="rollout", spec=task_spec(TASK).spec)
    assert [episode.seed for episode in rollout.episodes] == SEEDS
    assert [len(episode) for episode in rollout.episodes] == [200] * 4
    assert all(episode.truncated and not episode.terminated for episode in rollout.episodes)
    # each from its own initial condition and with its own randomness
    starts = np.stack([episode.observations["state"][0] for episode in rollout.episodes])
    assert len(np.unique(starts, axis=0)) == 4
    first_actions = np.stack([episode.actions[0] for episode in rollout.episodes])
    assert len(np.unique(first_actions, axis=0)) == 4


def test_episode_is_the_same_bit_for_bit_whichever_run_beside_it_and_wherever(rollout):
    with ChunkedVectorEnv(TASK, 3, POLICY.spec.execute, processes=False) as env:
        alone = run_episodes(env, POLICY, [SEEDS[1]], action_seed=ACTION_SEED)
        moved = run_episodes(env, POLICY, [SEEDS[3], 99, SEEDS[0]], action_seed=ACTION_SEED)
    for given, number in ((alone.episodes[0], 1), (moved.episodes[0], 3), (moved.episodes[2], 0)):
        assert_same(given, rollout.episodes[number], tolerance=0)


def test_other_action_seed_gives_other_actions_from_the_same_start(rollout):
    with ChunkedVectorEnv(TASK, 3, POLICY.spec.execute, processes=False) as env:
        other = run_episodes(env, POLICY, [SEEDS[0]], action_seed=ACTION_SEED + 1).episodes[0]
    np.testing.assert_array_equal(
        other.observations["state"][0], rollout.episodes[0].observations["state"][0]
    )
    assert np.abs(other.actions[:8] - rollout.episodes[0].actions[:8]).max() > 0.1


def test_decisions_see_the_last_observations_and_execute_the_first_actions():
    """Three observations a decision, eight planned actions of which three are executed."""
    looking_back = policy(history=3, horizon=8, execute=3)
    with ChunkedVectorEnv(TASK, 2, 3, processes=False) as env:
        rollout = run_episodes(env, looking_back, SEEDS[:2], action_seed=ACTION_SEED)
    for given, seed in zip(rollout.episodes, SEEDS[:2], strict=True):
        assert_same(given, plain_loop(seed, looking_back)[0], tolerance=1e-5)
    assert rollout.decisions == 2 * -(-200 // 3)


def test_policies_act_alike_where_their_plans_agree():
    assert acts_alike(policy(), policy(), 2)
    assert not acts_alike(policy(), policy(seed=1), 2)
    assert not acts_alike(policy(), policy(execute=4), 2)


@pytest.mark.long
@pytest.mark.parametrize(("steps", "waits"), [(1, False), (4, False), (2, True)])
def test_a_plan_that_takes_time_is_executed_from_where_it_arrives(steps: int, waits: bool):
    """Against a schedule by time: each plan replaces what lies `steps` actions after its observation."""
    shown, execute = policy(chooser=chooser(chunk_dim=16), execute=4), 4
    at_once = execute + steps * waits
    with ChunkedVectorEnv(TASK, 2, at_once, processes=False) as env:
        found = run_episodes(env, shown, SEEDS[:1], action_seed=ACTION_SEED, delay=Delay(steps, waits))
    [episode] = found.episodes
    planned = eqx.filter_jit(Policy.plan_batch)
    key = jax.random.fold_in(jax.random.key(ACTION_SEED), SEEDS[0])
    schedule: dict[int, np.ndarray] = {}
    actions: list[np.ndarray] = []
    for decision, t in enumerate(range(0, len(episode), at_once)):
        seen = {"state": episode.observations["state"][t][None, None]}
        one = jax.random.fold_in(key, decision)[None]
        ahead = None
        if not waits and decision:
            ahead = Prefix.of(np.stack([schedule[t + i] for i in range(steps)])[None], shown.spec)
        plan = np.asarray(planned(shown, seen, one, ahead)[0][0])
        if waits:
            plan = np.concatenate([np.zeros((steps, 4)), plan])
        first = steps if decision and not waits else 0
        schedule |= {t + i: plan[i] for i in range(first, len(plan))}
        actions += [schedule[t + i] for i in range(at_once)]
    np.testing.assert_allclose(episode.actions, np.stack(actions)[: len(episode)], atol=1e-4, rtol=0)
