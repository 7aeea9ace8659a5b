"""Keypoints, pairs that are known to match: the mask and the guiding cost that they define.

Source: Gu et al., "Keypoint-guided optimal transport with applications in heterogeneous domain adaptation",
NeurIPS 2022.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NO_KEYPOINT = -1


def keypoint_mask(row_ids: Int[Array, " n"], column_ids: Int[Array, " m"]) -> Bool[Array, "n m"]:
    """The pairs that may carry mass.

    A keypoint's row may only be paired with the column of the same keypoint, and the reverse. Rows and
    columns without a keypoint (`NO_KEYPOINT`) may be paired freely with each other.

    Args:
        row_ids: keypoint number of each row; `NO_KEYPOINT` where it has none.
        column_ids: the same for the columns.
    """
    return row_ids[:, None] == column_ids[None, :]


def _cosine_distance(x: Float[Array, "n d"], y: Float[Array, "k d"]) -> Float[Array, "n k"]:
    def unit(z: Float[Array, "n d"]) -> Float[Array, "n d"]:
        return z / jnp.maximum(jnp.linalg.norm(z, axis=-1, keepdims=True), 1e-8)

    return 1.0 - unit(x) @ unit(y).T


def relation(
    points: Float[Array, "n d"], keypoints: Float[Array, "k d"], temperature: float
) -> Float[Array, "n k"]:
    """Relation of each point to the keypoints of its own space: softmax_k(-d(x, x_k) / temperature).

    d is the cosine distance. The rows of the result, (n, k), are probability vectors.
    """
    return jax.nn.softmax(-_cosine_distance(points, keypoints) / temperature, axis=-1)


def guiding_cost(rows: Float[Array, "n k"], columns: Float[Array, "m k"]) -> Float[Array, "n m"]:
    """Jensen-Shannon divergence (in nats, in [0, log 2]) between the relations of rows and of columns.

    Pairing a state and an action with similar relations to the keypoints of their spaces costs little.
    """

    def entropy(p: Float[Array, "*n k"]) -> Float[Array, "*n"]:
        return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0), axis=-1)

    def against_all_columns(row: Float[Array, " k"]) -> Float[Array, " m"]:
        return entropy((row[None, :] + columns) / 2)

    mixed = jax.lax.map(against_all_columns, rows)  # row by row: (n, m, k) may not fit in memory
    return mixed - (entropy(rows)[:, None] + entropy(columns)[None, :]) / 2
