"""Whether a mask admits any plan between two weighted samples, and which points rule it out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Masses closer than this count as equal; the linear programme's own tolerance is 1e-7.
_TOLERANCE = 1e-6

Indices = NDArray[np.int64]
Weights = NDArray[np.float64]


def name_points(kind: str, indices: Indices) -> str:
    """`row 3`, or `rows 0, 1, 2, 3, 4 and 7 more`."""
    if len(indices) == 1:
        return f"{kind} {indices[0]}"
    more = f" and {len(indices) - 5} more" if len(indices) > 5 else ""
    return f"{kind}s " + ", ".join(map(str, indices[:5])) + more


def _overfull_rows(
    mask: NDArray[np.bool_], p: Weights, q: Weights, allowed: NDArray[np.bool_]
) -> tuple[Indices, Indices] | None:
    """The connected component of `allowed` rows with the most excess mass, and the columns it may use."""
    rows = np.flatnonzero(allowed)
    columns = np.flatnonzero(mask[rows].any(axis=0))
    row, column = np.nonzero(mask[np.ix_(rows, columns)])
    size = len(rows) + len(columns)
    graph = coo_array((np.ones(len(row)), (row, column + len(rows))), shape=(size, size))
    count, part = connected_components(graph, directed=False)
    mass = np.bincount(part, np.concatenate([p[rows], -q[columns]]), minlength=count)
    if count == 0 or mass.max() <= _TOLERANCE:
        return None
    worst = part == mass.argmax()
    return rows[worst[: len(rows)]], columns[worst[len(rows) :]]


def why_infeasible(mask: NDArray[np.bool_], p: Weights, q: Weights) -> str | None:
    """Why no plan with marginals p and q fits the mask; None if one does.

    The largest mass that can be transported is the value of a linear programme. If it is below 1, the dual
    solution is a minimum cut: a set of rows with more mass than all the columns they may use (Gale, "A
    theorem on flows in networks", Pacific Journal of Mathematics 1957), or the same with rows and columns
    exchanged. Points with equal rows of the mask are merged first; with keypoint masks, only one group and
    the keypoints remain.

    Args:
        mask: (n, m), pairs that may carry mass. Each point of positive weight must have at least one pair.
        p, q: (n,) and (m,), weights >= 0 that sum to 1.
    """
    rows, columns = np.nonzero(p > 0)[0], np.nonzero(q > 0)[0]
    kept = mask[np.ix_(rows, columns)]
    _, first_row, row_group = np.unique(kept, axis=0, return_index=True, return_inverse=True)
    _, first_column, column_group = np.unique(kept, axis=1, return_index=True, return_inverse=True)
    merged = kept[np.ix_(first_row, first_column)]
    supply, demand = np.bincount(row_group.ravel(), p[rows]), np.bincount(column_group.ravel(), q[columns])
    row, column = np.nonzero(merged)
    pairs = np.arange(len(row))
    sums = coo_array(
        (np.ones(2 * len(row)), (np.concatenate([row, column + len(supply)]), np.tile(pairs, 2))),
        shape=(len(supply) + len(demand), len(row)),
    )
    result = linprog(
        -np.ones(len(row)), A_ub=sums.tocsr(), b_ub=np.concatenate([supply, demand]), method="highs"
    )
    if not result.success:
        raise RuntimeError(f"The linear programme of the mask's feasibility ended with: {result.message}")
    # A row of dual price 0 has excess mass: its columns lack capacity.
    short = np.greater(result.ineqlin.marginals[: len(supply)], -0.5)
    cut_rows = short[row_group.ravel()]
    cut_columns = ~np.any(merged[short], axis=0)[column_group.ravel()]
    p, q = p[rows], q[columns]
    # one side's name, points and weights, then those of the other side
    causes: list[tuple[str, Indices, Weights, str, Indices, Weights]] = []
    if (found := _overfull_rows(kept, p, q, cut_rows)) is not None:
        causes.append(("row", rows[found[0]], p[found[0]], "column", columns[found[1]], q[found[1]]))
    if (found := _overfull_rows(kept.T, q, p, cut_columns)) is not None:
        causes.append(("column", columns[found[0]], q[found[0]], "row", rows[found[1]], p[found[1]]))
    if not causes:
        return None
    kind, given, weights, other, usable, room = min(causes, key=lambda cause: len(cause[1]) + len(cause[4]))
    return (
        f"{name_points(kind, given)} (weight {weights.sum():.6g}) may only meet "
        f"{name_points(other, usable)} (weight {room.sum():.6g})"
    )
