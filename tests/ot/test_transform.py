from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq

from otpr.ot import c_transform, solve_discrete
from otpr.ot.transform import marginal_root

transform = jax.jit(c_transform)
root = jax.jit(marginal_root)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def numbers(low: float, high: float):
    return st.floats(low, high, allow_subnormal=False)


costs = arrays(float, (4, 7), elements=numbers(-3, 3))
potentials = arrays(float, 7, elements=numbers(-3, 3))
# Some of the weights are 0, but not all: then there would be nothing to find.
weights = arrays(float, 7, elements=st.just(0.0) | numbers(0.01, 1)).filter(np.any).map(lambda w: w / w.sum())
masks = arrays(bool, (4, 7))


def means(u, cost, v, epsilon, mask, weights) -> np.ndarray:
    """E_q[H] of each row, with plain NumPy."""
    H = np.maximum(np.asarray(u)[:, None] + v - cost, 0) / (2 * epsilon)
    return np.where(mask, H, 0) @ weights


class TestCTransform:
    @given(cost=costs, v=potentials, epsilon=numbers(1e-3, 10), mask=masks, q=weights)
    def test_against_bisection(self, cost, v, epsilon, mask, q) -> None:
        u = transform(*map(jnp.asarray, (cost, v, epsilon)), mask=jnp.asarray(mask), weights=jnp.asarray(q))
        for row in range(4):
            used = mask[row] & (q > 0)
            if not used.any():
                assert u[row] == np.inf
                continue

            def lack(x, row=row):
                return means([x], cost[row], v, epsilon, mask[row], q)[0] - 1

            least = (cost[row] - v)[used].min()
            expected = brentq(lack, least, least + 2 * epsilon / q[used].min() + 10, xtol=1e-13)
            assert float(u[row]) == pytest.approx(expected, abs=1e-10)

    @given(cost=costs, v=potentials, epsilon=numbers(1e-3, 10))
    def test_without_mask_and_weights_columns_count_alike(self, cost, v, epsilon: float) -> None:
        u = transform(*map(jnp.asarray, (cost, v, epsilon)))
        np.testing.assert_allclose(means(u, cost, v, epsilon, True, np.full(7, 1 / 7)), 1, atol=1e-9)

    def test_of_one_optimal_potential_is_the_other_and_new_rows_follow(self) -> None:
        rng = np.random.default_rng(0)
        cost, p, q = rng.normal(size=(12, 7)), rng.dirichlet(np.full(9, 2.0)), rng.dirichlet(np.full(7, 2.0))
        mask = rng.random((12, 7)) < 0.8
        options = {"row_weights": p, "column_weights": q, "mask": mask[:9], "tolerance": 1e-12}
        solution = solve_discrete(cost[:9], 0.1, **options)
        u = transform(jnp.asarray(cost), solution.v, 0.1, mask=jnp.asarray(mask), weights=jnp.asarray(q))
        np.testing.assert_allclose(u[:9], solution.u, atol=1e-10)
        np.testing.assert_allclose(means(u, cost, np.asarray(solution.v), 0.1, mask, q), 1, atol=1e-12)
        cost, mask = jnp.asarray(cost[:9].T), jnp.asarray(mask[:9].T)
        v = transform(cost, solution.u, 0.1, mask=mask, weights=jnp.asarray(p))
        np.testing.assert_allclose(v, solution.v, atol=1e-10)

    def test_cost_outside_the_mask_is_not_read(self) -> None:
        mask = jnp.array([[True, False, True]])
        v = jnp.zeros(3)
        for hidden in (np.nan, np.inf, -1e9):
            u = transform(jnp.array([[0.5, hidden, 2.0]]), v, 0.1, mask=mask)
            assert float(u[0]) == pytest.approx(0.5 + 0.2 * 3)  # one column of weight 1/3 carries it all

    def test_batches(self) -> None:
        cost, v = (
            np.random.default_rng(2).normal(size=(3, 4, 7)),
            np.random.default_rng(3).normal(size=(3, 7)),
        )
        together = jax.vmap(transform, in_axes=(0, 0, None))(jnp.asarray(cost), jnp.asarray(v), 0.2)
        one_by_one = [transform(jnp.asarray(cost[k]), jnp.asarray(v[k]), 0.2) for k in range(3)]
        np.testing.assert_allclose(together, one_by_one, atol=1e-14)

    def test_float32_sheds_a_common_offset_and_many_columns(self) -> None:
        cost = np.random.default_rng(4).normal(size=(4, 3000)).astype(np.float32)
        u = transform(jnp.asarray(cost) + 100, jnp.zeros(3000, jnp.float32), 2.0)
        assert u.dtype == jnp.float32
        shifted = (cost + np.float32(100)).astype(np.float64)
        np.testing.assert_allclose(means(u, shifted, 0.0, 2.0, True, np.full(3000, 1 / 3000)), 1, atol=1e-5)


class TestMarginalRoot:
    @given(values=costs, w=weights, slope=numbers(0, 3), level=numbers(-2, 2))
    def test_with_a_linear_term(self, values, w, slope: float, level: float) -> None:
        slope = slope + 0.01  # the level may then be negative
        pairs = np.broadcast_to(w, values.shape)
        x = np.asarray(root(*map(jnp.asarray, (values, pairs, level, slope))))
        left = np.sum(pairs * np.maximum(x[:, None] - values, 0), axis=1) + slope * x
        np.testing.assert_allclose(left, level, atol=1e-10)

    def test_without_weights_the_slope_alone_decides(self) -> None:
        values, none = jnp.ones((2, 3)), jnp.zeros((2, 3))
        np.testing.assert_array_equal(root(values, none, jnp.array(3.0), 2.0), [1.5, 1.5])
        np.testing.assert_array_equal(root(values, none, jnp.array(3.0), 0.0), [np.inf, np.inf])
