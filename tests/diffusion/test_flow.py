"""Flow matching: its loss, its Euler steps, and what it learns."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from otpr.diffusion.flow import flow_losses, integrate
from otpr.networks.mlp import VelocityNetwork


def test_the_straight_velocity_has_no_loss_and_another_its_squared_distance():
    """Of one chunk c, the velocity at x and t is (c - x) / (1 - t): it leads straight to c."""
    chunk = jnp.asarray([0.3, -0.7])
    many = jnp.broadcast_to(chunk, (64, 2))
    observations = jnp.zeros((64, 1))
    key = jax.random.key(0)

    def straight(observation, x, t):
        return (chunk - x) / (1 - t)

    np.testing.assert_allclose(flow_losses(straight, observations, many, key), 0, atol=1e-7)
    off = flow_losses(lambda o, x, t: straight(o, x, t) + jnp.asarray([0.1, 0.3]), observations, many, key)
    np.testing.assert_allclose(off, (0.1**2 + 0.3**2) / 2, rtol=1e-3)


def test_times_are_uniform_over_the_unit_interval_and_noise_is_standard():
    n = 4000
    nothing = jnp.zeros((n, 1))
    losses = flow_losses(lambda o, x, t: t[None], nothing, nothing, jax.random.key(0))
    # the chunk is 0, so the target is -noise, and E (t + noise)^2 = E t^2 + E noise^2
    assert float(jnp.mean(losses)) == pytest.approx(1 / 3 + 1, abs=0.1)


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_euler_steps_are_those_of_the_method(steps: int):
    x = jnp.asarray([1.0, -2.0])
    # x' = x: each step multiplies by 1 + 1/n; x' = t: the sum of the times that steps begin at
    np.testing.assert_allclose(integrate(lambda x, t: x, x, steps), x * (1 + 1 / steps) ** steps, rtol=1e-5)
    began = np.arange(steps).sum() / steps**2
    np.testing.assert_allclose(integrate(lambda x, t: jnp.full_like(x, t), x, steps), x + began, rtol=1e-5)


def test_a_flow_without_steps_is_refused():
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        integrate(lambda x, t: x, jnp.zeros(2), 0)


def test_many_plans_of_one_state_have_the_velocities_of_each():
    network = VelocityNetwork(3, (2, 2), width=16, depth=2, key=jax.random.key(0))
    state, plans = jnp.asarray([0.1, -0.4, 2.0]), jax.random.normal(jax.random.key(1), (5, 2, 2))
    t = jnp.asarray(0.3)
    each = jnp.stack([network(state, plan, t) for plan in plans])
    np.testing.assert_allclose(network.many(state, plans, t), each, atol=1e-5)
    assert np.abs(np.diff(each, axis=0)).max() > 1e-3
    assert network.about() == {"width": 16, "depth": 2}


@pytest.mark.long
def test_a_trained_flow_draws_from_the_modes_that_go_with_the_observation():
    """The modes lie at 0.5 and -0.5 where the observation is 1, at 0 where it is -1."""
    rng = np.random.default_rng(0)
    n = 1024
    observations = jnp.asarray(np.where(rng.uniform(size=(n, 1)) < 0.5, 1.0, -1.0), jnp.float32)
    modes = np.where(rng.uniform(size=(n, 1)) < 0.5, 0.5, -0.5) * (np.asarray(observations) > 0)
    plans = jnp.asarray(modes + 0.03 * rng.normal(size=(n, 1)), jnp.float32)[:, None]
    network = VelocityNetwork(1, (1, 1), width=64, depth=2, key=jax.random.key(0))
    arrays, static = eqx.partition(network, eqx.is_array)
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(arrays, keys):
        def step(carry, key):
            arrays, state = carry

            def loss(arrays):
                network = eqx.combine(arrays, static)
                return jnp.mean(flow_losses(network, observations, plans, key))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        return jax.lax.scan(step, (arrays, optimizer.init(arrays)), keys)[0][0]

    network = eqx.combine(train(arrays, jax.random.split(jax.random.key(1), 1500)), static)
    noise = jax.random.normal(jax.random.key(2), (512, 1, 1))

    def drawn(observation: float) -> np.ndarray:
        state = jnp.asarray([observation])
        return np.asarray(integrate(lambda x, t: network.many(state, x, t), noise, 10))[:, 0, 0]

    two = drawn(1.0)
    assert np.mean(np.abs(np.abs(two) - 0.5) < 0.2) > 0.85
    assert 0.4 < np.mean(two > 0) < 0.6
    assert np.mean(np.abs(drawn(-1.0)) < 0.15) > 0.9
