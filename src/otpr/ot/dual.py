"""The dual of L2-regularised optimal transport, its compatibility and its optimality conditions.

    primal  min_pi  sum c dpi + epsilon sum pi^2 / (p q)       with marginals p and q
    dual    max_{u,v}  E_p[u] + E_q[v] - 1/(4 epsilon) E_{p x q}[ m (u + v - c)_+^2 ]

where m is the keypoint mask (1 everywhere if there are no keypoints). The plan is m H p q with the
*compatibility* H = (u + v - c)_+ / (2 epsilon), the density of the plan with respect to the product measure.
Sources: Seguy et al., "Large-scale optimal transport and mapping estimation", ICLR 2018 (the dual and H); Gu
et al., "Keypoint-guided optimal transport", NeurIPS 2022 (the mask); Sun et al., ICML 2025 (OTPR).
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def _excess(u: Float[Array, " n"], v: Float[Array, " m"], cost: Float[Array, "n m"]) -> Float[Array, "n m"]:
    return jnp.maximum(u[:, None] + v[None, :] - cost, 0.0)


def dual_objective(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    cost: Float[Array, "n m"],
    epsilon: float | Float[Array, ""],
    mask: Bool[Array, "n m"] | None = None,
    column_relaxation: float = 0.0,
) -> Float[Array, ""]:
    """Dual objective on samples of equal weight. It is concave in (u, v) and is to be maximised.

    Args:
        u: potential of each row (state).
        v: potential of each column (action).
        cost: c of every pair.
        epsilon: strength of the regularisation, > 0, in the units of `cost`.
        mask: pairs that may carry mass; None allows all.
        column_relaxation: lambda in [0, inf), of the term -lambda/2 E_q[v^2] (`otpr.ot.discrete`).
    """
    penalty = _excess(u, v, cost) ** 2
    if mask is not None:
        penalty = jnp.where(mask, penalty, 0.0)
    price = column_relaxation / 2 * jnp.mean(v**2)
    return jnp.mean(u) + jnp.mean(v) - price - jnp.mean(penalty) / (4 * epsilon)


def compatibility(
    u: Float[Array, " n"],
    v: Float[Array, " m"],
    cost: Float[Array, "n m"],
    epsilon: float | Float[Array, ""],
    mask: Bool[Array, "n m"] | None = None,
) -> Float[Array, "n m"]:
    """Compatibility H of every pair: >= 0, and exactly 0 outside the support or the mask.

    The plan between n rows and m columns of equal weight is `H / (n * m)`.
    """
    H = _excess(u, v, cost) / (2 * epsilon)
    return H if mask is None else jnp.where(mask, H, 0.0)


def marginal_errors(H: Float[Array, "n m"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean absolute deviation from 1 of the row means of H and of its column means.

    Both are 0 at the optimum, by the first-order conditions of the dual. Their mean is the *marginal error*,
    which measures how far the potentials are from the optimum. The mask must have been applied to H.
    """
    return relaxed_marginal_errors(H, jnp.zeros(H.shape[1]), 1.0, 0.0)


def relaxed_marginal_errors(
    H: Float[Array, "n m"],
    v: Float[Array, " m"],
    epsilon: float | Float[Array, ""],
    column_relaxation: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`marginal_errors` for relaxed column marginals.

    The column error is the mean over the columns of |r - 1 + lambda v| / (1 + 2 epsilon lambda), where r is a
    column's mean of H; for lambda = inf it is the mean of |v| / (2 epsilon). Both errors are 0 at the optimum
    of the dual with relaxation lambda (`otpr.ot.discrete`).

    Args:
        H: compatibility, with the mask applied.
        v: potential of each column.
        epsilon: strength of the regularisation, > 0, in the units of the cost.
        column_relaxation: lambda in [0, inf], in units of 1 / cost.
    """
    exactness = 1 / (1 + 2 * epsilon * column_relaxation)
    rows = jnp.mean(jnp.abs(jnp.mean(H, axis=1) - 1.0))
    conditions = exactness * (jnp.mean(H, axis=0) - 1.0) + (1 - exactness) * v / (2 * epsilon)
    return rows, jnp.mean(jnp.abs(conditions))
