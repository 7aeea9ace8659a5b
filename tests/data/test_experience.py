"""What an agent learns from: which rows are drawn, how often, and what rewards bound."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.data.store import Transitions
from otpr.errors import OtprError
from otpr.spec import Spec

SPEC = Spec.flat(3, 2, history=2, horizon=4, execute=4)


def episode(rewards: list[float], *, terminated: bool = False, label: float = 0.0) -> Episode:
    """The first entry of each observation says which episode it is of, the second the step."""
    steps = len(rewards)
    observations = np.stack([np.full(steps + 1, label), np.arange(steps + 1), np.zeros(steps + 1)], axis=1)
    return Episode(
        observations={"state": observations.astype(np.float32)},
        actions=np.full((steps, 2), label / 100, np.float32),
        rewards=np.asarray(rewards, np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        seed=0,
    )


def labelled(label: float, steps: int) -> Episode:
    return episode([0.0] * steps, label=label)


def features(observations: Mapping[str, np.ndarray]) -> np.ndarray:
    return observations["state"]


def experience(
    sets: list[list[Episode]],
    own: list[Episode],
    *,
    weights: tuple[float, ...] = (),
    gamma: float = 0.9,
    room: int = 200,
) -> Experience:
    made = Experience.of(sets, weights, features, spec=SPEC, gamma=gamma, room=room)
    for each in own:
        made = made.add(Collected(each, features(each.observations)))
    return made


# 10 and 20 demonstrated steps, 30 and 40 of its own
SETS, OWN = [[labelled(0, 10), labelled(1, 20)]], [labelled(2, 30), labelled(3, 40)]
STEPS = np.array([10, 20, 30, 40])


def counts(drawn: Transitions) -> np.ndarray:
    """How often each step of each episode starts a transition, one episode after the other."""
    label, step = np.asarray(drawn.state)[:, 3:5].astype(int).T  # of the last of two observations
    assert (step < STEPS[label]).all()
    np.testing.assert_allclose(drawn.chunk, np.repeat(label[:, None] / 100, 8, axis=1))  # rows are whole
    offsets = np.cumsum(STEPS) - STEPS
    return np.bincount(offsets[label] + step, minlength=STEPS.sum())


def test_drawn_of_all_every_transition_is_as_likely_as_any_other() -> None:
    drawn = experience(SETS, OWN).sample_all(jax.random.key(0), 10_000)
    assert stats.chisquare(counts(drawn)).pvalue > 1e-3


def test_drawn_of_all_while_there_is_no_replay_they_are_demonstrated() -> None:
    drawn = experience(SETS, []).sample_all(jax.random.key(0), 3000)
    found = counts(drawn)
    assert (found[30:] == 0).all()
    assert stats.chisquare(found[:30]).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_drawn_of_both_a_fixed_share_is_demonstrated_in_random_places(share: float) -> None:
    data = experience(SETS, OWN)
    found, places = np.zeros(100), np.zeros(200)
    for seed in range(20):
        drawn = data.sample_both(jax.random.key(seed), 200, share)
        own = np.asarray(drawn.state)[:, 3] >= 2
        assert own.sum() == 200 - round(200 * share)
        found, places = found + counts(drawn), places + own
    if share > 0:
        assert stats.chisquare(found[:30]).pvalue > 1e-3
    if share < 1:
        assert stats.chisquare(found[30:]).pvalue > 1e-3
    if 0 < share < 1:  # of 20 draws each, so rare that every place be told apart from 15 of 20
        assert np.abs(places - 20 * (1 - share)).max() < 20 * (1 - share)
        assert places.std() < 3 * np.sqrt(20 * share * (1 - share))


def test_drawn_of_both_all_are_demonstrated_while_there_is_no_replay() -> None:
    found = counts(experience(SETS, []).sample_both(jax.random.key(0), 3000, 0.25))
    assert (found[30:] == 0).all()
    assert stats.chisquare(found[:30]).pvalue > 1e-3


def test_drawn_of_one_side_none_is_of_the_other() -> None:
    data = experience(SETS, OWN)
    own = counts(data.sample_replay(jax.random.key(1), 7000))
    assert (own[:30] == 0).all()
    assert stats.chisquare(own[30:]).pvalue > 1e-3
    theirs = counts(data.sample_demonstrations(jax.random.key(1), 3000))
    assert (theirs[30:] == 0).all()
    assert stats.chisquare(theirs[:30]).pvalue > 1e-3


def test_demonstrations_are_drawn_by_the_weights_of_their_sets() -> None:
    data = experience([[labelled(0, 10)], [labelled(1, 20)]], OWN, weights=(3.0, 1.0))
    found = counts(data.sample_demonstrations(jax.random.key(0), 4000))
    expected = np.repeat([3000 / 10, 1000 / 20], [10, 20])
    assert stats.chisquare(found[:30], expected).pvalue > 1e-3
    with pytest.raises(OtprError, match="1 weights for 2 data sets"):
        experience([[labelled(0, 10)], [labelled(1, 20)]], [], weights=(3.0,))


def test_draws_depend_on_the_key_alone() -> None:
    data = experience(SETS, OWN)
    first, again, other = (np.asarray(data.sample_all(jax.random.key(k), 30).state) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_room_is_kept_for_what_will_be_done() -> None:
    """So that nothing is compiled anew on the way: as many steps as asked for, and a row an episode."""
    data = experience(SETS, [], room=3200)
    before = data.store.capacity, data.replay.rows.shape
    for i in range(16):
        data = data.add(Collected(labelled(i, 200), features(labelled(i, 200).observations)))
    assert (data.store.capacity, data.replay.rows.shape) == before
    assert int(data.replay.size) == 3200
    more = data.add(Collected(labelled(0, 3000), features(labelled(0, 3000).observations)))
    assert int(more.replay.size) == 6200
    assert more.store.capacity > before[0]


def test_a_store_takes_little_more_than_half_of_what_copies_of_transitions_took() -> None:
    """Transitions held both their states, and successes were copied; see docs/devlog/boundaries.md.

    The numbers of the quickstart: 45,000 rows, 39 features, 4 actions, chunks of 4.
    """
    rows, o, a, h = 45_000, 39, 4, 4
    room = 40_000
    spec = Spec.flat(o, a, horizon=h, execute=h)
    demonstration = Episode(
        {"state": np.zeros((2, o), np.float32)}, np.zeros((1, a), np.float32), np.zeros(1, np.float32),
        True, False, True, None,
    )  # fmt: skip
    made = Experience.of([[demonstration]], (), features, spec=spec, gamma=0.99, room=room)
    here = sum(leaf.nbytes for leaf in jax.tree.leaves(made))
    copied = 4 * (2 * o + h * a + 3)  # observation, next observation, chunk, reward, discount, return
    assert made.store.capacity <= rows
    assert here <= 0.55 * room * copied
    assert here <= 0.55 * 2 * room * copied  # with successes, which had as much room


# ------------------------------------------------------------------------------------- what rewards bound


def bounds(data: Experience) -> tuple[float, float]:
    low, high = data.return_bounds()
    return float(low), float(high)


@pytest.mark.parametrize(
    ("demonstrated", "done", "low", "high"),
    [
        # 1 at the end, which ends the episode: no more than that
        (episode([0, 0, 0, 0, 1], terminated=True), [episode([0] * 9)], 0.0, 1.0),
        # the same reward, but for ever: 1 / (1 - 0.9)
        (episode([0, 1], terminated=True), [episode([1] * 9)], 0.0, 10.0),
        # -1 a step, until it ends or for ever: -1 / (1 - 0.9), and 0 beyond the end
        (episode([-1, -1], terminated=True), [episode([-1] * 9)], -10.0, 0.0),
        # a cost, and a prize that outweighs it
        (episode([-1, 5], terminated=True), [episode([-0.5] * 9)], -5.0, 5.0),
        (episode([0, 0], terminated=True), [], 0.0, 0.0),
    ],
)
def test_bounds_are_those_of_the_returns_that_rewards_allow(
    demonstrated: Episode, done: list[Episode], low: float, high: float
) -> None:
    np.testing.assert_allclose(bounds(experience([[demonstrated]], done)), (low, high), rtol=1e-5)


def by_loop(episodes: list[Episode], h: int, gamma: float) -> tuple[float, float]:
    """The least and the largest R / (1 - D) of all chunks, and 0."""
    found = [0.0]
    for each in episodes:
        T = len(each)
        for start in range(T):
            end = min(start + h, T)
            reward = sum(gamma ** (t - start) * float(each.rewards[t]) for t in range(start, end))
            discount = 0.0 if each.terminated and end == T else gamma ** (end - start)
            found.append(reward / (1 - discount))
    return min(found), max(found)


def random_episodes(generator: np.random.Generator) -> list[Episode]:
    scale, shift = generator.uniform(0.1, 5), generator.uniform(-2, 2)
    return [
        episode(list(generator.normal(shift, scale, 12)), terminated=bool(generator.integers(2)))
        for _ in range(3)
    ]


def test_bounds_against_a_loop_and_no_return_is_beyond_them() -> None:
    """Random rewards, random ends: the exact returns, bootstrapped from any value within, stay within."""
    generator = np.random.default_rng(0)
    prize = episode([0, 1], terminated=True)
    for _ in range(20):
        done = random_episodes(generator)
        data = experience([[prize]], done)
        low, high = bounds(data)
        np.testing.assert_allclose((low, high), by_loop([prize, *done], 4, 0.9), rtol=1e-4)
        own = data.store.transitions(data.replay.rows[: int(data.replay.size)])
        assert len(own.reward) == 36
        for value in (low, high):
            target = np.asarray(own.reward + own.discount * value)
            assert low - 1e-3 <= target.min() and target.max() <= high + 1e-3


def test_without_discount_a_reward_bounds_nothing() -> None:
    data = experience([[episode([0, 0, 1], terminated=True)]], [episode([1] * 5)], gamma=1.0)
    assert bounds(data) == (0.0, np.inf)


def test_bounds_in_compiled_code_are_the_same() -> None:
    data = experience([[episode([-1, 5], terminated=True)]], [episode([-0.5] * 9)])
    np.testing.assert_allclose(jax.jit(Experience.return_bounds)(data), bounds(data), rtol=1e-6)
    assert jnp.isfinite(data.store.return_to_go[: int(data.store.size)]).sum() == 3
