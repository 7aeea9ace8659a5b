from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ot_references import exact_plan, primal_value, solve_dual

import ot
from otpr.ot import (
    compatibility,
    dual_objective,
    keypoint_mask,
    marginal_errors,
    relaxed_marginal_errors,
    solve_discrete,
)

# POT passes L-BFGS-B an option that SciPy is about to drop.
pot_warns = pytest.mark.filterwarnings("ignore:.*options of the L-BFGS-B solver:DeprecationWarning")

objective = jax.jit(dual_objective)
objective_gradient = jax.jit(jax.grad(dual_objective, argnums=(0, 1)))


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def numbers(low: float, high: float):
    return st.floats(low, high, allow_subnormal=False)


def costs(n: int, m: int):
    return arrays(np.float64, (n, m), elements=numbers(-3, 3))


def random_cost(n: int, m: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, m))


def solve(cost, epsilon: float, mask=None) -> np.ndarray:
    u, v, _ = solve_dual(cost, epsilon, mask)
    mask = None if mask is None else jnp.asarray(mask)
    return np.asarray(compatibility(u, v, jnp.asarray(cost), epsilon, mask))


# Feasible masks: each must contain a plan with uniform marginals.
KEYPOINTS = np.asarray(keypoint_mask(jnp.array([0, -1, 1, -1, -1, 2]), jnp.array([-1, 1, -1, 0, 2, -1])))
BAND = np.abs(np.arange(7)[:, None] - np.arange(7)[None, :]) <= 2
BLOCKS = np.kron(np.eye(2), np.ones((2, 3))).astype(bool)  # 4 x 6: two problems of 2 x 3 side by side

PROBLEMS = [
    pytest.param((5, 5), 0.05, None, id="square"),
    pytest.param((4, 9), 0.3, None, id="wide"),
    pytest.param((8, 3), 1.0, None, id="tall-smooth"),
    pytest.param((7, 7), 0.002, None, id="sparse"),
    pytest.param((6, 6), 0.1, KEYPOINTS, id="keypoints"),
    pytest.param((7, 7), 0.05, BAND, id="band"),
    pytest.param((4, 6), 0.2, BLOCKS, id="blocks"),
]


class TestAgainstExactSolutions:
    @pytest.mark.parametrize(("shape", "epsilon", "mask"), PROBLEMS)
    def test_optimum_of_the_dual_is_the_quadratic_programme_s(self, shape, epsilon, mask) -> None:
        cost = random_cost(*shape)
        plan = exact_plan(cost, epsilon, mask)
        # the reference is a plan at all
        np.testing.assert_allclose(plan.sum(1), 1 / shape[0], atol=1e-10)
        np.testing.assert_allclose(plan.sum(0), 1 / shape[1], atol=1e-10)
        assert plan.min() > -1e-10

        _, _, value = solve_dual(cost, epsilon, mask)
        assert value == pytest.approx(primal_value(plan, cost, epsilon), abs=1e-9)
        np.testing.assert_allclose(solve(cost, epsilon, mask) / plan.size, plan, atol=1e-8)

    @pot_warns
    @pytest.mark.parametrize("epsilon", [0.02, 0.3])
    def test_compatibility_is_the_plan_of_pot(self, epsilon: float) -> None:
        n, m = 6, 9
        cost = random_cost(n, m, seed=1)
        # POT regularises by reg / 2 * sum pi^2, we by epsilon * n * m * sum pi^2
        plan = ot.smooth.smooth_ot_dual(
            np.full(n, 1 / n), np.full(m, 1 / m), cost, reg=2 * epsilon * n * m, reg_type="l2", stopThr=1e-14
        )
        np.testing.assert_allclose(solve(cost, epsilon) / (n * m), plan, atol=1e-7)
        assert 0 < np.mean(plan > 1e-9) < 1  # some pairs carry mass, some do not

    @pot_warns
    def test_masked_compatibility_is_the_plan_of_pot_with_forbidding_costs(self) -> None:
        cost = random_cost(6, 6, seed=2)
        weights, forbidding = np.full(6, 1 / 6), np.where(KEYPOINTS, cost, 100.0)
        plan = ot.smooth.smooth_ot_dual(
            weights, weights, forbidding, reg=2 * 0.1 * 36, reg_type="l2", stopThr=1e-14, numItermax=10_000
        )
        np.testing.assert_allclose(solve(cost, 0.1, KEYPOINTS) / 36, plan, atol=1e-6)

    def test_by_hand(self) -> None:
        # Two by two, c = [[0, d], [d, 0]]: by symmetry H = [[1 + t, 1 - t], [1 - t, 1 + t]], and minimising
        # d (1 - t) / 2 + epsilon (1 + t^2) gives t = d / (4 epsilon), at most 1.
        for d, t in [(0.1, 0.25), (0.4, 1.0), (3.0, 1.0)]:
            H = solve(np.array([[0.0, d], [d, 0.0]]), 0.1)
            np.testing.assert_allclose(H, [[1 + t, 1 - t], [1 - t, 1 + t]], atol=1e-8)

    def test_limits_of_epsilon(self) -> None:
        cost = random_cost(5, 5, seed=3)
        rows, columns = ot.lp.emd(np.full(5, 0.2), np.full(5, 0.2), cost).nonzero()
        assignment = np.zeros((5, 5))
        assignment[rows, columns] = 5.0
        # below a positive epsilon the plan is that of unregularised transport; at infinity it is independence
        np.testing.assert_allclose(solve(cost, 1e-3), assignment, atol=1e-7)
        np.testing.assert_allclose(solve(cost, 1e6), 1.0, atol=1e-5)


class TestAtTheOptimum:
    @pytest.mark.parametrize(("shape", "epsilon", "mask"), PROBLEMS)
    def test_marginal_means_are_one_and_masked_pairs_are_empty(self, shape, epsilon, mask) -> None:
        H = solve(random_cost(*shape, seed=4), epsilon, mask)
        np.testing.assert_allclose(H.mean(1), 1, atol=1e-7)
        np.testing.assert_allclose(H.mean(0), 1, atol=1e-7)
        assert max(map(float, marginal_errors(jnp.asarray(H)))) < 1e-7
        assert H.min() == 0 or epsilon == 1.0  # the support is sparse unless the regulariser is strong
        if mask is not None:
            assert np.all(H[~mask] == 0)

    @settings(max_examples=5)
    @given(cost=costs(4, 5), constant=numbers(-20, 20))
    def test_compatibility_ignores_a_constant_in_the_cost(self, cost, constant: float) -> None:
        np.testing.assert_allclose(solve(cost + constant, 0.2), solve(cost, 0.2), atol=1e-6)

    @settings(max_examples=5)
    @given(cost=costs(4, 5), row=arrays(float, 4, elements=numbers(-5, 5)))
    def test_compatibility_ignores_a_function_of_the_row_in_the_cost(self, cost, row) -> None:
        np.testing.assert_allclose(solve(cost + row[:, None], 0.2), solve(cost, 0.2), atol=1e-6)

    @settings(max_examples=5)
    @given(cost=costs(4, 5), k=numbers(0.1, 10))
    def test_compatibility_ignores_a_common_scale_of_cost_and_epsilon(self, cost, k: float) -> None:
        np.testing.assert_allclose(solve(k * cost, k * 0.2), solve(cost, 0.2), atol=1e-6)

    def test_masked_compatibility_has_the_same_invariances(self) -> None:
        cost = random_cost(6, 6, seed=5)
        H = solve(cost, 0.1, KEYPOINTS)
        np.testing.assert_allclose(solve(cost + 7.0, 0.1, KEYPOINTS), H, atol=1e-7)
        np.testing.assert_allclose(solve(4 * cost, 0.4, KEYPOINTS), H, atol=1e-7)

    @settings(max_examples=5)
    @given(rows=st.permutations(range(6)), columns=st.permutations(range(6)))
    @pytest.mark.parametrize("mask", [None, KEYPOINTS], ids=["unmasked", "keypoints"])
    def test_compatibility_follows_permutations(self, mask, rows, columns) -> None:
        cost = random_cost(6, 6, seed=6)
        permuted_mask = None if mask is None else mask[rows][:, columns]
        H = solve(cost[rows][:, columns], 0.1, permuted_mask)
        np.testing.assert_allclose(H, solve(cost, 0.1, mask)[rows][:, columns], atol=1e-7)

    def test_a_keypoint_takes_all_the_mass_of_its_row_and_column(self) -> None:
        H = solve(random_cost(6, 6, seed=7), 0.1, KEYPOINTS)
        for row, column in [(0, 3), (2, 1), (5, 4)]:
            assert H[row, column] == pytest.approx(6, abs=1e-7)
            assert H[row].sum() == H[row, column] == H[:, column].sum()


class TestAnywhere:
    """Properties of the functions themselves, at potentials that are not optimal."""

    u = arrays(np.float64, 4, elements=numbers(-3, 3))
    v = arrays(np.float64, 5, elements=numbers(-3, 3))
    masks = arrays(bool, (4, 5))

    @given(u=u, v=v, cost=costs(4, 5), mask=st.none() | masks)
    def test_against_plain_loops(self, u, v, cost, mask) -> None:
        epsilon, penalty, H = 0.3, 0.0, np.zeros((4, 5))
        for i in range(4):
            for j in range(5):
                if mask is None or mask[i, j]:
                    excess = max(u[i] + v[j] - cost[i, j], 0.0)
                    penalty += excess**2
                    H[i, j] = excess / (2 * epsilon)
        arguments = jax.tree.map(jnp.asarray, (u, v, cost, epsilon, mask))
        expected = u.sum() / 4 + v.sum() / 5 - penalty / (4 * epsilon * 20)
        assert float(objective(*arguments)) == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(compatibility(*arguments), H, atol=1e-12)

    @given(u=u, v=v, cost=costs(4, 5), mask=st.none() | masks)
    def test_gradient_is_what_the_marginals_lack(self, u, v, cost, mask) -> None:
        arguments = jax.tree.map(jnp.asarray, (u, v, cost, 0.3, mask))
        by_u, by_v = objective_gradient(*arguments)
        H = compatibility(*arguments)
        np.testing.assert_allclose(by_u, (1 - H.mean(1)) / 4, atol=1e-12)
        np.testing.assert_allclose(by_v, (1 - H.mean(0)) / 5, atol=1e-12)
        rows, columns = marginal_errors(H)
        assert float(rows) == pytest.approx(4 * np.abs(by_u).mean(), abs=1e-12)
        assert float(columns) == pytest.approx(5 * np.abs(by_v).mean(), abs=1e-12)

    @given(u=u, v=v, cost=costs(4, 5), weights=arrays(float, (2, 4, 5), elements=numbers(0, 1)))
    def test_weak_duality_and_concavity(self, u, v, cost, weights) -> None:
        u, v, c = jnp.asarray(u), jnp.asarray(v), jnp.asarray(cost)
        value = float(objective(u, v, c, 0.3))
        # A feasible plan from independence plus moves of mass round 2 x 2 cycles, which keep the marginals
        plan = np.full((4, 5), 1 / 20)
        for step, (i, j) in zip(weights.reshape(-1, 2)[:12], np.ndindex(3, 4), strict=True):
            move = step[0] * min(plan[i, j], plan[i + 1, j + 1])
            plan[[i, i + 1, i, i + 1], [j, j + 1, j + 1, j]] += [-move, -move, move, move]
        np.testing.assert_allclose(plan.sum(1), 0.25)
        assert value <= primal_value(plan, cost, 0.3) + 1e-12
        other_u, other_v = u[::-1], -v
        middle = float(objective((u + other_u) / 2, (v + other_v) / 2, c, 0.3))
        assert middle >= (value + float(objective(other_u, other_v, c, 0.3))) / 2 - 1e-12

    @given(u=u, v=v, cost=costs(4, 5), k=numbers(0.01, 100), shift=numbers(-10, 10))
    def test_symmetries(self, u, v, cost, k: float, shift: float) -> None:
        u, v, c = jnp.asarray(u), jnp.asarray(v), jnp.asarray(cost)
        H = compatibility(u, v, c, 0.3)
        np.testing.assert_allclose(compatibility(u + shift, v - shift, c, 0.3), H, atol=1e-10)
        np.testing.assert_allclose(compatibility(u + shift, v, c + shift, 0.3), H, atol=1e-10)
        np.testing.assert_allclose(compatibility(k * u, k * v, k * c, k * 0.3), H, atol=1e-10)
        np.testing.assert_allclose(compatibility(v, u, c.T, 0.3), H.T, atol=1e-10)
        value = float(objective(u, v, c, 0.3))
        assert float(objective(u + shift, v - shift, c, 0.3)) == pytest.approx(value, abs=1e-10)
        assert float(objective(k * u, k * v, k * c, k * 0.3)) == pytest.approx(k * value, rel=1e-9, abs=1e-9)

    def test_marginal_errors_by_hand(self) -> None:
        rows, columns = marginal_errors(jnp.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]))
        assert float(rows) == 0.5  # means 1 and 0
        assert float(columns) == pytest.approx(0.5)  # means 1, 0 and 1/2

    @pytest.mark.parametrize("relaxation", [0.0, 0.5, 20.0, np.inf])
    def test_relaxed_errors_are_those_of_the_exact_solver(self, relaxation: float) -> None:
        cost = np.random.default_rng(0).normal(size=(12, 9))
        solution = solve_discrete(cost, 0.2, column_relaxation=relaxation, tolerance=1e-10)
        solved = relaxed_marginal_errors(solution.compatibility, solution.v, 0.2, relaxation)
        assert solution.converged and max(map(float, solved)) < 1e-9

    def test_relaxed_objective_is_the_exact_solvers_and_highest_there(self) -> None:
        cost, normal = np.random.default_rng(0).normal(size=(12, 9)), np.random.default_rng(1).normal
        best = solve_discrete(cost, 0.2, column_relaxation=3.0, tolerance=1e-10)

        def value(u, v) -> float:
            return float(dual_objective(u, v, jnp.asarray(cost), 0.2, None, 3.0))

        assert value(best.u, best.v) == pytest.approx(float(best.dual_value), abs=1e-9)
        for _ in range(20):
            assert value(best.u + 0.1 * normal(size=12), best.v + 0.1 * normal(size=9)) < best.dual_value

    def test_relaxed_errors_by_hand(self) -> None:
        H, v = jnp.array([[2.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), jnp.array([0.5, -1.0, 2.0])
        rows, columns = relaxed_marginal_errors(H, v, 0.1, 2.0)
        # |r - 1 + 2 v| / 1.4 with r = 1, 0, 1/2: |0 + 1|, |-1 - 2|, |-1/2 + 4|
        assert float(rows) == 0.5 and float(columns) == pytest.approx((1 + 3 + 3.5) / 3 / 1.4)
        _, free = relaxed_marginal_errors(H, v, 0.1, np.inf)
        assert float(free) == pytest.approx((0.5 + 1 + 2) / 3 / 0.2)
