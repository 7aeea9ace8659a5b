"""The yardstick of a round: how the authors' release fits the potentials, plainly.

Read off the release of Sun et al., ICML 2025 (docs/fidelity.md): potentials built anew, then 1,000 steps of
Adam at 1e-5, each on 128 states and 128 actions, whose cost is evaluated by the critics pair by pair at every
step. Mask and guiding cost are left out here: they are cheap beside the critics.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from benchmarks.naive import NaiveEnsemble
from otpr.agents.otpr.compatibility import TransportCost
from otpr.ot import Potentials, dual_objective
from otpr.scanning import scan_state

LEARNING_RATE = 1e-5


class PairByPair(eqx.Module):
    """The transport cost, its critics called on concatenated pairs; alpha = 0."""

    cost: TransportCost
    critic: NaiveEnsemble

    @classmethod
    def of(cls, cost: TransportCost) -> PairByPair:
        """The same cost."""
        return cls(cost, NaiveEnsemble.of(cost.critic))

    def pairwise(self, states: Float[Array, "n s"], actions: Float[Array, "m a"]) -> Float[Array, "n m"]:
        """Cost of every pair (s_i, a_j)."""
        q = self.critic.pairwise_minimum(states, actions)
        value = jax.vmap(self.cost.value)(states)[:, None]
        return self.cost.mix(q, value, jnp.zeros_like(q))


@eqx.filter_jit
def fit_potentials(
    potentials: Potentials,
    cost: PairByPair | TransportCost,
    states: Float[Array, "n s"],
    actions: Float[Array, "n a"],
    epsilon: float,
    steps: int,
    batch: int,
    key: PRNGKeyArray,
) -> Potentials:
    """The potentials after `steps` steps of Adam on the dual, each on `batch` states x `batch` actions.

    Args:
        potentials: where to start.
        cost: of every pair; the result does not depend on how it is computed.
        states: from which rows are drawn.
        actions: from which columns are drawn.
        epsilon: strength of the regularisation, in the units of the cost.
        steps: gradient steps.
        batch: rows and columns of a step.
        key: of the draws.
    """
    optimizer = optax.adam(LEARNING_RATE)

    def step(
        carry: tuple[Potentials, optax.OptState], key: PRNGKeyArray
    ) -> tuple[tuple[Potentials, optax.OptState], None]:
        potentials, optimizer_state = carry
        row_key, column_key = jax.random.split(key)
        rows = states[jax.random.randint(row_key, (batch,), 0, states.shape[0])]
        columns = actions[jax.random.randint(column_key, (batch,), 0, actions.shape[0])]
        block = cost.pairwise(rows, columns)

        def loss(potentials: Potentials) -> Array:
            return -dual_objective(potentials.u(rows), potentials.v(columns), block, epsilon)

        gradient = eqx.filter_grad(loss)(potentials)
        updates, optimizer_state = optimizer.update(gradient, optimizer_state)
        return (eqx.apply_updates(potentials, updates), optimizer_state), None

    start = (potentials, optimizer.init(eqx.filter(potentials, eqx.is_array)))
    (potentials, _), _ = scan_state(step, start, jax.random.split(key, steps))
    return potentials
