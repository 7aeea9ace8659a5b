"""`solve_discrete` against independent solutions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ot_references import Instance, exact_plan, primal_value, solve_dual

import ot

# POT passes L-BFGS-B an option that SciPy is about to drop.
pot_warns = pytest.mark.filterwarnings("ignore:.*options of the L-BFGS-B solver:DeprecationWarning")

SHAPES = [(2, 2), (1, 9), (9, 7), (60, 60), (200, 90)]


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def instances(*shapes: tuple[int, int]):
    several = [(n, m, seed) for n, m in shapes for seed in range(15)]
    return pytest.mark.parametrize("instance", [pytest.param(Instance(*x), id=str(x)) for x in several])


class TestCertificates:
    """The problem is convex: what meets the optimality conditions is the optimum. NumPy, from u and v."""

    @instances(*SHAPES)
    def test_potentials_meet_the_optimality_conditions(self, instance: Instance) -> None:
        solution = instance.solve(tolerance=1e-10)
        assert solution.converged and solution.iterations <= 30
        p, q, u, v = instance.p, instance.q, np.asarray(solution.u), np.asarray(solution.v)
        H = np.maximum(u[:, None] + v - instance.cost, 0) / (2 * instance.epsilon) * instance.mask
        np.testing.assert_allclose(H @ q, 1, atol=1e-9)
        np.testing.assert_allclose(p @ H, 1, atol=1e-9)
        np.testing.assert_allclose(solution.compatibility, H, atol=1e-9)
        np.testing.assert_allclose(solution.plan, p[:, None] * H * q, atol=1e-12)
        assert solution.marginal_error < 1e-10

        dual = p @ u + q @ v - instance.epsilon * (p @ H**2 @ q)
        primal = primal_value(np.asarray(solution.plan), instance.cost, instance.epsilon, p, q)
        assert float(solution.dual_value) == pytest.approx(dual, rel=1e-9, abs=1e-9)
        assert float(solution.primal_value) == pytest.approx(primal, rel=1e-9, abs=1e-9)
        assert dual == pytest.approx(primal, rel=1e-8, abs=1e-8)

    @instances((9, 7), (200, 90))
    def test_float32_reaches_its_tolerance_and_the_values_of_float64(self, instance: Instance) -> None:
        solution, exact = instance.solve(np.float32), instance.solve(tolerance=1e-10)
        assert solution.u.dtype == solution.compatibility.dtype == solution.dual_value.dtype == jnp.float32
        assert solution.converged and solution.iterations <= 40
        H = np.asarray(solution.compatibility, np.float64)
        np.testing.assert_allclose(H @ instance.q, 1, atol=4e-6)
        np.testing.assert_allclose(instance.p @ H, 1, atol=4e-6)
        for value in (solution.dual_value, solution.primal_value):
            assert float(value) == pytest.approx(float(exact.dual_value), rel=1e-5, abs=1e-6)
        # the plan is that of a cost in float32: it moves by about the change of the cost over 2 epsilon
        np.testing.assert_allclose(H, exact.compatibility, rtol=1e-3, atol=1e-4 + 2e-6 / instance.epsilon)


class TestAgainstOtherSolvers:
    @pytest.mark.parametrize("relaxation", [0.0, 0.01, 1.0, 100.0, np.inf])
    @pytest.mark.parametrize("seed", range(9))
    def test_quadratic_programme(self, seed: int, relaxation: float) -> None:
        instance = Instance(9, 7, seed)
        problem = (instance.cost, instance.epsilon)
        plan = exact_plan(*problem, instance.mask, instance.p, instance.q, relaxation)
        np.testing.assert_allclose(plan.sum(1), instance.p, atol=1e-9)  # the reference is a plan at all
        solution = instance.solve(tolerance=1e-11, column_relaxation=relaxation)
        assert solution.converged
        np.testing.assert_allclose(solution.plan, plan, atol=1e-7)
        value = primal_value(plan, *problem, instance.p, instance.q, relaxation)
        assert float(solution.primal_value) == pytest.approx(value, rel=1e-8, abs=1e-9)
        assert float(solution.dual_value) == pytest.approx(value, rel=1e-8, abs=1e-9)

    @pot_warns
    @pytest.mark.parametrize(("n", "m", "epsilon"), [(9, 7, 0.02), (60, 60, 0.1), (200, 90, 0.3)])
    def test_smooth_transport_of_pot(self, n: int, m: int, epsilon: float) -> None:
        instance = Instance(n, m, 0)
        instance.epsilon = epsilon
        # POT regularises by reg / 2 * sum pi^2, we by epsilon * n * m * sum pi^2
        plan = ot.smooth.smooth_ot_dual(
            instance.p, instance.q, instance.cost, reg=2 * epsilon * n * m, stopThr=1e-14, numItermax=10_000
        )
        np.testing.assert_allclose(instance.solve(tolerance=1e-10).plan, plan, atol=1e-6 / min(n, m))

    @pot_warns
    def test_weights_are_points_that_pot_sees_several_times(self) -> None:
        instance, epsilon = Instance(9, 7, 0), 0.1
        rows, columns = np.array([1, 2, 3, 1, 1, 2, 1, 4, 1]), np.array([1, 3, 1, 2, 1, 1, 3])
        n, m = rows.sum(), columns.sum()
        instance.epsilon, instance.p, instance.q = epsilon, rows / n, columns / m
        several = instance.cost.repeat(rows, 0).repeat(columns, 1)
        p, q, reg = np.full(n, 1 / n), np.full(m, 1 / m), 2 * epsilon * n * m
        plan = ot.smooth.smooth_ot_dual(p, q, several, reg=reg, stopThr=1e-14, numItermax=10_000)
        plan = np.add.reduceat(plan, np.cumsum(rows) - rows, 0)
        plan = np.add.reduceat(plan, np.cumsum(columns) - columns, 1)
        np.testing.assert_allclose(instance.solve(tolerance=1e-10).plan, plan, atol=1e-7)

    @pytest.mark.parametrize("seed", [1, 4, 7])
    def test_value_and_plan_that_pot_gives_for_our_potentials(self, seed: int) -> None:
        instance = Instance(9, 7, seed)  # weighted, unmasked
        solution = instance.solve()
        arguments = (np.asarray(solution.u), np.asarray(solution.v), np.zeros((9, 1)), np.zeros((7, 1)))
        options = {"ws": instance.p, "wt": instance.q, "metric": lambda x, y: instance.cost}
        value = ot.stochastic.loss_dual_quadratic(*arguments, reg=instance.epsilon, **options)
        plan = ot.stochastic.plan_dual_quadratic(*arguments, reg=instance.epsilon, **options)
        assert float(solution.dual_value) == pytest.approx(value, abs=1e-12)
        np.testing.assert_allclose(solution.plan, plan, atol=1e-14)

    def test_the_dual_ascended_by_a_quasi_newton_method(self) -> None:
        instance = Instance(9, 7, 0)
        instance.mask = np.random.default_rng(0).random((9, 7)) < 0.8
        _, _, value = solve_dual(instance.cost, instance.epsilon, instance.mask)
        assert float(instance.solve().dual_value) == pytest.approx(value, abs=1e-9)

    def test_a_small_epsilon_gives_unregularised_transport_and_a_large_one_independence(self) -> None:
        instance = Instance(60, 60, 10)
        instance.mask[:] = True
        plan = ot.lp.emd(instance.p, instance.q, instance.cost)
        instance.epsilon = 1e-6
        solution = instance.solve()
        assert solution.converged
        np.testing.assert_allclose(solution.plan, plan, atol=1e-6)
        instance.epsilon = 1e6
        np.testing.assert_allclose(instance.solve().compatibility, 1, atol=1e-5)

    def test_by_hand(self) -> None:
        # Two by two, c = [[0, d], [d, 0]]: by symmetry H = [[1 + t, 1 - t], [1 - t, 1 + t]], and minimising
        # d (1 - t) / 2 + epsilon (1 + t^2) gives t = d / (4 epsilon), at most 1.
        for d, t in [(0.1, 0.25), (0.4, 1.0), (3.0, 1.0)]:
            instance = Instance(2, 2, 0)
            instance.cost, instance.epsilon = np.array([[0.0, d], [d, 0.0]]), 0.1
            solution = instance.solve(tolerance=1e-12)
            np.testing.assert_allclose(solution.compatibility, [[1 + t, 1 - t], [1 - t, 1 + t]], atol=1e-11)
            assert float(solution.dual_value) == pytest.approx(d * (1 - t) / 2 + 0.1 * (1 + t**2), abs=1e-11)
