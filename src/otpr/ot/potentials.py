"""Neural potentials u(s) and v(a), and two ways to train them on blocks of pairs with known costs.

The cost of a block is computed once and reused by every step, so that a step only evaluates two small
networks on some rows and columns. `neural.fit` draws the blocks and decides when to stop.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.ot.discrete import solve_discrete
from otpr.ot.dual import compatibility, dual_objective
from otpr.scanning import scan_state


class TransportProblem(NamedTuple):
    """A transport problem between a sample of states and one of actions, both in random order."""

    states: Float[Array, "n s"]
    actions: Float[Array, "m a"]
    mask: Bool[Array, "n m"] | None = None  # pairs that may carry mass; None allows all


class ExactPotentials(NamedTuple):
    """Target potentials of points, from the exact solutions of their blocks."""

    states: Float[Array, "n s"]
    u: Float[Array, " n"]
    actions: Float[Array, "m a"]
    v: Float[Array, " m"]
    solved: Float[Array, " n"]  # 1, or 0 for points of a block without an exact solution


class Potentials(eqx.Module):
    """The potentials u of a state and v of an action, two small networks in the units of the scaled cost."""

    state_network: eqx.nn.MLP
    action_network: eqx.nn.MLP

    def __init__(self, state_dim: int, action_dim: int, *, width: int, depth: int, key: PRNGKeyArray):
        state_key, action_key = jax.random.split(key)
        self.state_network = eqx.nn.MLP(state_dim, "scalar", width, depth, jax.nn.relu, key=state_key)
        self.action_network = eqx.nn.MLP(action_dim, "scalar", width, depth, jax.nn.relu, key=action_key)

    def u(self, states: Float[Array, "n s"]) -> Float[Array, " n"]:
        """The potential of each state."""
        return jax.vmap(self.state_network)(states)

    def v(self, actions: Float[Array, "m a"]) -> Float[Array, " m"]:
        """The potential of each action."""
        return jax.vmap(self.action_network)(actions)

    def compatibility(
        self,
        states: Float[Array, "n s"],
        actions: Float[Array, "m a"],
        cost: Float[Array, "n m"],
        epsilon: float | Float[Array, ""],
        mask: Bool[Array, "n m"] | None = None,
    ) -> Float[Array, "n m"]:
        """H of every pair (s_i, a_j) for the given cost; 0 outside the mask."""
        return compatibility(self.u(states), self.v(actions), cost, epsilon, mask)


def ascend(
    potentials: Potentials,
    optimizer: optax.GradientTransformation,
    optimizer_state: optax.OptState,
    states: Float[Array, "n s"],
    actions: Float[Array, "m a"],
    cost: Float[Array, "n m"],
    epsilon: float,
    mask: Bool[Array, "n m"] | None,
    *,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
    column_relaxation: float = 0.0,
) -> tuple[Potentials, optax.OptState]:
    """Stochastic ascent of the dual: each step uses one (batch x batch) tile of the block.

    The block's rows and columns must be in random order, so that a tile is a random sample of its pairs.
    Slicing a tile is far cheaper than gathering scattered pairs.

    Args:
        potentials: the starting point; pass the potentials of the previous round for a warm start.
        cost: c of every pair of the block, `n` states by `m` actions.
        mask: pairs of the block that may carry mass; None allows all.
        column_relaxation: see `dual_objective`.
    """
    if batch > min(cost.shape):
        raise ValueError(f"batch ({batch}) must not exceed the block's rows and columns, {cost.shape}.")
    tiles = jnp.asarray([cost.shape[0] // batch, cost.shape[1] // batch])

    def loss(potentials: Potentials, row: Int[Array, ""], column: Int[Array, ""]) -> Float[Array, ""]:
        def tile(matrix: Array) -> Array:
            return jax.lax.dynamic_slice(matrix, (row, column), (batch, batch))

        rows = jax.lax.dynamic_slice_in_dim(states, row, batch)
        columns = jax.lax.dynamic_slice_in_dim(actions, column, batch)
        u, v, tile_mask = potentials.u(rows), potentials.v(columns), None if mask is None else tile(mask)
        return -dual_objective(u, v, tile(cost), epsilon, tile_mask, column_relaxation)

    def step(
        carry: tuple[Potentials, optax.OptState], key: PRNGKeyArray
    ) -> tuple[tuple[Potentials, optax.OptState], None]:
        potentials, optimizer_state = carry
        row, column = jax.random.randint(key, (2,), 0, tiles) * batch
        gradient = eqx.filter_grad(loss)(potentials, row, column)
        updates, optimizer_state = optimizer.update(
            gradient, optimizer_state, eqx.filter(potentials, eqx.is_array)
        )
        return (eqx.apply_updates(potentials, updates), optimizer_state), None

    carry, _ = scan_state(step, (potentials, optimizer_state), jax.random.split(key, steps))
    return carry


def exact_potentials(
    potentials: Potentials,
    problem: TransportProblem,
    cost: Float[Array, "n n"],
    epsilon: float | Float[Array, ""],
    column_relaxation: float = 0.0,
) -> ExactPotentials:
    """The exact potentials of a square block that are nearest to `potentials`.

    With exact columns, potentials are unique only up to (u + a, v - a) on each connected component of the
    support. The block is therefore solved for the correction to `potentials`, normalised to mean 0, so that
    the targets of different blocks are consistent. With relaxed columns the penalty on v makes it unique.
    """
    u, v = potentials.u(problem.states), potentials.v(problem.actions)
    if column_relaxation > 0:
        u, v = jnp.zeros_like(u), jnp.zeros_like(v)
    lack = solve_discrete(
        cost - u[:, None] - v,
        epsilon,
        mask=problem.mask,
        column_relaxation=column_relaxation,
        tolerance=1e-4,
    )
    solved = jnp.broadcast_to(lack.converged.astype(u.dtype), u.shape)
    return ExactPotentials(problem.states, u + lack.u, problem.actions, v + lack.v, solved)


def regress(
    potentials: Potentials,
    exact: ExactPotentials,
    *,
    learning_rate: float,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
) -> Potentials:
    """Fit u and v to exact potentials by least squares, with Adam and cosine decay of the rate to 0.

    Args:
        potentials: the starting point.
        batch: number of states and of actions in a step, drawn with replacement.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss(
        potentials: Potentials, rows: Int[Array, " batch"], columns: Int[Array, " batch"]
    ) -> Float[Array, ""]:
        u_error = potentials.u(exact.states[rows]) - exact.u[rows]
        v_error = potentials.v(exact.actions[columns]) - exact.v[columns]
        return jnp.mean(
            _where(exact.solved[rows], u_error) ** 2 + _where(exact.solved[columns], v_error) ** 2
        )

    def step(
        carry: tuple[Potentials, optax.OptState], key: PRNGKeyArray
    ) -> tuple[tuple[Potentials, optax.OptState], None]:
        potentials, state = carry
        rows, columns = jax.random.randint(key, (2, batch), 0, exact.u.shape[0])
        gradient = eqx.filter_grad(loss)(potentials, rows, columns)
        updates, state = optimizer.update(gradient, state, eqx.filter(potentials, eqx.is_array))
        return (eqx.apply_updates(potentials, updates), state), None

    start = potentials, optimizer.init(eqx.filter(potentials, eqx.is_array))
    (potentials, _), _ = scan_state(step, start, jax.random.split(key, steps))
    return potentials


def _where(solved: Float[Array, " n"], error: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(solved > 0, error, 0.0)  # not a product: an unsolved block's error may be infinite
