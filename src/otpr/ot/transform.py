"""The exact c-transform of L2-regularised transport: one potential from the other in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def marginal_root(
    values: Float[Array, "k m"],
    weights: Float[Array, "k m"],
    level: Float[Array, ""],
    slope: float | Float[Array, ""] = 0.0,
) -> Float[Array, " k"]:
    """The exact root x of `sum_j w_j (x - y_j)_+ + slope x = level` for each row of values y.

    The left side is increasing and is the maximum of the linear functions that sum over a subset of the
    values. Its root is therefore the minimum of their roots, and only the subsets of the j smallest values
    matter. This generalises the threshold of sparsemax (Martins and Astudillo, "From softmax to sparsemax",
    ICML 2016) to weights.

    Args:
        values: y; must be finite, even where the weight is 0.
        weights: w >= 0; values of weight 0 have no influence.
        level: the right side, > 0 where the slope is 0.
        slope: coefficient of the linear term, >= 0.

    Returns:
        The root; +inf where neither a weight nor the slope is positive, as no root exists.
    """
    # A shift keeps the sums small beside the differences between the values.
    least = jnp.min(jnp.where(weights > 0, values, jnp.inf), axis=1)
    least = jnp.where(jnp.isfinite(least), least, 0.0)
    values = jnp.where(weights > 0, values - least[:, None], 0.0)
    level = level - slope * least
    sorted_values, sorted_weights = jax.lax.sort((values, weights), dimension=1, num_keys=1)
    first = ((0, 0), (1, 0))  # the empty subset
    moments = jnp.pad(jnp.cumsum(sorted_weights * sorted_values, axis=1), first)
    slopes = slope + jnp.pad(jnp.cumsum(sorted_weights, axis=1), first)
    roots = (level[:, None] + moments) / jnp.where(slopes > 0, slopes, 1.0)
    x = jnp.min(jnp.where(slopes > 0, roots, jnp.inf), axis=1)
    # Prefix sums accumulate rounding errors; one Newton step on the sum over the support removes them.
    active = jnp.where(values < x[:, None], weights, 0.0)
    slopes = slope + jnp.sum(active, axis=1)
    lack = level - slope * x - jnp.sum(jnp.where(active > 0, active * (x[:, None] - values), 0.0), axis=1)
    return least + jnp.where(jnp.isfinite(x), x + lack / jnp.where(slopes > 0, slopes, 1.0), x)


def c_transform(
    cost: Float[Array, "k m"],
    potential: Float[Array, " m"],
    epsilon: float | Float[Array, ""],
    *,
    mask: Bool[Array, "k m"] | None = None,
    weights: Float[Array, " m"] | None = None,
) -> Float[Array, " k"]:
    """The potential u of new rows that meets `E_q[H(s, .)] = 1` exactly, given v on a sample of columns.

    u(s) is the root of the increasing, piecewise linear `E_q[m (u + v - c)_+] = 2 epsilon`, found by sorting.
    The result maximises the dual over u for this v; at the optimum it equals u. For the other side use
    `c_transform(cost.T, u, epsilon, mask=mask.T, weights=row_weights)`. Source: the first-order condition of
    the dual in u; Blondel, Seguy and Rolet, "Smooth and sparse optimal transport", AISTATS 2018 (the
    semi-dual).

    Args:
        cost: c of every new row with every column of the sample.
        potential: v of every column of the sample.
        epsilon: strength of the regularisation, > 0, in the units of `cost`.
        mask: pairs that may carry mass; None allows all. Costs outside the mask are not read.
        weights: of the columns, >= 0, summing to 1; None weighs them equally.

    Returns:
        u of every new row, in the units of `cost`; +inf for a row without an allowed column of positive
        weight, as no finite u meets its condition.
    """
    weights = jnp.full(cost.shape[1], 1 / cost.shape[1], cost.dtype) if weights is None else weights
    pairs = jnp.broadcast_to(weights, cost.shape)
    values = cost - potential
    if mask is not None:
        pairs, values = jnp.where(mask, pairs, 0.0), jnp.where(mask, values, 0.0)
    return marginal_root(values, pairs, 2 * jnp.asarray(epsilon, cost.dtype))
