from __future__ import annotations

import numpy as np

from otpr.policies.encoder import Normalizer


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
