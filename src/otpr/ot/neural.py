"""Transport between distributions: neural potentials, trained until they generalise to held-out pairs.

The first-order conditions of the dual measure the quality of potentials: the mean of H over all actions must
be 1 for every state, and the mean over all states must be 1 for every action. The deviation from 1 is
measured on a *held-out* sample, because potentials that overfit a few pairs meet the conditions only there.
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

# The state of a fit: the arrays of the potentials, (row error, column error, support), the share of unsolved
# blocks and the number of passes.
_Progress = tuple[Any, tuple[Array, Array, Array], Array, Array]

HELD_OUT = 256
"""Number of states and of actions in the held-out sample; the size of a block where that is larger or masked.
Perfect potentials still have a sampling error there of about 0.8 std(H) / sqrt(HELD_OUT)."""


class NeuralSolution(eqx.Module):
    """The result of `fit`, the counterpart of `DiscreteSolution` for unseen points.

    Attributes:
        potentials: the networks u and v.
        cost: a function from states and actions to c of every pair.
        epsilon: strength of the regularisation, in the units of the cost.
        row_error: mean over the held-out states of |E_a[H] - 1|, the expectation over the held-out actions.
        column_error: the same with states and actions exchanged; for relaxed columns, the column error of
            `relaxed_marginal_errors`.
        support: share of the held-out pairs with H > 0.
        converged: whether the larger of `row_error` and `column_error` is within the tolerance.
        passes: number of passes; 0 if the given potentials met the tolerance.
        unsolved: share of the blocks without an exact solution (no plan fits their mask, or the solver
            reached the limit of precision). They are left out. 0 with the method "ascent".
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
        """The mean of `row_error` and `column_error`, for reports; convergence is judged by both separately.

        With almost free columns, the column error is near 0 and this is about half of the row error.
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
    """Train potentials on fresh blocks, pass after pass, until their held-out errors meet the tolerance.

    "regression" solves each block exactly (`solve_discrete`) and fits u and v to the solutions of all blocks
    of the pass together. "ascent" maximises the dual by stochastic ascent on random tiles of one block after
    the other (Seguy et al., ICLR 2018). If most pairs carry mass, regression has about half the held-out
    error at equal numbers of pairs and steps. If the support almost falls apart, exact potentials differ from
    block to block and ascent is better (docs/devlog/performance.md). Ascent is also the choice if a mask
    requires an H at a keypoint that no smooth potential can represent. Small epsilons need no annealing,
    because the exact solver anneals internally.

    Works under `eqx.filter_jit`. Pass `tolerance` and `max_passes` as arrays to avoid recompiling for new
    values.

    Args:
        potentials: the starting point; the previous potentials if the cost has changed only a little.
        draw: maps a key and n to a fresh sample of n states and n actions.
        cost: maps states and actions to c of every pair.
        epsilon: strength of the regularisation, > 0, in the units of the cost.
        key: draws the samples.
        method: "regression" or "ascent".
        column_relaxation: lambda of `solve_discrete`, in [0, inf]; inf only with "regression".
        block: number of states and of actions in a block. Several small blocks work better than one large
            block with as many pairs.
        blocks: number of blocks in a pass.
        steps: Adam steps in a pass; with "ascent" they are divided evenly among the blocks.
        batch: number of states and of actions in a step; with "ascent" at most `block`.
        learning_rate: of Adam. With "regression" it decays to 0 in each pass.
        tolerance: bound on the held-out row error and on the held-out column error.
        max_passes: the largest number of passes.
        map_blocks: `jax.lax.map` or an equivalent that solves several blocks at a time, e.g. on several
            devices. Used only with "regression".

    Raises:
        ValueError: with "ascent", the batch is larger than a block, there are fewer steps than blocks, or the
            columns are free.
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
    if held_out.mask is not None:  # a keypoint's H depends on the sample's size
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
        # checked separately: the mean would hide an error of the rows if the columns may deviate freely
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
