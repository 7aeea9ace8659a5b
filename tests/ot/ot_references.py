"""Independent solutions of L2-regularised optimal transport, for small problems, and problems. Float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, nnls

from otpr.ot import DiscreteSolution, dual_objective, solve_discrete

Matrix = NDArray[np.float64]


def exact_plan(
    cost: Matrix,
    epsilon: float,
    mask: Matrix | None = None,
    p: Matrix | None = None,
    q: Matrix | None = None,
    relaxation: float = 0.0,
) -> Matrix:
    """The optimal plan by quadratic programming, without any dual potential or gradient of ours.

    In x = pi / sqrt(p q), and y = sqrt(q / (2 epsilon lambda)) d for relaxed columns of mass q (1 + d), the
    primal is `min epsilon |x + c sqrt(p q) / (2 epsilon)|^2 + epsilon |y|^2`: the point of a polytope closest
    to z = (-c sqrt(p q) / (2 epsilon), 0). From there that is a least-distance problem, `min |w|` subject to
    `G w >= h`, which one non-negative least-squares problem solves exactly (Lawson and Hanson, "Solving least
    squares problems", 1974, chapter 23, algorithm LDP). All weights must be positive.
    """
    n, m = cost.shape
    allowed = np.ones(cost.shape, bool) if mask is None else mask
    p = np.full(n, 1 / n) if p is None else p
    q = np.full(m, 1 / m) if q is None else q
    root = np.sqrt(p[:, None] * q)[allowed]
    row, column = np.nonzero(allowed)
    row_sums = (row == np.arange(n)[:, None]) * root
    column_sums = (column == np.arange(m)[:, None]) * root
    z, positive, sums, masses = -root * cost[allowed] / (2 * epsilon), np.eye(len(root)), row_sums, p
    if 0 < relaxation < np.inf:
        deviations = np.diag(-np.sqrt(2 * epsilon * relaxation * q))
        z, positive = np.append(z, np.zeros(m)), np.eye(len(root), len(root) + m)
        sums, column_sums = np.hstack([sums, np.zeros((n, m))]), np.hstack([column_sums, deviations])
    if relaxation < np.inf:
        sums, masses = np.vstack([sums, column_sums]), np.append(p, q)
    lack = masses - sums @ z
    G = np.concatenate([positive, sums, -sums])
    h = np.concatenate([-z[: len(root)], lack, -lack])
    scale = 1 + np.linalg.norm(z)  # LDP loses the digits of |w|^2: bring w to the order of 1
    target = np.append(np.zeros(len(z)), 1.0)
    equations = np.vstack([G.T, h / scale])
    solution, _ = nnls(equations, target, maxiter=100 * len(h))
    residual = equations @ solution - target
    plan = np.zeros(cost.shape)
    plan[allowed] = root * (z - scale * residual[:-1] / residual[-1])[: len(root)]
    return plan


def primal_value(
    plan: Matrix,
    cost: Matrix,
    epsilon: float,
    p: Matrix | None = None,
    q: Matrix | None = None,
    relaxation: float = 0.0,
) -> float:
    """What a plan costs; of its marginals only relaxed columns are looked at."""
    n, m = cost.shape
    p = np.full(n, 1 / n) if p is None else p
    q = np.full(m, 1 / m) if q is None else q
    value = np.sum(plan * cost) + epsilon * np.sum(plan**2 / (p[:, None] * q))
    if relaxation > 0:
        value += np.sum(q * (plan.sum(0) / q - 1) ** 2) / (2 * relaxation)
    return float(value)


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


class Instance:
    """A random feasible problem: its kinds of cost, mask and weights go round with the seed."""

    def __init__(self, n: int, m: int, seed: int):
        rng = np.random.default_rng([n, m, seed])
        x, y = rng.normal(size=(n, 2)), rng.normal(size=(m, 2))
        self.cost = [
            lambda: rng.normal(size=(n, m)),
            lambda: ((x[:, None] - y) ** 2).sum(-1),
            lambda: np.sin(2 * x[:, :1] + y[:, 0]),
            lambda: rng.integers(0, 3, size=(n, m)).astype(float),  # many equal costs
            lambda: np.full((n, m), 0.7),
        ][seed % 5]()
        self.epsilon = float(10 ** rng.uniform(-3, 1))
        self.p, self.q = np.full(n, 1 / n), np.full(m, 1 / m)
        self.mask = np.ones((n, m), bool)
        if seed % 3 == 1:
            self.p, self.q = rng.dirichlet(np.full(n, 2.0)), rng.dirichlet(np.full(m, 2.0))
        elif seed % 3 == 2:
            self._keypoints(rng, n, m, all_of_them=n == m and seed % 2 == 0)

    def _keypoints(self, rng, n: int, m: int, all_of_them: bool) -> None:
        count = n if all_of_them else int(rng.integers(min(n, m)))
        rows, columns = np.full(n, -1), np.full(m, -1)
        rows[rng.permutation(n)[:count]] = columns[rng.permutation(m)[:count]] = np.arange(count)
        self.mask = rows[:, None] == columns
        # a keypoint's row and column must weigh the same, and so must all the rest
        shares = rng.dirichlet(np.full(count + (count < n), 2.0))
        for ids, weights in ((rows, self.p), (columns, self.q)):
            weights[ids >= 0] = shares[ids[ids >= 0]]
            weights[ids < 0] = shares[-1] / max(np.sum(ids < 0), 1)

    def solve(self, dtype: type = np.float64, **options) -> DiscreteSolution:
        # mask and weights are always given, so that one compilation serves all instances of a shape
        return solve_discrete(
            self.cost.astype(dtype),
            self.epsilon,
            mask=self.mask,
            row_weights=self.p.astype(dtype),
            column_weights=self.q.astype(dtype),
            **options,
        )
