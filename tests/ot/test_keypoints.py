from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine, jensenshannon

from otpr.ot import guiding_cost, keypoint_mask, relation
from otpr.ot.keypoints import NO_KEYPOINT


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


cost_of = jax.jit(guiding_cost)
relation_of = jax.jit(relation, static_argnums=2)


def points(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


ids = arrays(np.int64, 6, elements=st.integers(NO_KEYPOINT, 3))


class TestMask:
    def test_by_hand(self) -> None:
        mask = keypoint_mask(jnp.array([0, NO_KEYPOINT, 1]), jnp.array([NO_KEYPOINT, 0, NO_KEYPOINT, 1]))
        expected = [[0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
        np.testing.assert_array_equal(mask, np.array(expected, bool))

    def test_without_keypoints_all_pairs_are_allowed(self) -> None:
        assert keypoint_mask(jnp.full(3, NO_KEYPOINT), jnp.full(4, NO_KEYPOINT)).all()

    @given(rows=ids, columns=ids)
    def test_against_the_definition(self, rows, columns) -> None:
        mask = np.asarray(keypoint_mask(jnp.asarray(rows), jnp.asarray(columns)))
        for i in range(6):
            for j in range(6):
                free = rows[i] == NO_KEYPOINT and columns[j] == NO_KEYPOINT
                own = rows[i] != NO_KEYPOINT and rows[i] == columns[j]
                assert mask[i, j] == (free or own)


class TestRelation:
    @pytest.mark.parametrize("temperature", [0.05, 0.1, 2.0])
    def test_against_a_plain_loop(self, temperature: float) -> None:
        x, keypoints = points(7, 3, seed=0), points(4, 3, seed=1)
        expected = np.empty((7, 4))
        for i in range(7):
            weights = [np.exp(-cosine(x[i], key) / temperature) for key in keypoints]
            expected[i] = np.array(weights) / np.sum(weights)
        actual = np.asarray(relation_of(jnp.asarray(x), jnp.asarray(keypoints), temperature))
        np.testing.assert_allclose(actual, expected, rtol=1e-9)
        np.testing.assert_allclose(actual.sum(1), 1)

    def test_does_not_depend_on_lengths(self) -> None:
        x, keypoints = jnp.asarray(points(7, 3, seed=0)), jnp.asarray(points(4, 3, seed=1))
        np.testing.assert_allclose(relation_of(5 * x, 0.2 * keypoints, 0.1), relation_of(x, keypoints, 0.1))

    def test_a_keypoint_is_closest_to_itself_and_alone_when_cold(self) -> None:
        keypoints = jnp.asarray(points(5, 4, seed=2))
        warm, cold = relation_of(keypoints, keypoints, 0.1), relation_of(keypoints, keypoints, 1e-4)
        np.testing.assert_array_equal(np.argmax(warm, axis=1), np.arange(5))
        np.testing.assert_allclose(cold, np.eye(5), atol=1e-6)

    def test_the_zero_vector_stands_alike_to_all(self) -> None:
        np.testing.assert_allclose(
            relation_of(jnp.zeros((1, 3)), jnp.asarray(points(4, 3, seed=1)), 0.1), 0.25
        )


class TestGuidingCost:
    @pytest.mark.parametrize("concentration", [0.05, 1.0])  # 0.05: most entries are next to zero
    def test_is_scipy_s_jensen_shannon_divergence(self, concentration: float) -> None:
        rng = np.random.default_rng(3)
        rows, columns = (
            rng.dirichlet(np.full(5, concentration), 6),
            rng.dirichlet(np.full(5, concentration), 4),
        )
        expected = [[jensenshannon(p, q) ** 2 for q in columns] for p in rows]
        cost = cost_of(jnp.asarray(rows), jnp.asarray(columns))
        np.testing.assert_allclose(cost, expected, atol=1e-12)

    def test_by_hand(self) -> None:
        sure, other, even = jnp.array([1.0, 0, 0]), jnp.array([0, 1.0, 0]), jnp.array([0.5, 0.5, 0])
        cost = cost_of(sure[None], jnp.stack([sure, other, even]))
        np.testing.assert_allclose(cost, [[0, np.log(2), 0.75 * np.log(4 / 3)]], atol=1e-12)

    @given(
        rows=arrays(np.float64, (3, 4), elements=st.floats(0, 1, allow_subnormal=False)),
        columns=arrays(np.float64, (5, 4), elements=st.floats(0, 1, allow_subnormal=False)),
    )
    def test_bounds_symmetry_and_own_cost(self, rows, columns) -> None:
        rows, columns = (
            jnp.asarray((x + 1e-9) / (x + 1e-9).sum(axis=1, keepdims=True)) for x in (rows, columns)
        )
        cost = np.asarray(cost_of(rows, columns))
        assert cost.min() >= -1e-12 and cost.max() <= np.log(2) + 1e-12
        np.testing.assert_allclose(cost_of(columns, rows), cost.T, atol=1e-12)
        np.testing.assert_allclose(np.diagonal(cost_of(rows, rows)), 0, atol=1e-12)

    def test_in_single_precision_too(self) -> None:
        rng = np.random.default_rng(4)
        rows = rng.dirichlet(np.full(50, 0.3), 20).astype(np.float32)
        cost = cost_of(jnp.asarray(rows), jnp.asarray(rows))
        assert cost.dtype == jnp.float32
        expected = [[jensenshannon(p, q) ** 2 for q in rows] for p in rows]
        np.testing.assert_allclose(cost, expected, atol=1e-6)

    def test_couples_a_pair_of_keypoints_for_free(self) -> None:
        # states and actions live in different spaces; what they share is how they stand to the pairs
        states, actions = jnp.asarray(points(4, 3, seed=5)), jnp.asarray(points(4, 6, seed=6))
        cost = np.asarray(cost_of(relation_of(states, states, 0.02), relation_of(actions, actions, 0.02)))
        np.testing.assert_array_equal(cost.argmin(axis=1), np.arange(4))
        assert np.diagonal(cost).max() < 0.01 < 0.5 < cost[~np.eye(4, dtype=bool)].min()
