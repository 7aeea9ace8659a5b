"""The ascent of neural potentials, on blocks of pairs small enough to know the exact compatibility."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ot_references import solve_dual

from otpr.ot import Potentials, ascend, compatibility, dual_objective, keypoint_mask, marginal_errors

EPSILON = 0.2
OPTIMIZER = optax.adam(2e-3)
run = eqx.filter_jit(ascend)


class Block:
    """n states and n actions in the square, a smooth cost of unit standard deviation, perhaps a mask."""

    def __init__(self, n: int, mask: np.ndarray | None = None, *, bend: float = 0.3):
        rng = np.random.default_rng(0)
        states, actions = rng.uniform(-1, 1, (2, n, 2)).astype(np.float32)
        distance = ((states[:, None] - actions[None]) ** 2).sum(-1)
        cost = distance + bend * np.sin(3 * states[:, None, 0] * actions[None, :, 1])
        self.states, self.actions = jnp.asarray(states), jnp.asarray(actions)
        self.cost = jnp.asarray(cost / cost.std(), jnp.float32)
        self.mask = None if mask is None else jnp.asarray(mask)

    def exact(self) -> tuple[np.ndarray, float]:
        """H and the value of the dual at the optimum."""
        with jax.enable_x64(True):
            cost = jnp.asarray(self.cost, jnp.float64)
            u, v, value = solve_dual(cost, EPSILON, self.mask)
            H = np.asarray(compatibility(u, v, cost, EPSILON, self.mask))
        np.testing.assert_allclose(H.mean(0), 1, atol=1e-6)
        return H, value

    def start(self, optimizer: optax.GradientTransformation = OPTIMIZER) -> tuple[Potentials, optax.OptState]:
        potentials = Potentials(2, 2, width=64, depth=2, key=jax.random.key(0))
        return potentials, optimizer.init(eqx.filter(potentials, eqx.is_array))

    def ascend(self, potentials, state, steps: int, batch: int, seed: int = 0, optimizer=OPTIMIZER):
        return run(
            potentials, optimizer, state, self.states, self.actions, self.cost, EPSILON, self.mask,
            steps=steps, batch=batch, key=jax.random.key(seed),
        )  # fmt: skip

    def value(self, potentials: Potentials) -> float:
        u, v = potentials.u(self.states), potentials.v(self.actions)
        return float(dual_objective(u, v, self.cost, EPSILON, self.mask))

    def compatibility(self, potentials: Potentials) -> np.ndarray:
        u, v = potentials.u(self.states), potentials.v(self.actions)
        return np.asarray(compatibility(u, v, self.cost, EPSILON, self.mask))

    def marginal_error(self, potentials: Potentials) -> float:
        rows, columns = marginal_errors(jnp.asarray(self.compatibility(potentials)))
        return float(rows + columns) / 2


def close_to_exact(block: Block, potentials: Potentials, *, marginal: float, mean: float) -> None:
    exact, value = block.exact()
    H = block.compatibility(potentials)
    assert block.marginal_error(potentials) < marginal
    assert np.abs(H - exact).mean() < mean  # the mean of H itself is 1
    assert value - 0.01 < block.value(potentials) <= value + 1e-5  # never above the optimum


def test_whole_block_at_once_reaches_the_exact_compatibility() -> None:
    block = Block(64)
    potentials, state = block.start()
    assert block.marginal_error(potentials) > 0.3  # far off at the start
    potentials, _ = block.ascend(potentials, state, steps=1500, batch=64)
    close_to_exact(block, potentials, marginal=0.015, mean=0.03)


def test_tiles_reach_the_exact_compatibility_of_the_whole_block() -> None:
    block = Block(96)
    potentials, _ = block.ascend(*block.start(), steps=1500, batch=32)
    close_to_exact(block, potentials, marginal=0.06, mean=0.1)


def test_a_step_follows_the_gradient_of_one_tile_and_every_tile_is_drawn() -> None:
    block = Block(8, np.arange(64).reshape(8, 8) % 3 > 0)
    potentials, _ = block.start()
    flat, unflatten = jax.flatten_util.ravel_pytree(eqx.filter(potentials, eqx.is_array))
    static = eqx.filter(potentials, eqx.is_array, inverse=True)

    @jax.jit
    def gradient(rows, columns):
        def value(flat):
            p = eqx.combine(unflatten(flat), static)
            u, v = p.u(block.states[rows]), p.v(block.actions[columns])
            return dual_objective(u, v, block.cost[rows][:, columns], EPSILON, block.mask[rows][:, columns])

        return jax.grad(value)(flat)

    halves = np.arange(8).reshape(2, 4)
    tiles = np.array([gradient(rows, columns) for rows in halves for columns in halves])
    # the tiles are an unbiased sample of the block
    np.testing.assert_allclose(tiles.mean(0), gradient(np.arange(8), np.arange(8)), atol=1e-5)

    sgd, seen = optax.sgd(1.0), []
    state = sgd.init(eqx.filter(potentials, eqx.is_array))
    one_step = eqx.filter_jit(lambda key: ascend(
        potentials, sgd, state, block.states, block.actions, block.cost, EPSILON, block.mask,
        steps=1, batch=4, key=key,
    ))  # fmt: skip
    for seed in range(40):
        after, _ = one_step(jax.random.key(seed))
        step = jax.flatten_util.ravel_pytree(eqx.filter(after, eqx.is_array))[0] - flat
        distances = np.abs(tiles - np.asarray(step)).max(axis=1)
        assert distances.min() < 1e-5 < 1e-3 < np.sort(distances)[1]
        seen.append(int(distances.argmin()))
    assert min(np.bincount(seen, minlength=4)) >= 3  # of 10 expected


def test_masked_classes() -> None:
    classes = jnp.asarray(np.arange(64) >= 24, jnp.int32)
    block = Block(64, keypoint_mask(classes, classes))
    # at a constant rate the error goes up and down between 0.007 and 0.06, wherever the last step is
    settling = optax.adam(optax.linear_schedule(2e-3, 0, 6000))
    potentials, _ = block.ascend(*block.start(settling), steps=6000, batch=64, optimizer=settling)
    close_to_exact(block, potentials, marginal=0.03, mean=0.08)


def test_keypoints_take_their_rows_and_columns() -> None:
    pairs = [(2, 11), (7, 3), (11, 8)]
    rows, columns = np.full((2, 16), -1)
    for number, (row, column) in enumerate(pairs):
        rows[row] = columns[column] = number
    block = Block(16, keypoint_mask(jnp.asarray(rows), jnp.asarray(columns)))
    potentials, _ = block.ascend(*block.start(), steps=1500, batch=16)
    close_to_exact(block, potentials, marginal=0.03, mean=0.03)
    H = block.compatibility(potentials)
    for row, column in pairs:
        assert H[row, column] == pytest.approx(16, rel=0.03)
        assert np.count_nonzero(H[row]) == np.count_nonzero(H[:, column]) == 1


def test_a_second_call_continues_where_the_first_ended() -> None:
    # With one tile there is nothing random, so two halves are one whole, optimiser included.
    block = Block(32)
    whole, _ = block.ascend(*block.start(), steps=100, batch=32)
    first, state = block.ascend(*block.start(), steps=50, batch=32, seed=1)
    second, state = block.ascend(first, state, steps=50, batch=32, seed=2)
    np.testing.assert_allclose(block.compatibility(second), block.compatibility(whole), atol=1e-4)
    assert np.abs(block.compatibility(first) - block.compatibility(whole)).max() > 0.1
    assert state[0].count == 100


def test_a_warm_start_needs_fewer_steps_than_a_cold_one() -> None:
    before, after = Block(64), Block(64, bend=0.5)  # the critic has moved a little

    def steps_needed(potentials, state) -> int:
        for steps in range(0, 1000, 20):
            if after.marginal_error(potentials) < 0.03:
                return steps
            potentials, state = after.ascend(potentials, state, steps=20, batch=64)
        raise AssertionError("not reached")

    cold = steps_needed(*after.start())
    warm = before.ascend(*before.start(), steps=1000, batch=64)
    assert after.marginal_error(warm[0]) > 0.03  # yesterday's potentials do not solve today's problem
    assert steps_needed(*warm) <= cold // 2


def test_u_and_v_are_networks_of_each_row_alone() -> None:
    block = Block(8)
    potentials, _ = block.start()
    np.testing.assert_allclose(
        potentials.u(block.states), [potentials.state_network(s) for s in block.states], atol=1e-6
    )
    np.testing.assert_allclose(
        potentials.v(block.actions), [potentials.action_network(a) for a in block.actions], atol=1e-6
    )
    # not one network twice: states and actions are different things
    assert np.abs(potentials.u(block.states) - potentials.v(block.states)).max() > 0.01
