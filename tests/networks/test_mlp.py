from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.networks.mlp import NoiseMLP, time_embedding


@pytest.mark.parametrize("width", [2, 8, 16])
def test_time_embedding_against_a_plain_loop(width: int) -> None:
    for k in (0, 1, 17, 99):
        angles = [k / 100 ** (i / (width // 2)) for i in range(width // 2)]
        expected = [np.sin(x) for x in angles] + [np.cos(x) for x in angles]
        np.testing.assert_allclose(time_embedding(jnp.array(k), width), expected, atol=2e-5)


def test_time_embedding_tells_levels_apart() -> None:
    embeddings = np.asarray(jax.vmap(lambda k: time_embedding(k, 16))(jnp.arange(100)))
    distances = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=-1)
    assert distances[~np.eye(100, dtype=bool)].min() > 0.1


@pytest.mark.parametrize("depth", [1, 3])
def test_forward_pass_by_hand(depth: int) -> None:
    network = NoiseMLP(3, (2, 2), width=8, depth=depth, time_width=6, key=jax.random.key(0))
    rng = np.random.default_rng(0)
    state, plan = rng.normal(size=3).astype(np.float32), rng.normal(size=(2, 2)).astype(np.float32)
    for k in (0, 5):
        x = np.concatenate([state, plan.ravel(), time_embedding(jnp.array(k), 6)])
        for i, layer in enumerate(network.body.mlp.layers):
            x = np.asarray(layer.weight) @ x + np.asarray(layer.bias)
            if i < depth:
                x = x / (1 + np.exp(-x))
        predicted = network(jnp.asarray(state), jnp.asarray(plan), jnp.array(k))
        np.testing.assert_allclose(predicted, x.reshape(2, 2), atol=1e-5)


@pytest.mark.parametrize(("depth", "time_width"), [(1, 16), (3, 6)])
def test_plans_that_share_a_state_are_predicted_as_each_by_itself(depth: int, time_width: int) -> None:
    network = NoiseMLP(3, (2, 2), width=32, depth=depth, time_width=time_width, key=jax.random.key(0))
    plans = jax.random.normal(jax.random.key(1), (5, 2, 2))
    for state in jax.random.normal(jax.random.key(2), (2, 3)):
        for k in (jnp.array(0), jnp.array(9)):
            expected = [network(state, plan, k) for plan in plans]
            np.testing.assert_allclose(network.many(state, plans, k), jnp.stack(expected), atol=1e-6)


def test_prediction_depends_on_state_plan_and_level() -> None:
    network = NoiseMLP(3, (2, 2), width=32, depth=2, key=jax.random.key(0))
    zero, one, k = jnp.zeros, jnp.ones, jnp.array
    base = network(zero(3), zero((2, 2)), k(0))
    for other in (
        network(one(3), zero((2, 2)), k(0)),
        network(zero(3), one((2, 2)), k(0)),
        network(zero(3), zero((2, 2)), k(9)),
    ):
        assert np.abs(other - base).max() > 1e-3
