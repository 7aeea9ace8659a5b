from __future__ import annotations

import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.policies.encoder import Normalizer, VectorEncoder, encode, told
from otpr.spec import Entry, Spec


def test_data_it_was_fitted_to_gets_mean_zero_and_unit_scale():
    data = (
        np.random.default_rng(0).normal([3.0, -200.0, 0.01], [2.0, 50.0, 0.005], (5000, 3)).astype(np.float32)
    )
    normalizer = Normalizer.fit(data)
    np.testing.assert_allclose(normalizer.mean, data.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.scale, data.std(axis=0), rtol=1e-5)
    result = np.asarray(normalizer(data))
    np.testing.assert_allclose(result.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(result.std(axis=0), 1.0, atol=1e-3)


def test_single_observation_is_the_plain_formula():
    normalizer = Normalizer.fit(np.array([[0.0, 1.0], [4.0, 3.0]], np.float32))  # means 2, 2; scales 2, 1
    np.testing.assert_allclose(normalizer(np.array([5.0, 1.5], np.float32)), [1.5, -0.5])


def test_coordinate_that_does_not_vary_keeps_its_own_unit():
    normalizer = Normalizer.fit(np.array([[0.25, 0.0], [0.25, 2.0]], np.float32))
    np.testing.assert_allclose(normalizer.scale, [1.0, 1.0])
    np.testing.assert_allclose(normalizer(np.array([1.25, 0.0], np.float32)), [1.0, -1.0])


def test_coordinate_the_demonstrations_hardly_moved_does_not_drown_the_others():
    normalizer = Normalizer.fit(np.array([[-0.001], [0.001]], np.float32))
    np.testing.assert_allclose(normalizer(np.array([[5.0], [-5.0]], np.float32)), [[10.0], [-10.0]])


def test_constant_coordinate_stays_constant_over_many_rows():
    # sums in float32 would drift: over these rows they give a standard deviation of 1e-3 to a constant
    normalizer = Normalizer.fit(np.full((100_000, 2), 1.3, np.float32))
    np.testing.assert_array_equal(normalizer.scale, [1.0, 1.0])
    np.testing.assert_array_equal(normalizer.mean, np.full(2, 1.3, np.float32))


ROWS = np.random.default_rng(1).normal([0.0, 0.5, -2.0], [0.3, 1.0, 0.05], (700, 3))


def spec(dtype: str) -> Spec:
    return Spec({"state": Entry((3,), dtype)}, (-1.0,), (1.0,))


def features(rows: np.ndarray, seen: np.ndarray, dtype: str = "float64") -> np.ndarray:
    return encode(VectorEncoder.fit(spec(dtype), {"state": rows}), {"state": seen})


@pytest.mark.parametrize(
    ("unit", "offset"),
    [(1.0, 0.0), (1e-4, 0.0), (1e-12, 0.0), (1e-13, 0.0), (1e9, 0.0), (1.0, 1e7), (1e-4, 3.0), (1e3, -1e11)],
)
def test_features_in_float64_do_not_depend_on_unit_and_offset(unit: float, offset: float):
    given = ROWS * unit + offset
    expected = np.clip((ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0), -10, 10)
    # what float64 itself loses of the numbers beside the offset, and 24 bits of the result
    lost = 4 * abs(offset) / unit * np.finfo(np.float64).eps / 0.05
    np.testing.assert_allclose(features(given, given), expected, atol=1e-5 + lost)


@pytest.mark.parametrize("unit", [1.0, 1e-4, 1e-12, 1e9])
def test_features_in_float32_do_not_depend_on_the_unit(unit: float):
    given = (ROWS * unit).astype(np.float32)
    expected = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)
    np.testing.assert_allclose(features(given, given, "float32"), expected, atol=1e-4)


def test_an_entry_of_float64_takes_float32_and_one_of_float32_takes_float64():
    narrow = ROWS.astype(np.float32)
    expected = (ROWS - ROWS.mean(axis=0)) / ROWS.std(axis=0)
    np.testing.assert_allclose(features(ROWS, narrow), expected, atol=1e-4)
    np.testing.assert_array_equal(features(ROWS, ROWS, "float32"), features(ROWS, narrow, "float32"))


def test_numbers_beyond_float32_are_clipped_like_all_that_are_far_away():
    seen = np.array([[1e300, -1e300, 1e39]])
    np.testing.assert_array_equal(features(ROWS, seen), [[10.0, -10.0, 10.0]])


@pytest.mark.parametrize("rows", [[[1e300], [1e300]], [[-1e200], [1e200]], [[-1e39], [2e39]]])
def test_statistics_beyond_float32_are_refused(rows: list[list[float]]):
    with pytest.raises(OtprError, match=r"Coordinate 0 of the observations .* beyond 3\.4e38"):
        Normalizer.fit(np.array(rows), "float64")


def test_rounding_around_zero_is_no_variation():
    angle = np.pi * np.arange(1, 5)
    normalizer = Normalizer.fit(np.stack([np.sin(angle), np.sin(angle) + 1], axis=1), "float64")
    assert np.abs(np.sin(angle)).max() > 0
    np.testing.assert_array_equal(normalizer.scale, [1.0, 1.0])


def test_rounding_is_no_variation():
    one = 1 + np.finfo(np.float64).eps * np.array([0, 1, 2, 3])
    rows = np.stack([one, np.array([0, 1e-9, 0, 1e-9]), 1 + np.array([0, 1e-13, 0, 1e-13])], axis=1)
    normalizer = Normalizer.fit(rows, "float64")
    np.testing.assert_allclose(normalizer.scale, [1.0, 5e-10, 5e-14], rtol=1e-3)
    # the same numbers in float32, where 1 + 1e-13 is 1
    np.testing.assert_allclose(Normalizer.fit(rows.astype(np.float32)).scale, [1.0, 5e-10, 1.0], rtol=1e-3)


def test_what_moves_less_than_the_resolution_keeps_its_own_unit():
    rows = np.array([[0.0, 0.0], [1e-4, 4e-4]], np.float32)  # deviations 5e-5 and 2e-4
    np.testing.assert_allclose(Normalizer.fit(rows, resolution=1e-4).scale, [1.0, 2e-4], rtol=1e-6)
    np.testing.assert_allclose(Normalizer.fit(rows).scale, [5e-5, 2e-4], rtol=1e-6)


def test_what_does_not_vary_and_what_varies_by_few_steps_is_told():
    wide = Spec({"arm": Entry((5,)), "time": Entry((2,), "float64")}, (-1.0,), (1.0,))
    arm = np.zeros((100, 5), np.float32)
    arm[:, 2] = np.linspace(0, 1, 100)
    arm[:, 4] = 1e7 + np.arange(100) % 3  # float32 steps by 1 there
    time = np.stack([np.full(100, 5.0), 1e7 + np.linspace(0, 1, 100)], axis=1)
    assert told(wide, {"arm": arm, "time": time}, 0.0) == [
        "Not varying in the demonstrations, and so left in their own unit: arm[0:2], arm[3], time[0].",
        "Varying by few steps of the type they are recorded in: arm[4]. Record and declare them in float64, "
        "or take out their offset.",
    ]
    assert told(wide, {"arm": arm, "time": time}, 0.5)[0] == (
        "Not varying by more than 0.5 in the demonstrations, and so left in their own unit: arm[0:4], "
        "time[0:2]."
    )
    moving = Spec({"arm": Entry((5,), "float64")}, (-1.0,), (1.0,))
    assert told(moving, {"arm": arm + time[:, 1:]}, 0.0) == []
