"""What the critics and what follows them are made of: the expectile loss, and the slow following."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from otpr.agents.parts.actor_critic import expectile_loss, followed
from otpr.networks.critics import QEnsemble


def data(n: int, d: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def ensemble(seed: int) -> QEnsemble:
    return QEnsemble(3, 4, size=3, width=8, depth=2, key=jax.random.key(seed))


class TestExpectile:
    @given(
        difference=arrays(np.float32, 5, elements=st.floats(-10, 10, width=32)),
        expectile=st.floats(0.01, 0.99),
    )
    def test_closed_form(self, difference, expectile: float) -> None:
        expected = [abs(expectile - (1 if d < 0 else 0)) * d**2 for d in difference.astype(float)]
        np.testing.assert_allclose(
            expectile_loss(jnp.asarray(difference), expectile), expected, rtol=1e-5, atol=1e-30
        )

    @pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
    def test_its_minimiser_is_the_expectile_of_the_sample(self, expectile: float) -> None:
        targets = np.random.default_rng(0).gamma(2.0, size=200)
        with jax.enable_x64(True):
            loss = jax.jit(lambda v: jnp.mean(expectile_loss(jnp.asarray(targets) - v, expectile)))
            found = optimize.minimize_scalar(
                lambda v: float(loss(v)), bounds=(0, 10), options={"xatol": 1e-9}
            )
            slope = float(jax.grad(loss)(stats.expectile(targets, expectile)))
        assert found.x == pytest.approx(stats.expectile(targets, expectile), abs=1e-6)
        assert slope == pytest.approx(0, abs=1e-9)

    def test_a_high_expectile_leans_on_the_better_targets(self) -> None:
        # two targets 0 and 1: tau (1 - v) = (1 - tau) v, so v = tau
        with jax.enable_x64(True):
            slope = jax.grad(lambda v: jnp.sum(expectile_loss(jnp.array([0.0, 1.0]) - v, 0.8)))
            assert float(slope(0.8)) == pytest.approx(0, abs=1e-12)
            assert float(slope(0.5)) < 0 < float(slope(0.9))  # so descent moves v up to it, or down to it


class TestFollowed:
    @given(
        rate=st.floats(0, 1, width=32), target=st.floats(-5, 5, width=32), online=st.floats(-5, 5, width=32)
    )
    def test_values(self, rate: float, target: float, online: float) -> None:
        mixed = followed({"w": jnp.float32(target)}, {"w": jnp.float32(online)}, rate)
        assert float(mixed["w"]) == pytest.approx((1 - rate) * target + rate * online, abs=1e-5)

    def test_follows_every_parameter_of_an_ensemble(self) -> None:
        target, online = ensemble(0), ensemble(1)
        mixed = followed(target, online, 0.25)
        leaves = [jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (mixed, target, online)]
        for m, t, o in zip(*leaves, strict=True):
            np.testing.assert_allclose(m, 0.75 * t + 0.25 * o, atol=1e-6)
        states, actions = data(5, 3, 2), data(5, 4, 3)
        whole = followed(target, online, 1.0)
        np.testing.assert_allclose(whole(states, actions), online(states, actions), atol=1e-5)
        np.testing.assert_array_equal(followed(target, online, 0.0)(states, actions), target(states, actions))

    def test_repeated_it_approaches_geometrically(self) -> None:
        target, online = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, -2.0])}
        for _ in range(50):
            target = followed(target, online, 0.1)
        np.testing.assert_allclose(target["w"], (1 - 0.9**50) * np.array([1.0, -2.0]), rtol=1e-5)

    def test_leaves_that_are_no_real_arrays_stay(self) -> None:
        target = {"count": jnp.array(3), "w": jnp.array(0.0), "activation": jax.nn.relu}
        mixed = followed(target, {"count": jnp.array(9), "w": jnp.array(1.0), "activation": jax.nn.relu}, 0.5)
        assert int(mixed["count"]) == 3 and float(mixed["w"]) == 0.5 and mixed["activation"] is jax.nn.relu
