"""What must hold of normalisation whatever the numbers, against plain references."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from otpr.policies.encoder import LIMIT, Normalizer

finite = st.floats(-1e6, 1e6, width=32)
ROWS, DIMS = 6, 3
matrices = arrays(np.float32, (ROWS, DIMS), elements=finite)


def as_stated(data: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = data.astype(np.float64)
    mean = np.array([math.fsum(column) / len(column) for column in wide.T])
    deviation = np.array(
        [
            math.sqrt(math.fsum((column - m) ** 2) / len(column))
            for column, m in zip(wide.T, mean, strict=True)
        ]
    )
    return mean, deviation


class TestNormalizer:
    @given(
        data=matrices,
        unit=st.sampled_from([1.0, 1e-4, 1e-8, 1e-9, 1e-10, 1e-12]),
        resolution=st.sampled_from([0.0, 1e-4]),
        constant=finite,
        where=st.integers(0, DIMS - 1),
    )
    @example(np.outer([1, -1] * 3, [0.99, 1.01, 50]).astype(np.float32), 1e-4, 1e-4, 0.0, 2)
    def test_fit_is_mean_and_deviation(
        self, data: NDArray[np.float32], unit: float, resolution: float, constant: float, where: int
    ) -> None:
        data = data * np.float32(unit)
        data[:, where] = constant
        normalizer = Normalizer.fit(data, resolution=resolution)
        assert normalizer.mean.dtype == normalizer.scale.dtype == np.float32
        mean, deviation = as_stated(data)
        largest = np.abs(data).max(axis=0)
        np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-6, atol=1e-12 * largest.max())
        assert float(normalizer.mean[where]) == constant and float(normalizer.scale[where]) == 1.0
        # where rounding decides on which side of the bound a deviation lies, either is right
        bound = np.maximum(largest * 2.0**-23, max(resolution, 1e-15))
        sure = np.abs(deviation - bound) > 1e-9 * largest
        expected = np.where(deviation > bound, deviation, 1.0)
        np.testing.assert_allclose(np.asarray(normalizer.scale)[sure], expected[sure], rtol=1e-5)

    @given(data=matrices, seen=matrices)
    def test_is_undone_inside_the_limit_and_clipped_outside(
        self, data: NDArray[np.float32], seen: NDArray[np.float32]
    ) -> None:
        normalizer = Normalizer.fit(data)
        result = np.asarray(normalizer(seen))
        assert result.shape == seen.shape and result.dtype == np.float32
        mean, scale = (np.asarray(x, np.float64) for x in (normalizer.mean, normalizer.scale))
        exact = (seen - mean) / scale
        clipped = np.clip(exact, -LIMIT, LIMIT)
        rounding = 4e-7 * (np.abs(seen) + np.abs(mean)) / scale + 1e-6
        assert (np.abs(result - clipped) <= rounding).all()
        inside = np.abs(exact) < LIMIT - rounding
        back = result * scale + mean
        assert (np.abs(back - seen) <= rounding * scale + 1e-5 * scale)[inside].all()
        assert np.abs(np.asarray(normalizer(data))).max() <= math.sqrt(ROWS) + 1.0
