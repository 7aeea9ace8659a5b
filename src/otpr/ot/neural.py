"""Transport between distributions: neural potentials, trained until they hold on pairs not trained on.

The first-order conditions of the dual say how good potentials are: the mean of H over all actions must be 1
for every state, and over all states for every action. What counts is the distance from 1 on a *held-out*
sample: potentials that were trained long on few pairs satisfy the conditions there and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.ot.dual import relaxed_marginal_errors
from otpr.ot.potentials import (
    ExactPotentials,
    Potentials,
    TransportProblem,
    ascend,
    exact_potentials,
    regress,
)
from otpr.scanning import scan_state

Method = Literal["regression", "ascent"]
Draw = Callable[[PRNGKeyArray, int], TransportProblem]
Cost = Callable[[Float[Array, "n s"], Float[Array, "m a"]], Float[Array, "n m"]]
Map = Callable[[Callable[[Any], Any], Any], Any]

# Of a fit after some passes: the arrays of the potentials, (row error, column error, support), the share of
# unsolved blocks and the number of passes.
_Progress = tuple[Any, tuple[Array, Array, Array], Array, Array]

HELD_OUT = 256
"""States and actions of the held-out sample; a block's where that is larger or masked. Even perfect
potentials show an error there, of about 0.8 std(H) / sqrt(HELD_OUT): its means are taken over a sample."""


class NeuralSolution(eqx.Module):
    """What `fit` found. The same face as a `DiscreteSolution`, for points not seen before.

    Attributes:
        potentials: u and v.
        cost: c of every pair of some states and actions.
        epsilon: strength of the regularisation, in the units of the cost.
        row_error: mean distance from 1 of each held-out state's mean of H over the held-out actions.
        column_error: the same with states and actions exchanged; for relaxed columns the second of
            `relaxed_marginal_errors`.
        support: share of the held-out pairs with H > 0.
        converged: whether the larger of `row_error` and `column_error` is within the tolerance.
        passes: how many were needed, 0 if the potentials given were good enough.
        unsolved: share of the blocks without an exact solution (no plan fits their mask, or precision ended),
            which were left out. 0 with the method "ascent".
    """

    potentials: Potentials
    cost: Cost
    epsilon: Float[Array, ""]
    row_error: Float[Array, ""]
    column_error: Float[Array, ""]
    support: Float[Array, ""]
    converged: Bool[Array, ""]
    passes: Int[Array, ""]
    unsolved: Float[Array, ""]

    @property
    def marginal_error(self) -> Float[Array, ""]:
        """The mean of `row_error` and `column_error`: a number to report, not one to judge by.

        Where columns are all but free their error is near 0, so that this is about half of the row error.
        """
        return (self.row_error + self.column_error) / 2

    def compatibility(
        self,
        states: Float[Array, "n s"],
        actions: Float[Array, "m a"],
        mask: Bool[Array, "n m"] | None = None,
    ) -> Float[Array, "n m"]:
        """H of every pair (s_i, a_j)."""
        cost = self.cost(states, actions)
        return self.potentials.compatibility(states, actions, cost, self.epsilon, mask)


def fit(
    potentials: Potentials,
    draw: Draw,
    cost: Cost,
    epsilon: float,
    *,
    key: PRNGKeyArray,
    method: Method = "regression",
    column_relaxation: float = 0.0,
    block: int = 128,
    blocks: int = 24,
    steps: int = 300,
    batch: int = 256,
    learning_rate: float = 1e-3,
    tolerance: float | Float[Array, ""] = 0.05,
    max_passes: int | Int[Array, ""] = 10,
    map_blocks: Map = jax.lax.map,
) -> NeuralSolution:
    """Train potentials on fresh blocks, pass after pass, until a held-out sample is content with them.

    "regression" solves each block exactly (`solve_discrete`) and fits u and v to the solutions of all blocks
    of the pass together. "ascent" climbs the dual on random tiles of one block after the other (Seguy et al.,
    ICLR 2018). Where most pairs carry mass, regression is left with about half the held-out error from equal
    numbers of pairs and steps; where the support falls almost apart, exact potentials differ from block to
    block and ascent is better (docs/devlog/performance.md). Ascent also serves where a mask asks of a
    keypoint an H that no smooth potential can give. Small epsilons need no annealing: the exact solver does
    that by itself.

    Works under `eqx.filter_jit`. With `tolerance` and `max_passes` as arrays, one program serves all of them.

    Args:
        potentials: where to start; the last ones, where the cost has changed a little since.
        draw: from a key and n to a fresh sample of n states and n actions.
        cost: from states and actions to c of every pair.
        epsilon: strength of the regularisation, > 0, in the units of the cost.
        key: of the draws.
        method: how a pass trains.
        column_relaxation: lambda of `solve_discrete`, in [0, inf]; inf with "regression" alone.
        block: states and actions of a block. Several small blocks beat one large one of as many pairs.
        blocks: in a pass.
        steps: of Adam in a pass; with "ascent" shared evenly by the blocks.
        batch: states and actions of a step. With "ascent" at most `block`.
        learning_rate: of Adam. With "regression" it falls to 0 in each pass.
        tolerance: on the held-out row error and on the column error, each.
        max_passes: passes after which to end, `converged` or not.
        map_blocks: `jax.lax.map`, or what gives the same and solves several blocks at a time, as on several
            devices. With "regression" alone: ascent takes one block after the other.

    Raises:
        ValueError: with "ascent", a batch larger than the block, fewer steps than blocks, or free columns.
    """
    if method == "ascent" and not column_relaxation < jnp.inf:
        raise ValueError(
            "column_relaxation must be finite with 'ascent'; 'regression' takes free columns too."
        )
    if method == "ascent" and steps < blocks:
        raise ValueError(f"steps ({steps}) must be at least the number of blocks ({blocks}) with 'ascent'.")
    arrays, static = eqx.partition(potentials, eqx.is_array)
    held_out_key, key = jax.random.split(key)
    held_out = draw(held_out_key, max(HELD_OUT, block))
    if held_out.mask is not None:  # a keypoint's H is the size of its sample: measure it as it is trained
        held_out = draw(held_out_key, block)
    held_out_cost = cost(held_out.states, held_out.actions)

    def measure(potentials: Potentials) -> tuple[Array, Array, Array]:
        states, actions, mask = held_out
        H = potentials.compatibility(states, actions, held_out_cost, epsilon, mask)
        errors = relaxed_marginal_errors(H, potentials.v(actions), epsilon, column_relaxation)
        return *errors, jnp.mean(H > 0)

    def train(potentials: Potentials, key: PRNGKeyArray) -> tuple[Potentials, Array]:
        draw_key, step_key = jax.random.split(key)
        draw_keys = jax.random.split(draw_key, blocks)
        if method == "regression":

            def drawn(key: PRNGKeyArray) -> TransportProblem:
                return draw(key, block)

            def target(problem: TransportProblem) -> ExactPotentials:
                c = cost(problem.states, problem.actions)
                return exact_potentials(potentials, problem, c, epsilon, column_relaxation)

            def merge(stacked: Array) -> Array:
                return stacked.reshape(-1, *stacked.shape[2:])

            exact = jax.tree.map(merge, map_blocks(target, jax.lax.map(drawn, draw_keys)))
            trained = regress(
                potentials, exact, learning_rate=learning_rate, steps=steps, batch=batch, key=step_key
            )
            return trained, jnp.mean(1 - exact.solved)
        optimizer = optax.adam(learning_rate)

        def climb(
            carry: tuple[Potentials, optax.OptState], keys: Array
        ) -> tuple[tuple[Potentials, optax.OptState], None]:
            potentials, state = carry
            problem = draw(keys[0], block)
            c = cost(problem.states, problem.actions)
            return ascend(
                potentials, optimizer, state, *problem[:2], c, epsilon, problem.mask,
                steps=steps // blocks, batch=batch, key=keys[1], column_relaxation=column_relaxation,
            ), None  # fmt: skip

        start = potentials, optimizer.init(eqx.filter(potentials, eqx.is_array))
        keys = jnp.stack([draw_keys, jax.random.split(step_key, blocks)], axis=1)
        (trained, _), _ = scan_state(climb, start, keys)
        return trained, jnp.zeros(())

    def content(rows: Array, columns: Array) -> Bool[Array, ""]:
        # each for itself: the mean would hide an error of the rows behind columns that are free to deviate
        return (rows <= tolerance) & (columns <= tolerance)

    def unfinished(state: _Progress) -> Bool[Array, ""]:
        _, (rows, columns, _), _, passes = state
        return ~content(rows, columns) & (passes < max_passes)

    def one_pass(state: _Progress) -> _Progress:
        arrays, _, unsolved, passes = state
        trained, share = train(eqx.combine(arrays, static), jax.random.fold_in(key, passes))
        unsolved = unsolved + (share - unsolved) / (passes + 1)
        return eqx.filter(trained, eqx.is_array), measure(trained), unsolved, passes + 1

    start = arrays, measure(potentials), jnp.zeros(()), jnp.zeros((), jnp.int32)
    arrays, (rows, columns, support), unsolved, passes = jax.lax.while_loop(unfinished, one_pass, start)
    return NeuralSolution(
        potentials=eqx.combine(arrays, static),
        cost=cost,
        epsilon=jnp.asarray(epsilon),
        row_error=rows,
        column_error=columns,
        support=support,
        converged=content(rows, columns),
        passes=passes,
        unsolved=unsolved,
    )
