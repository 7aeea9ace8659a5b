"""Sets of row numbers: what they hold, and what is drawn of them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from scipy import stats

from otpr.data.row_sets import BLOCK, IndexSet, Marked


def held(indices: IndexSet) -> list[int]:
    return np.asarray(indices.rows)[: int(indices.size)].tolist()


@pytest.mark.parametrize("capacity", [0, 40, 5000])
def test_an_index_set_is_a_list(capacity: int) -> None:
    indices, reference = IndexSet.empty(capacity), []
    for start, n in [(7, 3), (100, BLOCK), (5, 0), (400, 2 * BLOCK + 9), (9, 1), (10, BLOCK + 1), (0, 500)]:
        indices = indices.add(np.arange(start, start + n, dtype=np.int32))
        reference += range(start, start + n)
        assert held(indices) == reference


@settings(max_examples=25)
@given(chosen=arrays(np.bool_, 60))
def test_marked_rows_are_drawn_as_if_they_were_listed(chosen: np.ndarray) -> None:
    marked, rows = jax.jit(Marked.of)(jnp.asarray(chosen)), np.flatnonzero(chosen)
    assert int(marked.size) == len(rows)
    drawn = np.asarray(marked.draw(jax.random.key(0), 300))
    assert drawn.shape == (300,) and drawn.dtype == np.int32
    if len(rows):
        listed = IndexSet.empty(60).add(rows.astype(np.int32))
        np.testing.assert_array_equal(drawn, listed.draw(jax.random.key(0), 300))
    else:  # gathered before it is known that they are not wanted
        assert ((drawn >= 0) & (drawn < 60)).all()


def test_draws_are_uniform_over_what_it_holds_and_depend_on_the_key_alone() -> None:
    indices = IndexSet.empty(50).add(np.arange(100, 120, dtype=np.int32))  # 30 places are still empty
    drawn = np.asarray(indices.draw(jax.random.key(0), 4000))
    assert set(drawn) == set(range(100, 120))
    assert stats.chisquare(np.bincount(drawn, minlength=120)[100:]).pvalue > 1e-3
    first, again, other = (np.asarray(indices.draw(jax.random.key(k), 30)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_draws_of_an_empty_set_are_rows_of_a_store_all_the_same() -> None:
    """They are gathered before it is known that they are not wanted."""
    drawn = np.asarray(IndexSet.empty(5).draw(jax.random.key(0), 10))
    np.testing.assert_array_equal(drawn, 0)
