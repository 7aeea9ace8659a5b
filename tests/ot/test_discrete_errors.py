"""What `solve_discrete` says of problems that are not right."""

from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otpr.ot import solve_discrete
from otpr.ot.feasibility import why_infeasible

N, M = 4, 5
COST = np.random.default_rng(0).normal(size=(N, M)).astype(np.float32)
ALL = np.ones((N, M), bool)
P, Q = np.full(N, 1 / N, np.float32), np.full(M, 1 / M, np.float32)


def solve(cost=COST, epsilon=0.1, *, mask=ALL, row_weights=P, column_weights=Q, **options):
    # mask and weights are always given: one compilation serves all
    return solve_discrete(
        cost, epsilon, mask=mask, row_weights=row_weights, column_weights=column_weights, **options
    )


def weights(*given: float) -> np.ndarray:
    return np.asarray(given, np.float32)


def changed(array: np.ndarray, where, value) -> np.ndarray:
    array = array.copy()
    array[where] = value
    return array


def but_row_3_meets_column_1_alone() -> np.ndarray:
    mask = ALL.copy()
    mask[3] = mask[:, 1] = False
    mask[3, 1] = True
    return mask


REFUSED = {
    "vector": ({"cost": COST[0]}, "cost must be a matrix of at least one row and column, given shape (5,)."),
    "empty": ({"cost": COST[:0]}, "at least one row and column, given shape (0, 5)."),
    "integers": (
        {"cost": COST.astype(int)},
        "cost must be float32 or float64, given int32. Convert it first.",
    ),
    "half": ({"cost": COST.astype(np.float16)}, "cost must be float32 or float64, given float16."),
    "nan": (
        {"cost": changed(changed(COST, (1, 2), np.nan), (3, 0), np.inf)},
        "2 of 20 pairs are not, the first (1, 2): nan. Forbid pairs by the mask, not by the cost.",
    ),
    "nan-allowed": (
        {"cost": changed(COST, ([1, 2], 2), np.nan), "mask": changed(ALL, (1, 2), False)},
        "1 of 20 pairs are not, the first (2, 2): nan.",
    ),
    "epsilon-0": ({"epsilon": 0.0}, "epsilon must be positive and finite, given 0.0."),
    "epsilon-negative": ({"epsilon": -1.0}, "epsilon must be positive and finite, given -1.0."),
    "epsilon-inf": ({"epsilon": np.inf}, "epsilon must be positive and finite, given inf."),
    "epsilon-nan": ({"epsilon": np.nan}, "epsilon must be positive and finite, given nan."),
    "relaxation": ({"column_relaxation": -0.5}, "from 0 (exact) to inf (free), given -0.5."),
    "relaxation-nan": ({"column_relaxation": np.nan}, "from 0 (exact) to inf (free), given nan."),
    "tolerance": ({"tolerance": 0.0}, "tolerance must be positive, given 0.0."),
    "iterations": ({"max_iterations": 0}, "max_iterations must be at least 1, given 0."),
    "mask-shape": (
        {"mask": ALL.T},
        "mask must be bool of the cost's shape (4, 5), given bool of shape (5, 4).",
    ),
    "mask-type": ({"mask": ALL.astype(np.float32)}, "cost's shape (4, 5), given float32 of shape (4, 5)."),
    "weights-shape": (
        {"row_weights": np.full(5, np.float32(0.2))},
        "row_weights must be of shape (4,) for a cost of shape (4, 5), given shape (5,).",
    ),
    "weights-negative": (
        {"column_weights": weights(0.5, 0.5, -0.25, 0, 0.25)},
        "column_weights must be 0 or more, given -0.25 at index 2.",
    ),
    "weights-nan": ({"row_weights": weights(0.5, np.nan, 0, 0.5)}, "0 or more, given nan at index 1."),
    "weights-sum": (
        {"row_weights": weights(1, 1, 1, 0.5)},
        "row_weights must sum to 1, given a sum of 3.5. Divide them by it.",
    ),
    "lonely-row": (
        {"mask": changed(ALL, [1, 2], False)},
        "The mask leaves rows 1, 2 without any column of positive weight. "
        "Allow at least one, or give the row weight 0.",
    ),
    "lonely-column": (
        {"mask": changed(ALL, (slice(None), 4), False)},
        "The mask leaves column 4 without any row of positive weight. "
        "Allow at least one, or give the column weight 0. Or relax the columns.",
    ),
    "lonely-among-weights": (
        {"mask": but_row_3_meets_column_1_alone(), "column_weights": weights(0.5, 0, 0.5, 0, 0)},
        "The mask leaves row 3 without any column of positive weight.",
    ),
    "keypoint-too-heavy": (
        {"mask": but_row_3_meets_column_1_alone()},
        "No plan fits the mask: row 3 (weight 0.25) may only meet column 1 (weight 0.2), which is less. "
        "Allow more pairs, give weights that agree, or relax the columns (column_relaxation > 0).",
    ),
    "keypoint-too-light": (
        {"mask": but_row_3_meets_column_1_alone(), "row_weights": weights(0.3, 0.3, 0.3, 0.1)},
        "No plan fits the mask: column 1 (weight 0.2) may only meet row 3 (weight 0.1), which is less.",
    ),
    "crowded": (
        {"mask": changed(ALL, (slice(3), slice(3)), False)},
        "No plan fits the mask: columns 0, 1, 2 (weight 0.6) may only meet row 3 (weight 0.25), which is",
    ),
}


@pytest.mark.parametrize(("wrong", "message"), REFUSED.values(), ids=REFUSED)
def test_messages(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        solve(**wrong)


def test_shapes_and_types_are_checked_of_what_is_traced_too() -> None:
    with pytest.raises(ValueError, match="must be bool of the cost's shape"):
        jax.jit(lambda cost, mask: solve_discrete(cost, 0.1, mask=mask))(COST, ALL.T)


def test_an_impossible_problem_that_is_traced_ends_without_convergence() -> None:
    traced = jax.jit(lambda cost, mask: solve(cost, mask=mask))
    solution = traced(COST, but_row_3_meets_column_1_alone())
    assert not solution.converged and solution.marginal_error > 0.01
    assert np.isfinite(solution.u).all() and np.isfinite(solution.plan).all()
    assert not traced(changed(COST, (0, 0), np.nan), ALL).converged


def test_a_possible_problem_without_time_is_no_error() -> None:
    mask = changed(ALL, (0, 0), False)
    assert not solve(epsilon=1e-3, mask=mask, max_iterations=1).converged


def test_cost_outside_the_mask_is_not_read() -> None:
    mask = changed(ALL, (0, 0), False)
    expected = solve(mask=mask)
    for hidden in (np.nan, np.inf, -1e30):
        solution = solve(changed(COST, (0, 0), hidden), mask=mask)
        jax.tree.map(np.testing.assert_array_equal, solution, expected)


def test_relaxed_columns_need_only_their_rows() -> None:
    lonely = changed(ALL, (slice(None), 4), False)
    for mask in (lonely, but_row_3_meets_column_1_alone()):
        assert solve(mask=mask, column_relaxation=1.0).converged
    with pytest.raises(ValueError, match="leaves row 2 without"):
        solve(mask=changed(ALL, 2, False), column_relaxation=np.inf)


def test_costs_too_large_for_the_precision_do_not_converge() -> None:
    assert not solve(COST * np.float32(1e30), 1e-10).converged


masses = st.lists(st.integers(0, 6), min_size=N, max_size=N).filter(any)


@given(mask=arrays(bool, (N, M)), p=masses, q=st.lists(st.integers(0, 6), min_size=M, max_size=M).filter(any))
def test_infeasible_by_the_programme_is_infeasible_by_every_subset_of_the_rows(mask, p, q) -> None:
    p, q = np.array(p) / sum(p), np.array(q) / sum(q)
    used = mask[np.ix_(p > 0, q > 0)]
    assume(used.any(0).all() and used.any(1).all())  # else it is refused before a programme is set up
    subsets = (list(s) for size in range(1, N + 1) for s in itertools.combinations(range(N), size))
    excess = max(p[s].sum() - q[mask[s].any(0)].sum() for s in subsets)
    why = why_infeasible(mask, p, q)
    assert (why is not None) == (excess > 1e-6)
    if why is not None:  # what it says is so
        pattern = r"(row|column)s? ([\d, ]+) \(weight (\S+)\) may only meet (?:row|column)s? ([\d, ]+) \("
        kind, named, weight, others = re.match(pattern, why).groups()
        side, mask = (p, mask) if kind == "row" else (q, mask.T)
        named = [int(index) for index in named.split(", ")]
        usable = np.flatnonzero(mask[named].any(0) & ((q if kind == "row" else p) > 0))
        assert usable.tolist() == [int(index) for index in others.split(", ")]
        room = (q if kind == "row" else p)[usable].sum()
        assert float(weight) == pytest.approx(side[named].sum(), abs=1e-5) and side[named].sum() > room


def test_many_points_are_counted_rather_than_listed() -> None:
    mask = np.ones((200, 200), bool)
    mask[:120, :150] = False
    equal = np.full(200, 1 / 200)
    why = why_infeasible(mask, equal, equal)
    assert why == (
        "rows 0, 1, 2, 3, 4 and 115 more (weight 0.6) may only meet "
        "columns 150, 151, 152, 153, 154 and 45 more (weight 0.25)"
    )


def test_float32_weights_that_rounding_alone_sets_apart_are_feasible() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(50)).astype(np.float32).astype(float)
    assert why_infeasible(np.eye(50, dtype=bool), p, p[::1] * (1 + 1e-7)) is None


def test_weights_that_sum_to_1_in_their_own_precision_are_taken() -> None:
    p = jnp.asarray(np.random.default_rng(1).random(N), jnp.float32)
    assert solve(row_weights=p / p.sum()).converged
