"""What must hold of `solve_discrete` whatever the numbers: invariances, limits, transformations, honesty."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from ot_references import Instance

from otpr.ot import marginal_errors, newton, solve_discrete

# Compilation takes most of the time: nearly all is done on one shape, with mask and weights always given.
N, M = 9, 7
PLAIN, WEIGHTED, KEYPOINTS = (
    0,
    6,
    5,
)  # seeds of a normal cost, of one with weights (and ties), of a masked one

line_search = jax.jit(newton._line_search)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def numbers(low: float, high: float):
    return st.floats(low, high, allow_subnormal=False)


def instance(seed: int, epsilon: float = 0.1, *, weighted: bool = False) -> Instance:
    made = Instance(N, M, seed)
    made.epsilon = epsilon
    if weighted:
        rng = np.random.default_rng(seed)
        made.p, made.q = rng.dirichlet(np.full(N, 2.0)), rng.dirichlet(np.full(M, 2.0))
    return made


def solve(made: Instance, **options):
    solution = made.solve(**{"tolerance": 1e-11, **options})
    assert solution.converged
    return solution


seeds = st.integers(0, 50)


class TestInvariances:
    @settings(max_examples=20)
    @given(seed=seeds, constant=numbers(-20, 20))
    def test_a_constant_in_the_cost_moves_the_value_alone(self, seed: int, constant: float) -> None:
        made, moved = Instance(N, M, seed), Instance(N, M, seed)
        moved.cost += constant
        before, after = solve(made), solve(moved)
        np.testing.assert_allclose(after.compatibility, before.compatibility, atol=1e-7)
        assert float(after.dual_value - before.dual_value) == pytest.approx(constant, abs=1e-9)

    @settings(max_examples=20)
    @given(seed=seeds, data=st.data())
    def test_functions_of_the_row_and_of_the_column_move_the_potentials_alone(self, seed: int, data) -> None:
        made, moved = Instance(N, M, seed), Instance(N, M, seed)
        made.epsilon = moved.epsilon = 0.1
        row = data.draw(arrays(float, N, elements=numbers(-5, 5)))
        column = data.draw(arrays(float, M, elements=numbers(-5, 5)))
        moved.cost += row[:, None] + column
        before, after = solve(made), solve(moved)
        np.testing.assert_allclose(after.compatibility, before.compatibility, atol=1e-8)
        value = float(after.dual_value - before.dual_value)
        assert value == pytest.approx(made.p @ row + made.q @ column, abs=1e-9)

    @settings(max_examples=20)
    @given(seed=seeds, k=numbers(0.01, 100), relaxation=st.sampled_from([0.0, 0.5, 20.0, np.inf]))
    def test_a_common_scale_of_cost_epsilon_and_relaxation(self, seed: int, k: float, relaxation) -> None:
        made, scaled = Instance(N, M, seed), Instance(N, M, seed)
        scaled.cost, scaled.epsilon = k * made.cost, k * made.epsilon
        before, after = (
            solve(made, column_relaxation=relaxation),
            solve(scaled, column_relaxation=relaxation / k),
        )
        np.testing.assert_allclose(after.compatibility, before.compatibility, atol=1e-7)
        for name in ("u", "v", "dual_value", "primal_value"):
            expected = k * np.asarray(getattr(before, name))
            np.testing.assert_allclose(getattr(after, name), expected, rtol=1e-7, atol=1e-7 * k)

    @settings(max_examples=20)
    @given(seed=seeds, rows=st.permutations(range(N)), columns=st.permutations(range(M)))
    def test_permutations(self, seed: int, rows, columns) -> None:
        made, moved = Instance(N, M, seed), Instance(N, M, seed)
        moved.cost, moved.mask = made.cost[rows][:, columns], made.mask[rows][:, columns]
        moved.p, moved.q = made.p[rows], made.q[columns]
        before, after = solve(made), solve(moved)
        np.testing.assert_allclose(
            after.compatibility, before.compatibility[np.ix_(rows, columns)], atol=1e-8
        )

    @pytest.mark.parametrize("seed", range(6))
    def test_transposition(self, seed: int) -> None:
        # also: it is the columns that are eliminated when they are more
        made, turned = Instance(N, M, seed), Instance(M, N, 0)
        turned.cost, turned.mask, turned.epsilon = made.cost.T, made.mask.T, made.epsilon
        turned.p, turned.q = made.q, made.p
        before, after = solve(made), solve(turned)
        np.testing.assert_allclose(after.compatibility, before.compatibility.T, atol=1e-9)
        assert float(after.dual_value) == pytest.approx(float(before.dual_value), abs=1e-9)

    def test_a_point_may_be_split_into_two_that_share_its_weight(self) -> None:
        split, whole = instance(PLAIN, weighted=True), instance(PLAIN, weighted=True)
        split.cost[8] = whole.cost[8] = split.cost[7]
        split.cost[:, 6] = whole.cost[:, 6] = split.cost[:, 5]
        whole.p[7:] = whole.p[7:].sum(), 0.0
        whole.q[5:] = whole.q[5:].sum(), 0.0
        np.testing.assert_allclose(solve(split).compatibility, solve(whole).compatibility, atol=1e-9)


class TestWeightsOfZero:
    @pytest.mark.parametrize("relaxation", [0.0, 2.0, np.inf])
    def test_the_rest_is_as_without_the_point_and_the_point_meets_its_own_condition(self, relaxation) -> None:
        made, changed = instance(PLAIN, weighted=True), instance(PLAIN, weighted=True)
        for one in (made, changed):
            one.p[3] = one.q[2] = one.q[4] = 0.0
            one.p, one.q = one.p / one.p.sum(), one.q / one.q.sum()
        changed.cost[3], changed.cost[:, [2, 4]] = 50.0, -50.0
        solution, other = (solve(one, column_relaxation=relaxation) for one in (made, changed))
        assert float(other.dual_value) == pytest.approx(float(solution.dual_value), abs=1e-9)
        rows, columns = np.ix_(made.p > 0, made.q > 0)
        np.testing.assert_allclose(other.plan, solution.plan, atol=1e-9)
        np.testing.assert_allclose(
            other.compatibility[rows, columns], solution.compatibility[rows, columns], atol=1e-8
        )
        for one in (solution, other):
            np.testing.assert_allclose(one.compatibility @ made.q, 1, atol=1e-9)
            if relaxation < np.inf:
                np.testing.assert_allclose(made.p @ one.compatibility, 1 - relaxation * one.v, atol=1e-8)
            else:
                np.testing.assert_array_equal(one.v, 0)

    def test_a_point_that_may_meet_no_one_has_some_finite_potential(self) -> None:
        made = instance(PLAIN, weighted=True)
        made.p[3] = made.q[2] = 0.0
        made.p, made.q = made.p / made.p.sum(), made.q / made.q.sum()
        made.mask[3] = made.mask[:, 2] = False
        solution = solve(made)
        assert np.isfinite(solution.u).all() and np.isfinite(solution.v).all()
        assert not solution.compatibility[3].any() and not solution.compatibility[:, 2].any()


class TestRelaxation:
    @pytest.mark.parametrize("seed", [PLAIN, WEIGHTED, KEYPOINTS])
    def test_free_columns_give_the_sparse_policy(self, seed: int) -> None:
        made = Instance(N, M, seed)
        solution = solve(made, column_relaxation=np.inf)
        np.testing.assert_array_equal(solution.v, 0)
        for row in range(
            N
        ):  # sparsemax with weights: the least number of cheapest columns that is consistent
            order = np.argsort(made.cost[row] + np.where(made.mask[row], 0, np.inf))[: made.mask[row].sum()]
            for k in range(1, len(order) + 1):
                q, cost = made.q[order[:k]], made.cost[row, order[:k]]
                u = (2 * made.epsilon + q @ cost) / q.sum()
                if k == len(order) or u <= made.cost[row, order[k]]:
                    break
            H = np.zeros(M)
            H[order[:k]] = (u - cost) / (2 * made.epsilon)
            assert float(solution.u[row]) == pytest.approx(u, abs=1e-9)
            np.testing.assert_allclose(solution.compatibility[row], H, atol=1e-9)

    @pytest.mark.parametrize("seed", [PLAIN, WEIGHTED, KEYPOINTS])
    def test_leads_from_exact_to_free_columns_without_a_break(self, seed: int) -> None:
        made = Instance(N, M, seed)
        made.epsilon = 0.05
        strengths = [0.0, 1e-8, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e9, np.inf]
        solutions = [solve(made, column_relaxation=strength) for strength in strengths]
        deviations = [made.q @ (made.p @ np.asarray(s.compatibility) - 1) ** 2 for s in solutions]
        values = [float(s.dual_value) for s in solutions]
        assert np.all(np.diff(deviations) >= -1e-12) and np.all(np.diff(values) <= 1e-12)
        assert deviations[0] < 1e-20
        if made.mask.all():
            assert deviations[4] > 1e-3
        np.testing.assert_allclose(solutions[1].compatibility, solutions[0].compatibility, atol=1e-4)
        np.testing.assert_allclose(solutions[-2].compatibility, solutions[-1].compatibility, atol=1e-4)
        for strength, s in zip(strengths[1:-1], solutions[1:-1], strict=True):
            np.testing.assert_allclose(
                made.p @ s.compatibility, 1 - strength * s.v, atol=1e-10 * (1 + strength)
            )
            assert float(s.primal_value) == pytest.approx(float(s.dual_value), rel=1e-9, abs=1e-9)

    def test_a_mask_that_no_plan_fits_has_a_relaxed_one(self) -> None:
        made = instance(PLAIN)
        made.mask[:, 0] = False
        solution = solve(made, column_relaxation=1.0)
        assert float(solution.v[0]) == pytest.approx(1.0)  # receives nothing: 0 = 1 - lambda v
        assert float(solution.primal_value) == pytest.approx(float(solution.dual_value))


class TestTransformations:
    def test_jit_is_eager(self) -> None:
        made = instance(PLAIN, weighted=True)
        arguments = (made.cost, 0.1, made.mask, made.p, made.q, 0.5)

        def call(cost, epsilon, mask, p, q, relaxation):
            return solve_discrete(
                cost, epsilon, mask=mask, row_weights=p, column_weights=q, column_relaxation=relaxation
            )

        jax.tree.map(np.testing.assert_array_equal, jax.jit(call)(*arguments), call(*arguments))

    def test_vmap_is_a_loop_over_problems_that_take_different_numbers_of_steps(self) -> None:
        made = [Instance(N, M, seed) for seed in range(8)]
        relaxations = np.array([0.0, 0.1, np.inf, 0.0, 3.0, 0.0, 0.0, 0.0])
        fields = [
            np.stack([getattr(one, name) for one in made]) for name in ("cost", "epsilon", "mask", "p", "q")
        ]

        @jax.jit
        @jax.vmap
        def together(cost, epsilon, mask, p, q, relaxation):
            return solve_discrete(
                cost, epsilon, mask=mask, row_weights=p, column_weights=q, column_relaxation=relaxation
            )

        batch = together(*fields, relaxations)
        assert len(set(batch.iterations.tolist())) > 2
        for k, one in enumerate(made):
            alone = one.solve(column_relaxation=relaxations[k])
            assert batch.converged[k] and batch.iterations[k] == alone.iterations
            np.testing.assert_allclose(batch.compatibility[k], alone.compatibility, atol=1e-9)
            np.testing.assert_allclose(batch.primal_value[k], alone.primal_value, rtol=1e-9)


class TestLineSearch:
    @given(seed=seeds, relaxation=st.sampled_from([0.0, 1.0, 30.0]), length=numbers(0.1, 100))
    def test_takes_the_first_halving_that_gains_enough(self, seed: int, relaxation, length: float) -> None:
        rng = np.random.default_rng(seed)
        p, q, cost = rng.dirichlet(np.ones(N)), rng.dirichlet(np.ones(M)), rng.normal(size=(N, M))
        s, b, stage = 1 / np.sqrt(1 + relaxation), relaxation / (1 + relaxation), 2.0
        u, z = (
            rng.normal(size=N) + rng.choice([0.0, 10.0]),
            rng.normal(size=M),
        )  # too much mass, or about right
        slack = u[:, None] + s * z - cost
        H = np.maximum(slack, 0) / stage
        rows, columns = 1 - H @ q, s - b * z / stage - s * (p @ H)

        def dual(u, z):
            square = np.maximum(u[:, None] + s * z - cost, 0) ** 2
            return p @ u + s * (q @ z) - (b * (q @ z**2) + p @ square @ q) / (2 * stage)

        du, dz = length * rows * rng.random(N), length * columns * rng.random(M)  # ascends, and too far
        ascent = p @ (rows * du) + q @ (columns * dz)
        steps = 0.5 ** np.arange(31)
        gains = np.array([dual(u + t * du, z + t * dz) - dual(u, z) for t in steps])
        expected = steps[np.argmax(gains >= 1e-4 * steps * ascent)]

        problem = newton.Problem(*map(jnp.asarray, (p, q, s, b)))
        state = newton.State(*map(jnp.asarray, (u, z, slack, stage, rows, columns, 1.0, 0)))
        t = line_search(problem, state, *map(jnp.asarray, (du, dz, du[:, None] + s * dz)))
        assert float(t) == expected


class TestConvergence:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("cost", ["normal", "distances", "smooth"])
    def test_few_steps_at_any_epsilon(self, cost: str, dtype) -> None:
        made = Instance(200, 90, {"normal": 0, "distances": 6, "smooth": 12}[cost])
        for exponent in np.arange(1, -6, -1.0):
            made.epsilon = float(10**exponent)
            solution = made.solve(dtype)
            # every factor of 4 in epsilon is a stage
            assert solution.converged and solution.iterations <= (30 if exponent >= -4 else 40), exponent

    def test_too_few_steps_are_told_and_what_they_gave_is_told_truly(self) -> None:
        made = Instance(60, 60, 0)
        made.epsilon = 1e-3
        optimum = made.solve(tolerance=1e-10)
        assert optimum.converged and optimum.iterations > 5
        for steps in (1, 3):
            solution = made.solve(max_iterations=steps)
            assert not solution.converged and solution.iterations == steps
            H = np.maximum(np.asarray(solution.u)[:, None] + solution.v - made.cost, 0) / (2 * made.epsilon)
            np.testing.assert_allclose(solution.compatibility, H, atol=1e-8)  # of this epsilon, no other
            rows, columns = marginal_errors(jnp.asarray(H))
            assert float(solution.marginal_error) == pytest.approx(float(rows + columns) / 2, rel=1e-8)
            assert solution.marginal_error > 0.1
            dual = made.p @ solution.u + made.q @ solution.v - made.epsilon * np.mean(H**2)
            assert float(solution.dual_value) == pytest.approx(float(dual), rel=1e-9)
            assert solution.dual_value < optimum.dual_value

    def test_one_marginal_off_is_not_convergence(self) -> None:
        made = Instance(60, 60, 0)
        for tolerance in (1e-2, 1e-4):
            solution = made.solve(tolerance=tolerance)
            worst = max(np.abs(np.asarray(solution.compatibility).mean(axis) - 1).max() for axis in (0, 1))
            assert solution.converged and worst <= tolerance * (1 + 1e-9)

    def test_float32_does_not_claim_what_rounding_forbids(self) -> None:
        for seed in range(6):
            made = Instance(N, M, seed)
            solution = made.solve(np.float32, tolerance=1e-12)
            H = np.asarray(solution.compatibility, np.float64)
            worst = max(np.abs(H @ made.q - 1).max(), np.abs(made.p @ H - 1).max())
            assert worst < 2e-6
            assert solution.converged == (solution.marginal_error == 0)

    def test_float32_with_large_functions_of_the_row_in_the_cost(self) -> None:
        # Divided by 2 epsilon before it is centred, this cost would be known to 0.02 only.
        offset = 10_000 + 500.0 * np.arange(N)[:, None]
        made, moved = instance(PLAIN, 0.02), instance(PLAIN, 0.02)
        moved.cost = (made.cost + offset).astype(np.float32)
        made.cost = moved.cost - offset
        solution, exact = moved.solve(np.float32), solve(made)
        assert solution.converged
        np.testing.assert_allclose(solution.compatibility, exact.compatibility, atol=1e-4)
        moves = (solution.u - solution.u[0]) - (exact.u - exact.u[0])
        np.testing.assert_allclose(moves, offset[:, 0] - 10_000, atol=5 * np.spacing(np.float32(14_000)))

    def test_degenerate_problems(self) -> None:
        for shape, cost in (((1, 9), None), ((2, 2), 0.0), ((9, 7), 3.0)):
            made = Instance(*shape, 0)
            made.cost = made.cost if cost is None else np.full(shape, cost)
            solution = solve(made)
            if cost is not None or shape[0] == 1:
                np.testing.assert_allclose(solution.compatibility, 1, atol=1e-10)
        keypoints = Instance(60, 60, 2)  # every row has a keypoint
        assert (keypoints.mask.sum(1) == 1).all()
        solution = solve(keypoints)
        np.testing.assert_allclose(np.asarray(solution.plan)[keypoints.mask], keypoints.p, atol=1e-12)

    def test_parts_of_the_support_that_do_not_meet(self) -> None:
        made = instance(PLAIN)
        made.mask = np.kron(np.eye(2), np.ones((5, 4)))[:N, :M].astype(bool)
        made.p = np.concatenate([np.full(5, 0.1), np.full(4, 0.125)])
        made.q = np.concatenate([np.full(4, 0.125), np.full(3, 1 / 6)])
        assert float(solve(made).plan[:5, :4].sum()) == pytest.approx(0.5)
