from __future__ import annotations

import numpy as np
import pytest

from otpr.agents.otpr.keypoints import keypoint_rows
from otpr.data.episodes import Episode


def episode(observations: np.ndarray, gripper: np.ndarray | None = None) -> Episode:
    steps = len(observations) - 1
    actions = np.zeros((steps, 2), np.float32)
    actions[:, -1] = 0.0 if gripper is None else gripper
    rewards = np.zeros(steps, np.float32)
    return Episode(np.float32(observations), actions, rewards, False, True, True, None)


def walk(steps: int, seed: int) -> Episode:
    generator = np.random.default_rng(seed)
    return episode(np.cumsum(generator.normal(size=(steps + 1, 3)), axis=0))


EPISODES = [walk(10, 0), walk(7, 1)]


@pytest.mark.parametrize("strategy", ["all", "top-q"])
def test_every_chunk(strategy) -> None:
    np.testing.assert_array_equal(keypoint_rows(strategy, EPISODES, chunk_length=4, count=3), np.arange(17))


def test_every_kth_starts_anew_in_each_episode() -> None:
    rows = keypoint_rows("every-kth", EPISODES, chunk_length=4, count=3)
    np.testing.assert_array_equal(rows, [0, 4, 8, 10, 14])


def test_change_points_are_where_the_gripper_closes_and_where_the_hand_pauses() -> None:
    gripper = np.where(np.arange(60) < 20, -1.0, 1.0)
    speed = np.where(np.abs(np.arange(60) - 40) <= 2, 0.01, 1.0) + 0.001 * np.abs(np.arange(60) - 40)
    positions = np.concatenate([[0.0], np.cumsum(speed)])[:, None]
    rows = keypoint_rows("change-points", [episode(positions, gripper)], chunk_length=4, count=3)
    np.testing.assert_array_equal(rows, [0, 20, 40, 59])


def test_change_points_do_not_take_noise_of_the_gripper_for_a_grasp() -> None:
    generator = np.random.default_rng(0)
    steady = episode(np.arange(61.0)[:, None], 0.1 * generator.standard_normal(60))
    np.testing.assert_array_equal(keypoint_rows("change-points", [steady], chunk_length=4, count=3), [0, 59])


def test_change_points_of_the_shortest_episodes() -> None:
    for steps in (1, 2, 3):
        rows = keypoint_rows("change-points", [walk(steps, 0), walk(steps, 1)], chunk_length=4, count=3)
        assert set(rows) >= {0, steps - 1, steps, 2 * steps - 1}
        assert (np.diff(rows) > 0).all()


def test_diverse_rows_cover_the_observations_at_least_half_as_well_as_any_choice() -> None:
    """Gonzalez's bound, against the best of all choices on a small instance."""
    from itertools import combinations

    points = np.concatenate([e.observations[:-1] for e in EPISODES])
    points = (points - points.mean(0)) / points.std(0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)

    def radius(rows) -> float:
        return float(distance[:, list(rows)].min(axis=1).max())

    rows = keypoint_rows("diverse", EPISODES, chunk_length=4, count=4)
    assert len(set(rows)) == 4
    best = min(radius(choice) for choice in combinations(range(17), 4))
    assert radius(rows) <= 2 * best
    assert radius(rows) < radius(range(4))


def test_diverse_takes_all_where_there_are_no_more() -> None:
    np.testing.assert_array_equal(keypoint_rows("diverse", EPISODES, chunk_length=4, count=99), np.arange(17))
