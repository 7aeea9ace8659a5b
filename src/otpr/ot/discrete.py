"""Exact L2-regularised transport between two weighted samples.

    primal  min_pi  sum c pi + epsilon sum pi^2 / (p q) + 1/(2 lambda) E_q[(r - 1)^2]
    dual    max_{u,v}  E_p[u] + E_q[v] - lambda/2 E_q[v^2] - 1/(4 epsilon) E_{p x q}[ m (u + v - c)_+^2 ]

pi has the row marginal p and is 0 outside the mask m; r_j = E_p[H(., j)] is the mass that column j receives,
relative to its weight. lambda is the relaxation of the column marginals: 0 means exact transport (r = 1), and
infinity leaves them free. In the free case v = 0, and pi(a | s) = q(a) (u(s) - c(s, a))_+ / (2 epsilon) is
the sparse (Tsallis) policy (Lee, Choi and Oh, "Sparse Markov decision processes with causal sparse Tsallis
entropy regularization for reinforcement learning", RA-L 2018). `newton` has the solver.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from otpr.ot.feasibility import name_points, why_infeasible
from otpr.ot.newton import maximise_dual, violation


class DiscreteSolution(eqx.Module):
    """The result of `solve_discrete`.

    Attributes:
        u: potential of each row, in the units of the cost.
        v: potential of each column. With exact columns, potentials are unique up to (u + a, v - a), and a is
            chosen so that E_q[v] = 0. If the support has several connected components, a is arbitrary in
            each.
        compatibility: H of every pair, >= 0, and 0 outside the support or the mask.
        plan: H p q, the transported mass of every pair.
        dual_value: dual objective of the potentials, a lower bound on the optimum up to rounding.
        primal_value: primal objective of the plan; equal to `dual_value` at the optimum.
        marginal_error: the mean of two weighted means: |E_q[H] - 1| over the rows, and |E_p[H] - 1 + lambda
            v| / (1 + 2 epsilon lambda) over the columns. With exact columns and equal weights it equals the
            mean of `otpr.ot.marginal_errors`.
        converged: whether the largest of these errors, over points of positive weight, is within the
            tolerance.
        iterations: number of Newton steps.
    """

    u: Float[Array, " n"]
    v: Float[Array, " m"]
    compatibility: Float[Array, "n m"]
    plan: Float[Array, "n m"]
    dual_value: Float[Array, ""]
    primal_value: Float[Array, ""]
    marginal_error: Float[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]


def solve_discrete(
    cost: ArrayLike,
    epsilon: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    row_weights: ArrayLike | None = None,
    column_weights: ArrayLike | None = None,
    column_relaxation: ArrayLike = 0.0,
    tolerance: ArrayLike = 1e-6,
    max_iterations: ArrayLike = 100,
) -> DiscreteSolution:
    """Solve the masked, L2-regularised transport problem between n rows and m columns.

    Works under `jit` and `vmap` with every argument traced. A Newton step solves one dense symmetric system
    of the smaller side's size. Usually 3 to 30 steps are needed, and more for a smaller epsilon.

    Precision is that of the cost, float32 or float64. In float64 a tolerance of 1e-12 can be reached. In
    float32 the means of H come within 1e-6 of 1 for up to about a thousand points on each side. The returned
    H then differs from (u + v - c)_+ / (2 epsilon), recomputed in float32, by about 1e-7 |c| / epsilon. If
    rounding does not allow the tolerance, `converged` is False.

    Args:
        cost: (n, m), c of every pair; finite where the mask allows the pair, and not read elsewhere.
        epsilon: strength of the regularisation, > 0, in the units of `cost`.
        mask: (n, m), bool: pairs that may carry mass; None allows all.
        row_weights: (n,), p >= 0, summing to 1; None weighs the rows equally. A row of weight 0 does not
            affect the solution. Its potential is its c-transform or, where the mask allows it no column of
            positive weight, any finite number.
        column_weights: (m,), q, with the same conditions.
        column_relaxation: lambda in [0, inf], in units of 1 / cost. 0 is exact transport.
        tolerance: bound on the error of every row and column of positive weight; see `DiscreteSolution`.
        max_iterations: largest number of Newton steps.

    Raises:
        ValueError: an argument has a wrong shape, type or value, or no plan fits the mask. Of traced
            arguments only shape and type are checked, and an infeasible problem ends with `converged` False.
    """
    cost = jnp.asarray(cost)
    mask = None if mask is None else jnp.asarray(mask)
    _check_shapes(cost, mask, row_weights, column_weights)
    dtype = cost.dtype
    row_weights = None if row_weights is None else jnp.asarray(row_weights, dtype)
    column_weights = None if column_weights is None else jnp.asarray(column_weights, dtype)
    epsilon, relaxation = jnp.asarray(epsilon, dtype), jnp.asarray(column_relaxation, dtype)
    tolerance = jnp.asarray(tolerance, dtype)
    _check_numbers(epsilon, relaxation, tolerance, jnp.asarray(max_iterations))
    _check_values(cost, mask, row_weights, column_weights, relaxation)
    solution = _solve(cost, mask, row_weights, column_weights, epsilon, relaxation, tolerance, max_iterations)
    if (
        mask is not None
        and _known(solution.converged, mask, row_weights, column_weights, relaxation)
        and not (solution.converged or relaxation > 0)
    ):
        _check_feasible(mask, row_weights, column_weights)
    return solution


@jax.jit
def _solve(
    cost: Float[Array, "n m"],
    mask: Bool[Array, "n m"] | None,
    row_weights: Float[Array, " n"] | None,
    column_weights: Float[Array, " m"] | None,
    epsilon: Float[Array, ""],
    relaxation: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_iterations: Int[Array, ""],
) -> DiscreteSolution:
    with jax.default_matmul_precision("highest"):  # some accelerators round the factors otherwise
        if mask is not None:
            cost = jnp.where(mask, cost, 0.0)
        problem, state = maximise_dual(
            cost, epsilon, mask, row_weights, column_weights, relaxation, tolerance, max_iterations
        )
        p, q, s, b = problem
        u, v = state.u, s * state.z
        constant = jnp.where(b == 0, q @ v, 0.0)
        u, v = u + constant, v - constant
        H = jnp.maximum(state.slack, 0.0)
        rows, columns = jnp.abs(state.rows), jnp.abs(s * state.columns)
        square = p @ H**2 @ q / 2
        deviation = jnp.where(b > 0, q @ (p @ H - 1) ** 2 / (2 * relaxation), 0.0)
        return DiscreteSolution(
            u=2 * epsilon * u,
            v=2 * epsilon * v,
            compatibility=H,
            plan=p[:, None] * H * q,
            dual_value=2 * epsilon * (p @ u + q @ v - b / 2 * (q @ state.z**2) - square),
            primal_value=p @ (cost * H) @ q + 2 * epsilon * square + deviation,
            marginal_error=(p @ rows + q @ columns) / 2,
            converged=violation(problem, state) <= tolerance,
            iterations=state.iterations,
        )


def _known(*values: object) -> bool:
    return not any(isinstance(value, Tracer) for value in values)


def _check_shapes(
    cost: Array, mask: Array | None, row_weights: ArrayLike | None, column_weights: ArrayLike | None
) -> None:
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"cost must be a matrix of at least one row and column, given shape {cost.shape}.")
    if cost.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"cost must be float32 or float64, given {cost.dtype}. Convert it first.")
    if mask is not None and (mask.shape != cost.shape or mask.dtype != bool):
        raise ValueError(
            f"mask must be bool of the cost's shape {cost.shape}, given {mask.dtype} of shape {mask.shape}."
        )
    for name, weights, size in (
        ("row_weights", row_weights, cost.shape[0]),
        ("column_weights", column_weights, cost.shape[1]),
    ):
        if weights is not None and np.shape(weights) != (size,):
            raise ValueError(
                f"{name} must be of shape ({size},) for a cost of shape {cost.shape}, "
                f"given shape {np.shape(weights)}."
            )


def _check_numbers(epsilon: Array, relaxation: Array, tolerance: Array, max_iterations: Array) -> None:
    if _known(epsilon) and not 0 < epsilon < jnp.inf:
        raise ValueError(f"epsilon must be positive and finite, given {epsilon}.")
    if _known(relaxation) and not relaxation >= 0:
        raise ValueError(f"column_relaxation must be from 0 (exact) to inf (free), given {relaxation}.")
    if _known(tolerance) and not tolerance > 0:
        raise ValueError(f"tolerance must be positive, given {tolerance}.")
    if _known(max_iterations) and not max_iterations >= 1:
        raise ValueError(f"max_iterations must be at least 1, given {max_iterations}.")


def _check_values(
    cost: Float[Array, "n m"],
    mask: Bool[Array, "n m"] | None,
    row_weights: Float[Array, " n"] | None,
    column_weights: Float[Array, " m"] | None,
    relaxation: Float[Array, ""],
) -> None:
    if _known(cost, mask):
        wrong = ~np.isfinite(cost) if mask is None else ~np.isfinite(cost) & np.asarray(mask)
        if wrong.any():
            first = tuple(int(index) for index in np.argwhere(wrong)[0])
            raise ValueError(
                f"cost must be finite wherever mass is allowed; {wrong.sum()} of {wrong.size} pairs are not, "
                f"the first {first}: {cost[first]}. Forbid pairs by the mask, not by the cost."
            )
    for name, weights in (("row_weights", row_weights), ("column_weights", column_weights)):
        if weights is None or not _known(weights):
            continue
        values = np.asarray(weights, np.float64)
        if not (values >= 0).all():
            first = int(np.argmin(values >= 0))
            raise ValueError(f"{name} must be 0 or more, given {values[first]:g} at index {first}.")
        if not abs(values.sum() - 1) <= 16 * np.finfo(weights.dtype).eps:
            raise ValueError(f"{name} must sum to 1, given a sum of {values.sum():.9g}. Divide them by it.")
    if mask is None or not _known(mask, row_weights, column_weights):
        return
    n, m = mask.shape
    used_rows = np.ones(n, bool) if row_weights is None else np.asarray(row_weights) > 0
    used_columns = np.ones(m, bool) if column_weights is None else np.asarray(column_weights) > 0
    lonely_rows = used_rows & ~np.asarray(mask)[:, used_columns].any(axis=1)
    if lonely_rows.any():
        raise ValueError(_lonely("row", "column", lonely_rows))
    lonely_columns = used_columns & ~np.asarray(mask)[used_rows].any(axis=0)
    if lonely_columns.any() and _known(relaxation) and relaxation == 0:
        raise ValueError(_lonely("column", "row", lonely_columns) + " Or relax the columns.")


def _lonely(kind: str, other: str, lonely: Bool[np.ndarray, " n"]) -> str:
    points = name_points(kind, np.flatnonzero(lonely))
    return (
        f"The mask leaves {points} without any {other} of positive weight. "
        f"Allow at least one, or give the {kind} weight 0."
    )


def _check_feasible(
    mask: Bool[Array, "n m"],
    row_weights: Float[Array, " n"] | None,
    column_weights: Float[Array, " m"] | None,
) -> None:
    n, m = mask.shape
    p = np.full(n, 1 / n) if row_weights is None else np.asarray(row_weights, np.float64)
    q = np.full(m, 1 / m) if column_weights is None else np.asarray(column_weights, np.float64)
    cause = why_infeasible(np.asarray(mask), p, q)
    if cause is not None:
        raise ValueError(
            f"No plan fits the mask: {cause}, which is less. Allow more pairs, give weights that agree, "
            "or relax the columns (column_relaxation > 0)."
        )
