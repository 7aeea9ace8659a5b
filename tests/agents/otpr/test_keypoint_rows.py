from __future__ import annotations

import numpy as np
import pytest

from otpr.agents.otpr.keypoint_strategies import KeypointStrategy, keypoint_rows
from otpr.data.episodes import Episode
from otpr.data.store import EpisodeStore
from otpr.spec import Spec


def episode(observations: np.ndarray, gripper: np.ndarray | None = None) -> Episode:
    steps = len(observations) - 1
    actions = np.zeros((steps, 2), np.float32)
    actions[:, -1] = 0.0 if gripper is None else gripper
    rewards = np.zeros(steps, np.float32)
    return Episode({"state": np.float32(observations)}, actions, rewards, False, True, True, None)


def walk(steps: int, seed: int) -> Episode:
    generator = np.random.default_rng(seed)
    return episode(np.cumsum(generator.normal(size=(steps + 1, 3)), axis=0))


EPISODES = [walk(10, 0), walk(7, 1)]
EVERY = [*range(10), *range(11, 18)]
"""Their rows at which a step begins: an episode's last row has an observation alone."""


def rows_of(strategy: KeypointStrategy, episodes: list[Episode], count: int = 3) -> np.ndarray:
    """Keypoint rows of a store of these episodes, of whose plans of five actions four are executed."""
    width = episodes[0].observations["state"].shape[1]
    store = EpisodeStore.empty(Spec.flat(width, 2, horizon=5, execute=4), 0.99, width, 300)
    for each in episodes:
        store = store.add(each.observations["state"], each)
    return keypoint_rows(strategy, store, count=count)


@pytest.mark.parametrize("strategy", ["all", "top-q"])
def test_every_chunk(strategy) -> None:
    np.testing.assert_array_equal(rows_of(strategy, EPISODES), EVERY)


def test_every_kth_starts_anew_in_each_episode() -> None:
    rows = rows_of("every-kth", EPISODES)
    np.testing.assert_array_equal(rows, [0, 4, 8, 11, 15])


def test_change_points_are_where_the_gripper_closes_and_where_the_hand_pauses() -> None:
    gripper = np.where(np.arange(60) < 20, -1.0, 1.0)
    speed = np.where(np.abs(np.arange(60) - 40) <= 2, 0.01, 1.0) + 0.001 * np.abs(np.arange(60) - 40)
    positions = np.concatenate([[0.0], np.cumsum(speed)])[:, None]
    rows = rows_of("change-points", [episode(positions, gripper)])
    np.testing.assert_array_equal(rows, [0, 20, 40, 59])


def test_change_points_do_not_take_noise_of_the_gripper_for_a_grasp() -> None:
    generator = np.random.default_rng(0)
    steady = episode(np.arange(61.0)[:, None], 0.1 * generator.standard_normal(60))
    np.testing.assert_array_equal(rows_of("change-points", [steady]), [0, 59])


def test_change_points_of_the_shortest_episodes() -> None:
    for steps in (1, 2, 3):
        rows = rows_of("change-points", [walk(steps, 0), walk(steps, 1)])
        assert set(rows) >= {0, steps - 1, steps + 1, 2 * steps}
        assert (np.diff(rows) > 0).all()


def test_diverse_rows_cover_the_observations_at_least_half_as_well_as_any_choice() -> None:
    """Gonzalez's bound, against the best of all choices on a small instance."""
    from itertools import combinations

    points = np.concatenate([e.observations["state"][:-1] for e in EPISODES])
    points = (points - points.mean(0)) / points.std(0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)

    def radius(rows) -> float:
        return float(distance[:, list(rows)].min(axis=1).max())

    rows = [EVERY.index(row) for row in rows_of("diverse", EPISODES, count=4)]
    assert len(set(rows)) == 4
    best = min(radius(choice) for choice in combinations(range(17), 4))
    assert radius(rows) <= 2 * best
    assert radius(rows) < radius(range(4))


def test_diverse_takes_all_where_there_are_no_more() -> None:
    np.testing.assert_array_equal(rows_of("diverse", EPISODES, count=99), EVERY)
