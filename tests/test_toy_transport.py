"""The toy problems of examples/toy_transport.py, and the numbers that docs/transport.md shows of them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = runpy.run_path(str(ROOT / "examples" / "toy_transport.py"))


def test_targets_are_what_they_are_called() -> None:
    eight = np.asarray(SCRIPT["eight_gaussians"](jax.random.key(0), 4000))
    angles = np.arctan2(eight[:, 1], eight[:, 0]) / (np.pi / 4)
    assert {int(turn) % 8 for turn in np.rint(angles)} == set(range(8))
    np.testing.assert_allclose(np.linalg.norm(eight, axis=1).mean(), 0.75, atol=0.01)
    roll = np.asarray(SCRIPT["swiss_roll"](jax.random.key(0), 4000))
    assert np.abs(roll).max() < 1
    assert np.linalg.norm(roll, axis=1).min() > 0.2  # it does not begin in the middle


def test_energy_distance_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 2)), rng.normal(size=(20, 2)) + 1

    def mean(p: np.ndarray, q: np.ndarray, same: bool) -> float:
        pairs = [
            np.linalg.norm(x - y) for i, x in enumerate(p) for j, y in enumerate(q) if not (same and i == j)
        ]
        return float(np.mean(pairs))

    expected = 2 * mean(a, b, False) - mean(a, a, True) - mean(b, b, True)
    assert SCRIPT["energy_distance"](a, b) == pytest.approx(expected)


@pytest.mark.slow
def test_a_short_run_has_the_exact_plans_numbers_and_draws_on_the_circle() -> None:
    toy = SCRIPT["solve"]("eight Gaussians", jax.random.key(0), updates=1500)
    page = (ROOT / "docs" / "transport.md").read_text()
    (row,) = re.findall(r"^\| eight Gaussians \| ([\d.]+), ([\d.]+) \| ([\d.]+), ", page, re.MULTILINE)
    measured = [toy.row_error, toy.column_error, toy.exact_cost]
    # training rounds otherwise on other processors; the exact plan does not
    assert (np.abs(np.array(measured) - np.array(row, float)) < [0.01, 0.01, 0.0006]).all()
    assert toy.apart < 0.2
    assert toy.off_target < 0.02
    assert toy.drawn.shape == (512, 64, 2)
