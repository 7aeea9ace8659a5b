from __future__ import annotations

import itertools

import numpy as np
import pytest

from otpr.envs.ogbench_schedule import next_cube, solve_lights


def pressed(rows: int, columns: int, presses: np.ndarray) -> np.ndarray:
    """What presses toggle, one after the other."""
    lights = np.zeros((rows, columns), bool)
    for button in np.flatnonzero(presses):
        row, column = divmod(int(button), columns)
        for down, right in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]:
            if 0 <= row + down < rows and 0 <= column + right < columns:
                lights[row + down, column + right] ^= True
    return lights.ravel()


def test_every_pattern_of_three_by_three_is_reached() -> None:
    # Its matrix is invertible: each pattern has exactly one solution.
    for pattern in itertools.product([False, True], repeat=9):
        presses = solve_lights(3, 3, np.array(pattern))
        np.testing.assert_array_equal(pressed(3, 3, presses), pattern)


def test_four_by_four_takes_the_fewest_presses() -> None:
    # Rank 12 of 16: 4096 patterns can be reached, each by 16 sets of presses.
    fewest: dict[bytes, int] = {}
    single = np.stack([pressed(4, 4, np.arange(16) == button) for button in range(16)])
    every = (np.arange(2**16)[:, None] >> np.arange(16)) & 1 == 1
    toggled = np.logical_xor.reduce(every[:, :, None] & single, axis=1)
    for presses, pattern in zip(every.sum(1), toggled, strict=True):
        key = pattern.tobytes()
        fewest[key] = min(int(presses), fewest.get(key, 99))
    assert len(fewest) == 4096
    generator = np.random.default_rng(0)
    for index in generator.choice(2**16, size=60, replace=False):
        presses = solve_lights(4, 4, toggled[index])
        np.testing.assert_array_equal(pressed(4, 4, presses), toggled[index])
        assert presses.sum() == fewest[toggled[index].tobytes()]
    assert solve_lights(4, 4, np.zeros(16, bool)).sum() == 0


def test_a_pattern_out_of_reach_is_refused() -> None:
    with pytest.raises(ValueError, match="No presses toggle exactly"):
        solve_lights(4, 4, np.arange(16) == 0)


def test_nothing_to_do() -> None:
    places = np.array([[0.4, 0.0, 0.02], [0.4, 0.2, 0.02]])
    assert next_cube(places, places, [True, True]) is None


def test_the_lower_cube_of_a_stack_comes_first() -> None:
    goals = np.array([[0.425, 0.0, 0.06], [0.425, 0.0, 0.02]])
    cubes = np.array([[0.425, -0.2, 0.02], [0.425, 0.2, 0.02]])
    kind, index, target = next_cube(cubes, goals, [False, False])
    assert (kind, index) == ("cube", 1)
    np.testing.assert_array_equal(target, goals[1])
    cubes[1] = goals[1]
    kind, index, target = next_cube(cubes, goals, [False, True])
    assert index == 0
    np.testing.assert_array_equal(target, goals[0])


def test_swapped_cubes_need_a_place_in_between() -> None:
    goals = np.array([[0.425, 0.1, 0.02], [0.425, -0.1, 0.02]])
    cubes = goals[::-1].copy()
    _, index, place = next_cube(cubes, goals, [False, False])
    assert index == 1
    assert min(np.linalg.norm(place - point) for point in [*goals, cubes[0]]) >= 0.09
    assert 0.3 <= place[0] <= 0.55 and -0.3 <= place[1] <= 0.3 and place[2] == 0.02
    cubes[1] = place
    _, index, target = next_cube(cubes, goals, [False, False])
    assert index == 0
    np.testing.assert_array_equal(target, goals[0])


def test_a_cube_on_top_is_cleared_away() -> None:
    goals = np.array([[0.35, 0.1, 0.02], [0.5, 0.1, 0.02]])
    cubes = np.array([[0.4, -0.1, 0.02], [0.4, -0.09, 0.06]])
    _, index, target = next_cube(cubes, goals, [False, False])
    assert index == 1
    np.testing.assert_array_equal(target, goals[1])


def test_a_cube_in_place_is_not_in_the_way_of_its_upper_neighbour() -> None:
    goals = np.array([[0.425, 0.0, 0.02], [0.425, 0.0, 0.06]])
    cubes = np.array([[0.44, 0.0, 0.02], [0.425, 0.2, 0.02]])
    _, index, _ = next_cube(cubes, goals, [True, False])
    assert index == 1
