"""A semismooth Newton method for the discrete dual. `discrete` has the public interface.

All quantities here are in units of 2 epsilon, in which the compatibility is H = (u + v - c)_+. The relaxation
lambda of the columns enters through v = s z with s = 1/sqrt(1 + lambda) and b = lambda/(1 + lambda). These
stay finite and well scaled from lambda = 0 (s = 1, b = 0: exact columns) to infinity (s = 0, b = 1: v = 0):

    max_{u,z}  E_p[u] + s E_q[z] - b/2 E_q[z^2] - 1/2 E_{p x q}[ (u + s z - c)_+^2 ]

The dual is concave and piecewise quadratic. Its generalised Hessian has two diagonal blocks, so the larger
side can be eliminated, which leaves a symmetric system of the smaller side's size (Lorenz, Manns and Meyer,
"Quadratically regularized optimal transport", Applied Mathematics and Optimization 2021). It is singular
along (u + a, v - a) on each connected component of the support, which Levenberg-Marquardt damping
proportional to the residual resolves. If epsilon is small relative to the spread of the cost, it is lowered
in stages.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Bool, Float, Int

from otpr.ot.transform import marginal_root

# The first stage's 2 epsilon in units of the cost's spread. Many pairs then carry mass, and Newton's method
# finds the support from a distant start. A stage ends when the residual (a norm of at most about 1) is below
# STAGE_RESIDUAL; a more precise solution would cost steps and hardly help the next stage.
FIRST_STAGE = 0.2
STAGE_FACTOR = 4.0
STAGE_RESIDUAL = 0.1
# Relative to a diagonal of ones. It shrinks with the residual, so that convergence stays superlinear.
DAMPING = 1e-3
# A failed step multiplies the damping by 100. Beyond this factor, only rounding error remains.
MOST_DAMPING = 1e8
LEAST_STEP = 2.0**-30
# The slack of a pair outside the mask: so negative that no step brings the pair into the support.
FORBIDDEN = -1e30


class Problem(NamedTuple):
    """The constants of the iteration. The cost is not among them, because the slack contains it."""

    p: Float[Array, " n"]
    q: Float[Array, " m"]
    s: Float[Array, ""]
    b: Float[Array, ""]


class State(NamedTuple):
    """One iterate.

    The slack u + s z - c is updated together with u and z. Recomputing it from potentials that are much
    larger than H would give it, and the marginals, their rounding error; updated, it has the precision of H.
    """

    u: Float[Array, " n"]
    z: Float[Array, " m"]
    slack: Float[Array, "n m"]
    stage: Float[Array, ""]  # the stage's epsilon divided by the final one, >= 1
    rows: Float[Array, " n"]  # gradient divided by p: 1 - E_q[H]
    columns: Float[Array, " m"]  # gradient in z divided by q: s (1 - lambda v - E_p[H])
    damping: Float[Array, ""]
    iterations: Int[Array, ""]


def _positive(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.maximum(x, 0.0)


def _gradients(
    problem: Problem, z: Float[Array, " m"], slack: Float[Array, "n m"], stage: Float[Array, ""]
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    p, q, s, b = problem
    H = _positive(slack) / stage
    return 1 - H @ q, s - b * z / stage - s * (p @ H)


def _norm(problem: Problem, state: State) -> Float[Array, ""]:
    return jnp.sqrt(problem.p @ state.rows**2 + problem.q @ state.columns**2)


def violation(problem: Problem, state: State) -> Float[Array, ""]:
    """The largest violation of an optimality condition, over rows and columns of positive weight.

    A row's violation is |E_q[H] - 1|, a column's |E_p[H] - 1 + lambda v| / (1 + lambda).
    """
    rows = jnp.where(problem.p > 0, jnp.abs(state.rows), 0.0)
    columns = jnp.where(problem.q > 0, jnp.abs(problem.s * state.columns), 0.0)
    return jnp.maximum(jnp.max(rows), jnp.max(columns))


def _start(
    problem: Problem, cost: Float[Array, "n m"], mask: Bool[Array, "n m"] | None, unit: Float[Array, ""]
) -> State:
    p, q, s, b = problem
    pairs = p[:, None] * q
    if mask is not None:
        pairs = jnp.where(mask, pairs, 0.0)

    def mean(x: Float[Array, "n m"], axis: int | None) -> Float[Array, "*k"]:
        weight = jnp.sum(pairs, axis)
        return jnp.sum(x * pairs, axis) / jnp.where(weight > 0, weight, 1.0)

    # A term of the cost that depends only on the row, or only on an exact column, merely shifts the
    # potentials. Subtract it before a division rounds its large values.
    row_means = mean(cost, 1)
    cost = cost - row_means[:, None]
    column_means = jnp.where(b > 0, 0.0, mean(cost, 0))
    cost = (cost - column_means) / unit
    z = column_means / unit  # s is 1 if they are not 0
    stage = jnp.maximum(FIRST_STAGE * jnp.sqrt(mean(cost**2, None)), 1.0)
    # Every row starts with its mass, so that every row has curvature.
    u = marginal_root(cost, jnp.where(pairs > 0, q, 0.0), stage)
    u = jnp.where(jnp.isfinite(u), u, 0.0)
    slack = u[:, None] - cost
    if mask is not None:
        slack = jnp.where(mask, slack, FORBIDDEN)
    rows, columns = _gradients(problem, z, slack, stage)
    return State(
        u + row_means / unit, z, slack, stage, rows, columns, jnp.ones_like(s), jnp.zeros((), jnp.int32)
    )


def _direction(problem: Problem, state: State) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    p, q, s, b = problem
    n, m = state.slack.shape
    support = (state.slack > 0).astype(p.dtype)
    # Scaled so that the diagonal of the Hessian is 1 for any weights. A point without support has no
    # curvature; it gets the curvature of one partner.
    row_curvature = support @ q
    column_curvature = s**2 * (p @ support) + b
    row_curvature = jnp.where(row_curvature > 0, row_curvature, jnp.max(q))
    column_curvature = jnp.where(column_curvature > 0, column_curvature, jnp.max(p))
    row_scale, column_scale = jnp.sqrt(p / row_curvature), jnp.sqrt(q / column_curvature)
    coupling = s * row_scale[:, None] * support * column_scale
    f, g = row_scale * state.rows, column_scale * state.columns
    if n < m:
        coupling, f, g = coupling.T, g, f
    least = 8 * jnp.finfo(p.dtype).eps
    damped = 1 + state.damping * jnp.maximum(DAMPING * jnp.minimum(_norm(problem, state), 1.0), least)
    schur = damped * jnp.eye(min(n, m), dtype=p.dtype) - coupling.T @ coupling / damped
    y = cho_solve(cho_factor(schur), g - f @ coupling / damped)
    x = (f - coupling @ y) / damped
    if n < m:
        x, y = y, x
    # a point of weight 0 does not move until `_settle`
    du = x * jnp.where(p > 0, row_scale / jnp.where(p > 0, p, 1.0), 0.0)
    dz = y * jnp.where(q > 0, column_scale / jnp.where(q > 0, q, 1.0), 0.0)
    return state.stage * du, state.stage * dz


def _line_search(
    problem: Problem,
    state: State,
    du: Float[Array, " n"],
    dz: Float[Array, " m"],
    move: Float[Array, "n m"],
) -> Float[Array, ""]:
    """The first step size of 1, 1/2, 1/4, ... that meets Armijo's condition, or 0 if none does."""
    p, q, _, b = problem
    ascent = p @ (state.rows * du) + q @ (state.columns * dz)
    H = _positive(state.slack)

    def enough(t: Float[Array, ""]) -> Bool[Array, ""]:
        # Computed directly: the difference of two values of the dual would be lost in their rounding.
        moved = state.slack + t * move
        change = _positive(moved) - H
        bend = p @ (H * jnp.minimum(moved, 0.0) - change**2 / 2) @ q - b * (q @ (t * dz) ** 2) / 2
        return t * ascent + bend / state.stage >= 1e-4 * t * ascent

    def halve(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        t = carry[0] / 2
        return t, enough(t)

    def go_on(carry: tuple[Array, Array]) -> Bool[Array, ""]:
        return ~carry[1] & (carry[0] > LEAST_STEP)

    t, accepted = jax.lax.while_loop(go_on, halve, (jnp.full_like(ascent, 2.0), jnp.asarray(False)))
    return jnp.where(accepted, t, 0.0)


def _step(problem: Problem, state: State) -> State:
    du, dz = _direction(problem, state)
    move = du[:, None] + problem.s * dz
    t = _line_search(problem, state, du, dz, move)

    # without an accepted step the direction may be NaN (no Cholesky factor): stay, with more damping
    def advance(x: Float[Array, "*n"], dx: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jnp.where(t > 0, x + t * dx, x)

    u, z, slack = advance(state.u, du), advance(state.z, dz), advance(state.slack, move)
    damping = jnp.where(t == 1, jnp.maximum(state.damping / 4, 1.0), state.damping)
    damping = jnp.where(t > 0, damping, state.damping * 100)
    rows, columns = _gradients(problem, z, slack, state.stage)
    moved = State(u, z, slack, state.stage, rows, columns, damping, state.iterations + 1)
    lower = jnp.maximum(state.stage / STAGE_FACTOR, 1.0)
    return _at_stage(problem, moved, jnp.where(_norm(problem, moved) < STAGE_RESIDUAL, lower, state.stage))


def _at_stage(problem: Problem, state: State, stage: Float[Array, ""]) -> State:
    ratio = state.stage / stage  # H and z / stage grow by this factor
    rows, columns = 1 - (1 - state.rows) * ratio, problem.s - (problem.s - state.columns) * ratio
    return state._replace(stage=stage, rows=rows, columns=columns)


def _settle(problem: Problem, state: State, rows: bool, columns: bool) -> State:
    """Set the potential of points of weight 0, which are not in the dual, by their own condition."""
    p, q, s, b = problem
    u, z, slack = state.u, state.z, state.slack
    if rows:
        pairs = jnp.where(slack > FORBIDDEN / 2, q, 0.0)
        du = marginal_root(-slack, pairs, jnp.ones_like(s))
        du = jnp.where((p == 0) & jnp.isfinite(du), du, 0.0)
        u, slack = u + du, slack + du[:, None]
    if columns:
        pairs = jnp.where(slack.T > FORBIDDEN / 2, s**2 * p, 0.0)
        dv = marginal_root(-slack.T, pairs, s**2, b)  # from v = 0 if b is not 0: they never moved
        dv = jnp.where((q == 0) & jnp.isfinite(dv), dv, 0.0)
        z, slack = z + dv / jnp.where(s > 0, s, 1.0), slack + dv
    return state._replace(u=u, z=z, slack=slack)


def maximise_dual(
    cost: Float[Array, "n m"],
    epsilon: Float[Array, ""],
    mask: Bool[Array, "n m"] | None,
    row_weights: Float[Array, " n"] | None,
    column_weights: Float[Array, " m"] | None,
    relaxation: Float[Array, ""],
    tolerance: Float[Array, ""],
    max_iterations: int | Int[Array, ""],
) -> tuple[Problem, State]:
    """Maximise the dual until `violation` is within the tolerance or iterations run out.

    It also stops at the limit of rounding, or if damped steps bring no further gain. The caller checks
    `violation` for convergence.

    Args:
        cost: c of every pair; finite, and 0 outside the mask.
        epsilon: strength of the regularisation, > 0, in the units of the cost.
        mask: pairs that may carry mass; None allows all.
        row_weights: p; None weighs the rows equally. A weight of 0 is allowed.
        column_weights: q, with the same conditions.
        relaxation: lambda in units of 1 / cost, in [0, inf].

    Returns:
        The problem and its last iterate, both in units of 2 epsilon.
    """
    unit = 2 * epsilon
    relaxation = unit * relaxation
    n, m = cost.shape
    p = jnp.full(n, 1 / n, cost.dtype) if row_weights is None else row_weights
    q = jnp.full(m, 1 / m, cost.dtype) if column_weights is None else column_weights
    problem = Problem(p, q, 1 / jnp.sqrt(1 + relaxation), 1 / (1 + 1 / relaxation))
    # The means of H have no higher precision: a smaller tolerance would waste iterations.
    within_reach = jnp.maximum(tolerance, 4 * jnp.finfo(cost.dtype).eps)

    def unsolved(state: State) -> Bool[Array, ""]:
        solved = (state.stage == 1) & (violation(problem, state) <= within_reach)
        return ~solved & (state.iterations < max_iterations) & (state.damping < MOST_DAMPING)

    state = jax.lax.while_loop(
        unsolved, lambda state: _step(problem, state), _start(problem, cost, mask, unit)
    )
    state = _at_stage(problem, state, jnp.ones_like(state.stage))  # even if it stopped before the last stage
    return problem, _settle(problem, state, row_weights is not None, column_weights is not None)
