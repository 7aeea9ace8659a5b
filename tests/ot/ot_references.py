"""Independent solutions of L2-regularised optimal transport, for small problems. Float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from otpr.ot import dual_objective

Matrix = NDArray[np.float64]


def exact_plan(cost: Matrix, epsilon: float, mask: Matrix | None = None) -> Matrix:
    """The optimal plan by quadratic programming, without any dual potential or gradient of ours.

    With uniform weights the primal is `min sum c pi + epsilon n m sum pi^2`: the point of the transport
    polytope closest to z = -c / (2 epsilon n m). With pi = z + x that is a least-distance problem, `min |x|`
    subject to `G x >= h`, which one non-negative least-squares problem solves exactly (Lawson and Hanson,
    "Solving least squares problems", 1974, chapter 23, algorithm LDP).
    """
    n, m = cost.shape
    allowed = np.ones(cost.shape, bool) if mask is None else mask
    z = (-cost / (2 * epsilon * n * m))[allowed]
    row, column = np.nonzero(allowed)
    sums = np.concatenate([row == np.arange(n)[:, None], column == np.arange(m)[:, None]]).astype(float)
    marginals = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)]) - sums @ z
    G = np.concatenate([np.eye(len(z)), sums, -sums])
    h = np.concatenate([-z, marginals, -marginals])
    target = np.append(np.zeros(len(z)), 1.0)
    equations = np.vstack([G.T, h])
    solution, _ = nnls(equations, target, maxiter=100 * len(h))
    residual = equations @ solution - target
    plan = np.zeros(cost.shape)
    plan[allowed] = z - residual[:-1] / residual[-1]
    return plan


def primal_value(plan: Matrix, cost: Matrix, epsilon: float) -> float:
    return float(np.sum(plan * cost) + epsilon * plan.size * np.sum(plan**2))


@jax.jit
def _negative_dual(x, cost, mask, epsilon):
    def value(x):
        return -dual_objective(x[: cost.shape[0]], x[cost.shape[0] :], cost, epsilon, mask)

    return jax.value_and_grad(value)(x)


def solve_dual(cost, epsilon: float, mask=None) -> tuple[jax.Array, jax.Array, float]:
    """u, v and the value that maximise `dual_objective`, by L-BFGS on its gradient by JAX."""
    cost = jnp.asarray(cost)
    assert cost.dtype == jnp.float64
    n, m = cost.shape
    mask = None if mask is None else jnp.asarray(mask)

    def objective(x):
        value, gradient = _negative_dual(jnp.asarray(x), cost, mask, jnp.asarray(epsilon))
        return float(value), np.asarray(gradient)

    x = np.zeros(n + m)
    for _ in range(
        3
    ):  # L-BFGS stops where the value no longer moves in floating point; the gradient still does
        options = {"ftol": 0, "gtol": 1e-13, "maxiter": 5000, "maxcor": 50}
        x = minimize(objective, x, jac=True, method="L-BFGS-B", options=options).x
    return jnp.asarray(x[:n]), jnp.asarray(x[n:]), -objective(x)[0]
