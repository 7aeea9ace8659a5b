from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from otpr.data.collect import collect
from otpr.data.episodes import Episode, validate_episodes
from otpr.data.seeds import demonstration_seed
from otpr.envs import Setup, make_env, make_expert, task_spec
from otpr.errors import OtprError

TASK = "metaworld/peg-insert-side-v3"


@pytest.fixture(scope="module")
def noisy() -> tuple[list[Episode], list[tuple[int, int]]]:
    calls: list[tuple[int, int]] = []
    episodes = collect(
        TASK, episodes=5, noise=0.5, seed=3, on_episode=lambda kept, tried: calls.append((kept, tried))
    )
    return episodes, calls


def test_keeps_that_many_successes_of_the_documented_seeds(noisy) -> None:
    episodes, calls = noisy
    assert len(episodes) == 5
    validate_episodes(episodes, source="collect", spec=task_spec(TASK).spec)
    for episode in episodes:
        assert (episode.success, episode.terminated, episode.truncated) == (True, True, False)
        assert episode.rewards.tolist() == [0.0] * (len(episode) - 1) + [1.0]
        assert (
            episode.observations["state"].dtype
            == episode.actions.dtype
            == episode.rewards.dtype
            == np.float32
        )
    attempts = calls[-1][1]
    assert [attempt for _, attempt in calls] == list(range(1, attempts + 1))
    kept_at = [1 + [kept for kept, _ in calls].index(k) for k in range(1, 6)]
    assert [episode.seed for episode in episodes] == [demonstration_seed(3, i - 1) for i in kept_at]
    assert attempts > 5  # this noise makes the expert fail about every other time


def test_stored_actions_lead_to_the_stored_observations(noisy) -> None:
    episodes, _ = noisy
    env = make_env(TASK)
    for episode in episodes[:2]:
        observation, _ = env.reset(seed=episode.seed)
        np.testing.assert_array_equal(observation, episode.observations["state"][0])
        for action, expected in zip(episode.actions, episode.observations["state"][1:], strict=True):
            observation, *_ = env.step(action)
            np.testing.assert_array_equal(observation, expected)
    env.close()


def test_noise_has_the_standard_deviation_asked_for(noisy) -> None:
    episodes, _ = noisy
    expert = make_expert(TASK, make_env(TASK))
    planned = np.concatenate(
        [[expert.act(o) for o in episode.observations["state"][:-1]] for episode in episodes]
    )
    noise = np.concatenate([episode.actions for episode in episodes]) - planned
    # The gripper's effort (-1 or .6) less the one that is clipped, the others where the plan is well inside.
    inside = np.abs(planned) < 0.2
    assert inside.sum() > 300
    assert np.abs(noise[inside]).max() > 0.8
    # Clipping at 1 cuts what lies beyond 1.6 standard deviations: .5 becomes about .45.
    assert 0.4 < noise[inside].std() < 0.5
    assert abs(noise[inside].mean()) < 0.08


def test_same_arguments_same_episodes_and_fewer_are_a_prefix(noisy) -> None:
    episodes, _ = noisy
    for one, other in zip(collect(TASK, episodes=2, noise=0.5, seed=3), episodes, strict=False):
        np.testing.assert_equal(asdict(one), asdict(other))
    other_seed = collect(TASK, episodes=1, noise=0.5, seed=4)[0]
    assert not np.allclose(
        other_seed.observations["state"][0], episodes[0].observations["state"][0], atol=1e-3
    )


def test_without_noise_the_expert_s_own_actions_are_stored() -> None:
    expert = make_expert(TASK, make_env(TASK))
    (episode,) = collect(TASK, episodes=1, noise=0.0, seed=0)
    for observation, action in zip(episode.observations["state"][:-1], episode.actions, strict=True):
        np.testing.assert_array_equal(expert.act(observation), action)


def test_a_limit_that_is_given_cuts_attempts_off() -> None:
    with pytest.raises(OtprError, match=r"succeeded in 0 of 50 attempts"):
        collect(Setup(TASK, 3), episodes=1, noise=0.0, seed=0)


def test_gives_up_where_success_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otpr.data.collect._ATTEMPTS_PER_EPISODE", 4)
    with pytest.raises(OtprError, match=r"succeeded in 0 of 4 attempts with action noise 100; 3 successes"):
        collect("metaworld/assembly-v3", episodes=3, noise=100.0, seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "episodes must be at least 1, given 0"),
        ({"noise": -0.1}, "noise must be .* given -0.1"),
        ({"noise": float("nan")}, "noise must be .* given nan"),
        ({"seed": -1}, "seed must not be negative, given -1"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        collect(TASK, **{"episodes": 1, "noise": 0.3, "seed": 0, **arguments})


def test_unknown_task() -> None:
    with pytest.raises(OtprError, match="Did you mean 'metaworld/peg-insert-side-v3'"):
        collect("metaworld/peg-insert-side", episodes=1, noise=0.3, seed=0)
