"""Batches for OTPR's updates and potentials, drawn on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.agents.otpr.config import OTPRConfig
from otpr.data.experience import Experience
from otpr.data.row_sets import Marked
from otpr.data.store import Transitions
from otpr.ot import NO_KEYPOINT, TransportProblem, keypoint_mask

if TYPE_CHECKING:
    from otpr.agents.otpr.agent import OTPR


class Pairs(NamedTuple):
    """Pairs for score matching, drawn by compatibility before a block of gradient steps."""

    rows: Int[Array, " n"]  # rows of the store with the states
    states: Float[Array, "n s"]
    plans: Float[Array, "n h a"]
    weights: Float[Array, " n"]  # 1, or 0 for a state without a partner
    support: Float[Array, ""]  # share of positive H; 0: pairs are drawn uniformly
    effective_share: Float[Array, ""]  # effective sample size, as a share of the number


class DrawnPairs(NamedTuple):
    """n pairs of a block, drawn uniformly with replacement."""

    row: Int[Array, " n"]
    state: Float[Array, "n s"]
    plan: Float[Array, "n h a"]
    weight: Float[Array, " n"]


class OTPRBatch(NamedTuple):
    """The batch of one update."""

    replay: Transitions  # (batch_size - demonstrations_in_batch) of the agent's transitions
    demonstrations: Transitions  # demonstrations_in_batch of the experts' transitions
    pairs: DrawnPairs  # as many as `replay` has


def draw_batch(experience: Experience, agent: OTPR, key: PRNGKeyArray) -> OTPRBatch:
    """A batch for `OTPR.update`. The key draws the transitions, and the agent's own key the pairs."""
    replay_key, expert_key = jax.random.split(key)
    n_expert, store = agent.config.demonstrations_in_batch, experience.store
    n_own = agent.config.batch_size - n_expert
    return OTPRBatch(
        replay=store.transitions(_draw_own(experience, replay_key, n_own)),
        demonstrations=experience.sample_demonstrations(expert_key, n_expert),
        pairs=_draw_pairs(agent, n_own),
    )


def _draw_pairs(agent: OTPR, n: int) -> DrawnPairs:
    _, rows_key, _ = jax.random.split(agent.key, 3)  # as `OTPR.update` splits it
    pairs = agent.pairs
    drawn = jax.random.randint(rows_key, (n,), 0, pairs.weights.shape[0])
    return DrawnPairs(pairs.rows[drawn], pairs.states[drawn], pairs.plans[drawn], pairs.weights[drawn])


def _draw_own(experience: Experience, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
    """`n` rows of the agent's own episodes, or of demonstrations while there are none."""
    own, theirs = experience.replay.draw(key, n), experience.demonstrations.draw(key, n)
    return jnp.where(experience.replay.size > 0, own, theirs)


def target_measure(experience: Experience, config: OTPRConfig) -> Marked:
    """The rows of the store at which chunks of the action marginal start.

    With "successes", they belong to successful demonstrations and episodes of the agent. With "replay", they
    belong to the agent's episodes, or to demonstrations while there are none.
    """
    store = experience.store
    if config.target_measure == "successes":
        return Marked.of(store.starts() & store.success, store.mesh)
    own = store.first > jnp.max(experience.demonstrations.rows)
    return Marked.of(store.starts() & (own | (experience.replay.size == 0)), store.mesh)


def draw_problem(
    experience: Experience, targets: Marked, agent: OTPR, key: PRNGKeyArray, n: int
) -> TransportProblem:
    """A transport problem of `n` states and `n` chunks, in random order; see `draw_rows`."""
    rows, columns, mask = draw_rows(experience, targets, agent, key, n)
    store = experience.store
    return TransportProblem(store.states(rows), store.chunks(columns), mask)


def draw_rows(
    experience: Experience, targets: Marked, agent: OTPR, key: PRNGKeyArray, n: int
) -> tuple[Int[Array, " n"], Int[Array, " n"], Array | None]:
    """The rows of a transport problem's states and chunks, and its mask, in random order.

    States are drawn from replay and demonstrations, chunks independently from the target measure. With
    keypoints, some expert pairs are in both samples, and the mask pairs each only with itself.
    """
    config = agent.config
    replay_key, expert_key, action_key, key_key, *order_keys = jax.random.split(key, 6)
    n_expert = round(n * config.demonstration_share)
    n_key = round(n * config.keypoint_share)
    states = jnp.concatenate(
        [
            experience.demonstrations.draw(expert_key, n_expert),
            _draw_own(experience, replay_key, n - n_expert),
        ]
    )
    actions = targets.draw(action_key, n)
    keypoints = _draw_keypoints(experience, agent, key_key, n_key)
    row_order, column_order = (jax.random.permutation(k, n) for k in order_keys)
    ids = jnp.where(jnp.arange(n) < n_key, jnp.arange(n), NO_KEYPOINT)
    rows = jnp.concatenate([keypoints, states[n_key:]])[row_order]
    columns = jnp.concatenate([keypoints, actions[n_key:]])[column_order]
    mask = keypoint_mask(ids[row_order], ids[column_order]) if n_key else None
    return rows, columns, mask


def _draw_keypoints(experience: Experience, agent: OTPR, key: PRNGKeyArray, n: int) -> Int[Array, " n"]:
    pool, store = agent.keypoint_rows, experience.store
    wanted = n if agent.config.keypoint_strategy != "top-q" else TOP_Q * n
    drawn = pool[jax.random.randint(key, (wanted,), 0, pool.shape[0])]
    if agent.config.keypoint_strategy != "top-q":
        return drawn
    _, best = jax.lax.top_k(agent.critics.target.minimum(store.states(drawn), store.chunks(drawn)), n)
    return drawn[best]


TOP_Q = 4
"""The strategy "top-q" draws this many times the number of keypoints and keeps the best."""
