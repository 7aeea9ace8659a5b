"""Neural potentials u(s), v(a) and the ascent of the dual on a block of pairs whose cost is known.

The cost of a block is computed once, while the critic is frozen, and reused by every step: a step then costs
two small networks on a sub-sample of rows and columns, and no evaluation of the critic.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from otpr.ot.dual import dual_objective
from otpr.scanning import scan_state


class Potentials(eqx.Module):
    """u of a state and v of an action, each a small network, both in the units of the (scaled) cost."""

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
) -> tuple[Potentials, optax.OptState]:
    """Stochastic ascent of the dual: each step takes one (batch x batch) tile of the block.

    The block's rows and columns are taken to be in random order, so that a tile is a fair sample of its
    pairs; slicing a tile is far cheaper than gathering scattered pairs.

    Args:
        potentials: where to start; pass the last round's to start warm.
        cost: c of every pair of the block, `n` states by `m` actions.
        mask: pairs of the block that may carry mass; None allows all.
    """
    if batch > min(cost.shape):
        raise ValueError(f"batch ({batch}) must not exceed the block's rows and columns, {cost.shape}.")
    tiles = jnp.asarray([cost.shape[0] // batch, cost.shape[1] // batch])

    def loss(potentials, row, column):
        def tile(matrix):
            return jax.lax.dynamic_slice(matrix, (row, column), (batch, batch))

        rows = jax.lax.dynamic_slice_in_dim(states, row, batch)
        columns = jax.lax.dynamic_slice_in_dim(actions, column, batch)
        tile_mask = None if mask is None else tile(mask)
        return -dual_objective(potentials.u(rows), potentials.v(columns), tile(cost), epsilon, tile_mask)

    def step(carry, key):
        potentials, optimizer_state = carry
        row, column = jax.random.randint(key, (2,), 0, tiles) * batch
        gradient = eqx.filter_grad(loss)(potentials, row, column)
        updates, optimizer_state = optimizer.update(
            gradient, optimizer_state, eqx.filter(potentials, eqx.is_array)
        )
        return (eqx.apply_updates(potentials, updates), optimizer_state), None

    carry, _ = scan_state(step, (potentials, optimizer_state), jax.random.split(key, steps))
    return carry
