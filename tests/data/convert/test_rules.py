from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otpr.data.actions import ActionRangeError
from otpr.data.convert.rules import Rules, Tally, finish
from otpr.data.episodes import Episode
from otpr.data.recorded import Recorded
from otpr.errors import OtprError


def recorded(**changes: Any) -> Recorded:
    """Three steps, all known, terminated with a reward."""
    episode = Recorded(
        place="file: here",
        observations=np.arange(8.0).reshape(4, 2),
        actions=np.array([[0.5], [-1.0], [1.0]]),
        rewards=np.array([0.0, 0.0, 1.0]),
        terminated=True,
        truncated=False,
    )
    return replace(episode, **changes)


def finished(episode: Recorded, last_observation: bool | None = True, **rules: Any) -> tuple[Episode, Tally]:
    tally, decided = Tally(), Rules(**rules)
    bounds = decided.bounds(episode.actions.shape[1])
    result = finish(episode, decided, tally, last_observation=last_observation, bounds=bounds)
    assert result is not None
    return result, tally


def test_nothing_is_changed_where_all_is_known() -> None:
    episode, tally = finished(recorded(seed=7))
    assert (episode.observations["state"].dtype, episode.actions.dtype) == (np.float64, np.float32)
    np.testing.assert_array_equal(episode.observations["state"], recorded().observations)
    np.testing.assert_array_equal(episode.actions, recorded().actions)
    assert episode.rewards.tolist() == [0, 0, 1]
    assert (episode.terminated, episode.truncated, episode.success, episode.seed) == (True, False, True, 7)
    assert tally == Tally(episodes=1, steps=3, successes=1, numbers=3)
    assert tally.lines() == []


@pytest.mark.parametrize(
    ("changes", "assume", "solved"),
    [
        # recorded success decides, whatever the rest says
        ({"success": np.array([False, False, False])}, True, False),
        ({"success": np.array([False, False, True]), "terminated": False, "truncated": True}, False, True),
        # else a termination with or without a positive last reward
        ({"rewards": np.array([5.0, 0.0, 0.0])}, True, False),
        ({"rewards": np.array([-5.0, 0.0, 0.1])}, False, True),
        ({"rewards": None}, False, True),
        # else, cut off: none, unless the user says so
        ({"terminated": False, "truncated": True}, False, False),
        ({"terminated": False, "truncated": True}, True, True),
        ({"terminated": False, "truncated": True, "rewards": None}, True, True),
        ({"terminated": None, "truncated": None}, True, True),
    ],
)
def test_success(changes: dict[str, Any], assume: bool, solved: bool) -> None:
    episode, _ = finished(recorded(**changes), assume_success=assume)
    assert episode.success == solved


@pytest.mark.parametrize(
    "changes",
    [{"terminated": False, "truncated": True, "rewards": None}, {"terminated": None, "truncated": None}],
)
def test_unknown_success_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(OtprError, match=r"file: here: success unknown.* give --assume-success"):
        finished(recorded(**changes))


def test_recorded_reward_and_end_stay_where_success_is_assumed() -> None:
    episode, _ = finished(recorded(terminated=False, truncated=True), assume_success=True)
    assert (episode.rewards.tolist(), episode.terminated, episode.truncated) == ([0, 0, 1], False, True)


@pytest.mark.parametrize("solved", [True, False])
def test_sparse_rewards_replace_dense_ones(solved: bool) -> None:
    dense = recorded(rewards=np.array([0.1, 7.0, -2.0]), success=np.array([False, False, solved]))
    episode, tally = finished(dense, sparse_rewards=True)
    assert episode.rewards.tolist() == [0, 0, float(solved)]
    assert (tally.dense, tally.rewards_made) == (0, 0)
    episode, tally = finished(dense)
    assert episode.rewards.tolist() == pytest.approx([0.1, 7.0, -2.0])
    assert tally.dense == 1
    assert "--sparse-rewards" in tally.lines()[0]


def test_dropped_step_gives_its_reward_and_success_to_the_one_before() -> None:
    cut = recorded(
        observations=np.arange(6.0).reshape(3, 2),
        rewards=np.array([0.0, 0.25, 1.0]),
        success=np.array([False, False, True]),
    )
    episode, tally = finished(cut, last_observation=False)
    assert episode.rewards.tolist() == [0.0, 1.25]
    assert (len(episode.observations["state"]), episode.actions.tolist()) == (3, [[0.5], [-1.0]])
    assert (episode.success, tally.last_dropped) == (True, 1)


def test_single_step_without_the_next_observation_is_nothing() -> None:
    tally = Tally()
    one = recorded(observations=np.zeros((1, 2)), actions=np.zeros((1, 1)), rewards=np.ones(1))
    assert finish(one, Rules(), tally, last_observation=False) is None
    assert (tally.episodes, tally.too_short) == (0, 1)


def test_action_range_is_mapped_a_dimension_at_a_time() -> None:
    actions = np.array([[-2.0, 0.0], [2.0, 10.0], [1.0, 2.5]])
    episode, _ = finished(recorded(actions=actions), action_low=(-2.0, 0.0), action_high=(2.0, 10.0))
    np.testing.assert_allclose(episode.actions, [[-1, -1], [1, 1], [0.5, -0.5]])
    episode, _ = finished(recorded(), action_low=(-4.0,), action_high=(4.0,))
    np.testing.assert_allclose(episode.actions, [[0.125], [-0.25], [0.25]])


def test_rounding_beyond_the_range_is_clipped_and_counted() -> None:
    episode, tally = finished(recorded(actions=np.array([[1 + 9e-7], [-1 - 9e-7], [0.3]])))
    assert episode.actions.tolist() == [[1.0], [-1.0], [pytest.approx(0.3)]]
    assert (tally.rounded, tally.clipped) == (2, 0)
    with pytest.raises(ActionRangeError):
        finished(recorded(actions=np.array([[1 + 2e-6], [0.0], [0.3]])))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        ((1.0,), (1.0,), "must be below"),
        ((0.0, -1.0), (1.0, -2.0), "must be below"),
        ((-np.inf,), (1.0,), "must be finite"),
        ((0.0, 0.0, 0.0), (1.0, 1.0), "3 lower and 2 upper ends"),
    ],
)
def test_bad_ranges_are_refused(low: tuple[float, ...], high: tuple[float, ...], message: str) -> None:
    with pytest.raises(OtprError, match=message):
        Rules(action_low=low, action_high=high)


def test_range_of_other_dimensions_is_refused() -> None:
    with pytest.raises(OtprError, match="action range has 2 dimensions; the data have 1"):
        finished(recorded(), action_low=(-1.0, -1.0), action_high=(2.0,))
