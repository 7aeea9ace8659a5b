"""Rewards of several subtasks: episodes that pay more than once, and need not end where they succeed."""

from __future__ import annotations

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.spec import Spec
from tiny import chooser

GAMMA = 0.9
SPEC = Spec.flat(2, 1, horizon=4, execute=4)


def episode(rewards: list[float], *, terminated: bool = False, success: bool = False) -> Episode:
    """A chain: the observation is the number of the step."""
    steps = len(rewards)
    return Episode(
        observations={"state": np.tile(np.arange(steps + 1, dtype=np.float32)[:, None], (1, 2))},
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=success,
        seed=0,
    )


ALL_FOUR = episode([0, 1, 0, 2, 0, 0, 1], terminated=True, success=True)  # two in one step
TWO_OF_FOUR = episode([0, 1, 1, 0, 0, 0, 0, 0, 0])  # and cut off
GOES_ON = episode([0, 0, 3, 1, 0, 0, 0, 0, 0], success=True)  # all four, but it does not end there
EPISODES = [ALL_FOUR, TWO_OF_FOUR, GOES_ON]


@pytest.fixture(scope="module")
def staged() -> Experience:
    made = Experience.of([[ALL_FOUR]], (), lambda seen: seen["state"], spec=SPEC, gamma=GAMMA, room=60)
    for each in EPISODES[1:]:
        made = made.add(Collected(each, each.observations["state"]))
    return made


def achieved(each: Episode, start: int, stop: int | None = None) -> float:
    """What is paid from a step on, discounted, step by step."""
    steps = range(start, len(each) if stop is None else min(stop, len(each)))
    return math.fsum(GAMMA ** (t - start) * float(each.rewards[t]) for t in steps)


def rows_and_steps() -> list[tuple[int, Episode, int]]:
    """Where each transition starts in the store, of which episode, at which step."""
    found, at = [], 0
    for each in EPISODES:
        found += [(at + t, each, t) for t in range(len(each))]
        at += len(each) + 1
    return found


def test_chunks_returns_and_discounts_are_those_of_a_loop(staged: Experience) -> None:
    places = rows_and_steps()
    data = staged.store.transitions(jnp.array([row for row, *_ in places]))
    for i, (_, each, t) in enumerate(places):
        assert float(data.reward[i]) == pytest.approx(achieved(each, t, t + 4), rel=1e-6)
        assert float(data.return_to_go[i]) == pytest.approx(achieved(each, t), rel=1e-6)
        # only an end bootstraps nothing: neither a time limit nor a success that goes on is one
        ends = each is ALL_FOUR and t + 4 >= len(each)
        expected = 0.0 if ends else GAMMA ** min(4, len(each) - t)
        assert float(data.discount[i]) == pytest.approx(expected, rel=1e-6)
    assert max(map(float, data.reward)) > 3  # all subtasks but one within a chunk


def test_no_return_is_beyond_the_bounds_and_nor_is_what_a_critic_that_keeps_to_them_learns(
    staged: Experience,
) -> None:
    low, high = (float(bound) for bound in staged.return_bounds())
    paid = [
        achieved(each, t, t + 4)
        / (1 - (0 if each is ALL_FOUR and t + 4 >= 7 else GAMMA ** min(4, len(each) - t)))
        for _, each, t in rows_and_steps()
    ]
    assert (low, high) == pytest.approx((0.0, max(paid)), rel=1e-5)
    assert high >= max(achieved(each, t) for _, each, t in rows_and_steps())
    # targets of Q, from the highest and the lowest values it may have, over and over
    places = rows_and_steps()
    data = staged.store.transitions(jnp.array([row for row, *_ in places]))
    for value in (low, high):
        ahead = np.full(len(places), value)
        for _ in range(50):
            target = np.maximum(
                np.asarray(data.reward + data.discount * ahead), np.asarray(data.return_to_go)
            )
            assert low - 1e-4 <= target.min() and target.max() <= high * (1 + 1e-5)
            ahead = np.full(len(places), target.max())


def test_successes_are_whole_episodes_whether_or_not_they_end_there(staged: Experience) -> None:
    starts = np.asarray(staged.store.starts() & staged.store.success)
    assert list(np.flatnonzero(starts)) == [
        row for row, each, _ in rows_and_steps() if each is not TWO_OF_FOUR
    ]


def test_compatibility_does_not_depend_on_what_a_subtask_pays() -> None:
    """Rewards of 4 in place of 1 make Q, V and the spread of Q four times as large: the cost stays."""
    made = chooser(3, 4, alpha=0.0)
    generator = np.random.default_rng(0)
    states = jnp.asarray(generator.normal(size=(6, 3)), jnp.float32)
    actions = jnp.asarray(generator.normal(size=(6, 4)), jnp.float32)
    cost = made.cost
    q = np.asarray(cost.critic.pairwise_minimum(states, actions), np.float64)
    value = np.array([float(cost.value(state)) for state in states])
    four = eqx.tree_at(lambda of: of.scale, cost, 4 * cost.scale)
    np.testing.assert_allclose(
        four.mix(jnp.asarray(4 * q), jnp.asarray(4 * value)[:, None], jnp.zeros_like(q)),
        cost.pairwise(states, actions),
        rtol=1e-4,
        atol=1e-5,
    )
    wider = eqx.tree_at(lambda of: of.cost, made, four)
    assert np.abs(np.asarray(wider.pairwise(states, actions) - made.pairwise(states, actions))).max() > 1e-3
