"""The code of docs/transport.md runs as printed, prints what the page shows, and bears out what it says."""

from __future__ import annotations

import contextlib
import io
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from otpr.ot import compatibility, guiding_cost, relation, solve_discrete

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "transport.md").read_text()
pytestmark = pytest.mark.long
SCRIPT = runpy.run_path(str(ROOT / "examples" / "transport_pictures.py"))


class Run(NamedTuple):
    names: dict[str, Any]
    printed: list[str]
    shown: list[str]


@pytest.fixture(scope="module")
def run() -> Run:
    names: dict[str, Any] = {}
    printed, shown = [], []
    for code, text in SCRIPT["code_blocks"](PAGE):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(code, names)
        printed.append(out.getvalue())
        shown.append(text)
    return Run(names, printed, shown)


def share(plan, pairs) -> float:
    return float(np.sum(np.asarray(plan)[np.asarray(pairs)]))


def test_every_block_is_found_and_prints_what_the_page_shows(run: Run):
    assert len(run.shown) == PAGE.count("```python\n") >= 10
    assert sum(map(bool, run.shown)) == PAGE.count("```text\n")
    assert run.printed == run.shown


def test_plans_are_exact_and_sparser_as_epsilon_shrinks(run: Run):
    solutions = list(run.names["solutions"].values())
    cost = np.asarray(run.names["cost"])
    for solution in solutions:
        assert solution.converged and solution.marginal_error < 1e-6
    supports = [np.mean(np.asarray(solution.compatibility) > 0) for solution in solutions]
    assert supports[0] > 0.7 and supports[0] > 2 * supports[1] and supports[1] > 1.8 * supports[2]
    means = [float(np.sum(solution.plan * cost)) for solution in solutions]
    best = cost[linear_sum_assignment(cost)].mean()  # of the plan without regularisation
    assert means[0] > means[1] > means[2] > best and means[2] < 1.05 * best


def test_a_new_point_meets_its_condition_and_is_none_of_the_old(run: Run):
    names = run.names
    H = np.asarray(names["H_new"])
    assert H.mean() == pytest.approx(1, abs=1e-5)
    assert 0 < np.sum(H > 0) < len(H)
    assert np.linalg.norm(np.asarray(names["x"]) - names["new"], axis=1).min() > 0.1
    grid = np.asarray(names["grid"])
    costs = np.sum((grid[:, None] - np.asarray(names["y"])) ** 2, axis=-1)
    H = compatibility(names["u_grid"], names["solutions"][0.1].v, jnp.asarray(costs), 0.1)
    np.testing.assert_allclose(np.mean(H, axis=1), 1, atol=1e-4)


def test_without_help_each_cluster_is_paired_with_the_wrong_one(run: Run):
    names = run.names
    cluster = np.asarray(names["cluster"])
    wrong = cluster[:, None] == (cluster + 1) % 3  # column cluster k has turned to where row cluster k + 1 is
    assert share(names["unaided"].plan, names["belong"]) < 0.05
    assert share(names["unaided"].plan, wrong) > 0.95


def test_the_mask_ties_the_keypoints_alone(run: Run):
    names, known = run.names, np.asarray(run.names["known"])
    plan = np.asarray(names["masked"].plan)
    assert plan[known, known].sum() == pytest.approx(3 / 72, rel=1e-5)
    assert share(plan, names["belong"]) - 3 / 72 < 0.05


def test_the_guiding_cost_carries_the_pairing_to_all_points(run: Run):
    names, known = run.names, np.asarray(run.names["known"])
    shares = [share(names["guided"][alpha].plan, names["belong"]) for alpha in (0.25, 0.5, 1.0)]
    assert shares[0] < 0.6 and shares[1] > 0.99 and shares[2] > 0.9999
    support = np.asarray(names["guided"][1.0].compatibility) > 0
    assert support.sum() == 3 * 23**2 + 3  # every pair of clusters that belong together, and the keypoints
    rows, columns = names["rows"], names["columns"]
    guide = guiding_cost(relation(rows, rows[known], 0.1), relation(columns, columns[known], 0.1))
    unmasked = solve_discrete(guide / guide.std(), 0.05)
    assert share(unmasked.plan, names["belong"]) > 0.9999
    assert np.asarray(unmasked.plan)[known, known].sum() < 0.1 * 3 / 72


def test_the_derivative_of_the_optimal_value_is_the_plan(run: Run):
    change = np.random.default_rng(0).normal(size=run.names["cost"].shape)
    with jax.enable_x64(True):
        cost = np.asarray(run.names["cost"], np.float64)
        above, at, below = (
            solve_discrete(cost + step * change, 0.1, tolerance=1e-10) for step in (1e-4, 0.0, -1e-4)
        )
        slope = (float(above.dual_value) - float(below.dual_value)) / 2e-4
        assert slope == pytest.approx(float(np.sum(np.asarray(at.plan) * change)), rel=1e-4)


def test_the_script_draws_the_pictures_that_the_page_shows(run: Run, tmp_path: Path):
    SCRIPT["draw"](run.names, tmp_path)
    drawn = sorted(path.name for path in tmp_path.iterdir())
    assert drawn == ["transport_circle.png", "transport_keypoints.png"]
    for name in drawn:
        assert f"]({name})" in PAGE
        for path in (tmp_path / name, ROOT / "docs" / name):
            picture = path.read_bytes()
            assert picture.startswith(b"\x89PNG") and 20_000 < len(picture) < 150_000
