"""The episode store against plain loops over the episodes that were put into it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otpr.data.episodes import Episode
from otpr.data.row_sets import BLOCK, IndexSet
from otpr.data.store import EpisodeStore, Transitions, episode_starts
from otpr.spec import Spec

FEATURES, ACTIONS = 3, 2
GATHER = jax.jit(EpisodeStore.transitions)


def episode(steps: int, *, terminated: bool, seed: int = 0, costs: bool = True) -> Episode:
    rng = np.random.default_rng([seed, steps])
    return Episode(
        observations={"state": rng.normal(size=(steps + 1, FEATURES)).astype(np.float32)},
        actions=rng.uniform(-1, 1, (steps, ACTIONS)).astype(np.float32),
        rewards=rng.uniform(-1 if costs else 0, 2, steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        seed=None,
    )


def spec_of(history: int = 1, horizon: int = 1, execute: int | None = None) -> Spec:
    plan = {"history": history, "horizon": horizon, "execute": execute or horizon}
    return Spec.flat(FEATURES, ACTIONS, **plan)


def store_of(episodes: list[Episode], spec: Spec, gamma: float, capacity: int = 40) -> EpisodeStore:
    """The observations themselves are the features."""
    store = EpisodeStore.empty(spec, gamma, FEATURES, capacity)
    for each in episodes:
        store = store.add(each.observations["state"], each)
    return store


def rows_of(episodes: list[Episode]) -> list[int]:
    """Row numbers of all steps, episode after episode, each with a row more than steps."""
    rows, at = [], 0
    for each in episodes:
        rows += range(at, at + len(each))
        at += len(each) + 1
    return rows


def gathered(store: EpisodeStore, rows: list[int]) -> Transitions:
    """The transitions that start there, on the host."""
    several = rows + rows[:1] * (-len(rows) % 64)  # of few lengths, so that little is compiled
    data = GATHER(store, jnp.asarray(several))
    return Transitions(*(np.asarray(field)[: len(rows)] for field in data))  # pyright: ignore[reportArgumentType]


def by_loop(episode: Episode, spec: Spec, gamma: float) -> list[dict[str, Any]]:
    """The transition that starts at each step, step by step, in float64."""
    T, observations = len(episode), episode.observations["state"]

    def state(t: int) -> np.ndarray:
        seen = [observations[max(t - i, 0)] for i in range(spec.history)]
        return np.concatenate(seen[::-1])

    windows = []
    for start in range(T):
        plan = [episode.actions[min(start + i, T - 1)] for i in range(spec.horizon)]
        rewards, discount, t = [], 1.0, start
        while t < T and t < start + spec.execute:
            rewards.append(discount * float(episode.rewards[t]))
            discount *= gamma
            t += 1
        to_go = math.fsum(gamma ** (i - start) * float(episode.rewards[i]) for i in range(start, T))
        hides_costs = not episode.terminated and min(episode.rewards) < 0
        windows.append(
            {
                "state": state(start),
                "chunk": np.concatenate(plan[: spec.execute]),
                "plan": np.stack(plan),
                "reward": math.fsum(rewards),
                "discount": 0.0 if t == T and episode.terminated else discount,
                "next_state": state(t),
                "return_to_go": -np.inf if hides_costs else to_go,
            }
        )
    return windows


def check_against_loops(
    store: EpisodeStore, episodes: list[Episode], spec: Spec, gamma: float, magnitude: float = 10
) -> None:
    data = gathered(store, rows_of(episodes))
    expected = [window for each in episodes for window in by_loop(each, spec, gamma)]
    np.testing.assert_array_equal(data.row, rows_of(episodes))
    for name in expected[0]:
        actual, wanted = getattr(data, name), np.array([window[name] for window in expected])
        assert actual.dtype == np.float32
        assert actual.shape == wanted.shape
        if name in ("reward", "discount", "return_to_go"):
            np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6 * magnitude, err_msg=name)
        else:  # moved, not computed
            np.testing.assert_array_equal(actual, wanted, err_msg=name)


# history, horizon, execute, discount: some of each, for each of them compiles anew
SETTINGS = [
    (1, 1, 1, 0.99),
    (1, 4, 4, 0.5),
    (2, 6, 3, 0.9),
    (3, 5, 1, 1.0),
    (2, 12, 12, 0.01),
    (1, 5, 2, 1.0),
]
numbers = st.floats(-100, 100, width=32)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps = draw(st.integers(1, 9))
    terminated, cost = draw(st.booleans()), draw(st.booleans())
    return Episode(
        observations={"state": draw(arrays(np.float32, (steps + 1, FEATURES), elements=numbers))},
        actions=draw(arrays(np.float32, (steps, ACTIONS), elements=st.floats(-1, 1, width=32))),
        rewards=draw(arrays(np.float32, steps, elements=numbers if cost else st.floats(0, 1, width=32))),
        terminated=terminated,
        truncated=not terminated or draw(st.booleans()),
        success=terminated,
        seed=None,
    )


@given(given_episodes=st.lists(episodes(), min_size=1, max_size=4), setting=st.sampled_from(SETTINGS))
def test_against_plain_loops(given_episodes: list[Episode], setting: tuple[int, int, int, float]) -> None:
    *plan, gamma = setting
    spec = spec_of(*plan)
    store = store_of(given_episodes, spec, gamma)
    check_against_loops(store, given_episodes, spec, gamma, magnitude=100)
    starts = np.flatnonzero(np.asarray(store.starts()))
    np.testing.assert_array_equal(starts, rows_of(given_episodes))
    lengths = [last - first for first, last in episode_starts(store)]
    assert lengths == [len(each) for each in given_episodes]
    successful = np.asarray(store.success)[starts]
    np.testing.assert_array_equal(
        successful, [each.success for each in given_episodes for _ in range(len(each))]
    )


@pytest.mark.parametrize("capacity", [1, 300, 2000])
def test_against_plain_loops_where_it_grows_and_episodes_are_longer_than_a_block(capacity: int) -> None:
    lengths = [5, BLOCK - 1, BLOCK, BLOCK + 1, 3, 2 * BLOCK + 40, 1]
    long = [episode(n, terminated=i % 2 == 0, seed=i, costs=i % 3 == 0) for i, n in enumerate(lengths)]
    spec, gamma = spec_of(3, 5, 4), 0.97
    store = store_of(long, spec, gamma, capacity)
    assert int(store.size) == sum(lengths) + len(lengths)
    assert store.capacity >= int(store.size)
    assert (store.capacity == capacity) == (capacity == 2000)  # it grew where it had to, and only there
    check_against_loops(store, long, spec, gamma, magnitude=50)


@settings(max_examples=25)
@given(data=st.data())
def test_numbers_are_kept_bit_for_bit_whatever_they_are(data: st.DataObject) -> None:
    # the hard ones too: a store moves numbers, and may not change them
    anything = st.floats(width=32, allow_subnormal=False)  # XLA may flush those to zero
    store, many = store_of([], spec_of(), 1.0), []
    for steps in data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)):
        many.append(data.draw(arrays(np.float32, (steps + 1, FEATURES), elements=anything)))
        store = store.add(many[-1], episode(steps, terminated=True))
    kept = np.asarray(store.features)[: int(store.size)]
    assert kept.tobytes() == np.concatenate(many).tobytes()


def test_the_numbers_of_earlier_episodes_stay_where_they_are() -> None:
    """Row numbers are what replay and demonstrations are made of."""
    spec = spec_of(2, 3)
    before: list[Episode] = []
    store = store_of([], spec, 0.9, capacity=20)
    for seed in range(12):
        before.append(episode(3 + 7 * seed, terminated=seed % 2 == 0, seed=seed))
        store = store.add(before[-1].observations["state"], before[-1])
        first = gathered(store, rows_of(before[:1]))
        for name, expected in by_loop(before[0], spec, 0.9)[1].items():
            np.testing.assert_allclose(getattr(first, name)[1], expected, rtol=1e-5)
    check_against_loops(store, before, spec, 0.9)


def sparse(*, terminated: bool) -> Episode:
    """Five steps, reward 1 at the last; every number says which step it belongs to."""
    return Episode(
        observations={"state": np.repeat(np.arange(6, dtype=np.float32)[:, None], FEATURES, axis=1)},
        actions=np.repeat(np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32), ACTIONS, axis=1),
        rewards=np.array([0, 0, 0, 0, 1], np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=True,
        seed=0,
    )


def of_one(episode: Episode, spec: Spec, gamma: float) -> Transitions:
    return gathered(store_of([episode], spec, gamma), rows_of([episode]))


def test_by_hand() -> None:
    data = of_one(sparse(terminated=True), spec_of(2, 3), 0.5)
    np.testing.assert_allclose(data.reward, [0, 0, 0.25, 0.5, 1])
    np.testing.assert_allclose(data.discount, [0.125, 0.125, 0, 0, 0])
    np.testing.assert_allclose(data.return_to_go, [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1])
    # the first observation repeats before itself
    np.testing.assert_array_equal(data.state[:, [0, FEATURES]], [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]])
    np.testing.assert_array_equal(data.next_state[:, [0, FEATURES]], [[2, 3], [3, 4], [4, 5], [4, 5], [4, 5]])


def test_past_the_end_the_last_action_repeats() -> None:
    data = of_one(sparse(terminated=True), spec_of(1, 3, 2), 0.5)
    expected = [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.3, 0.4, 0.5], [0.4, 0.5, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(data.plan[:, :, 0], expected)
    np.testing.assert_allclose(data.chunk[:, ::ACTIONS], np.array(expected)[:, :2])
    # an episode shorter than a chunk
    short = episode(2, terminated=False)
    first, last = short.actions
    np.testing.assert_array_equal(
        of_one(short, spec_of(1, 4), 0.9).chunk,
        [np.concatenate([first, last, last, last]), np.concatenate([last] * 4)],
    )


def test_plans_may_begin_before_the_present_and_what_is_executed_does_not() -> None:
    spec = dataclasses.replace(spec_of(1, 4, 2), offset=1)
    data = of_one(sparse(terminated=True), spec, 0.5)
    expected = [
        [0.1, 0.1, 0.2, 0.3],  # before the first action it repeats
        [0.1, 0.2, 0.3, 0.4],
        [0.2, 0.3, 0.4, 0.5],
        [0.3, 0.4, 0.5, 0.5],
        [0.4, 0.5, 0.5, 0.5],
    ]
    np.testing.assert_allclose(data.plan[:, :, 0], expected)
    np.testing.assert_allclose(data.chunk[:, ::ACTIONS], np.array(expected)[:, 1:3])
    without = of_one(sparse(terminated=True), spec_of(1, 4, 2), 0.5)
    for name in ("state", "chunk", "reward", "discount", "next_state", "return_to_go"):
        np.testing.assert_array_equal(getattr(data, name), getattr(without, name))


def test_truncation_keeps_its_bootstrap_and_termination_does_not() -> None:
    truncated, terminated = (of_one(sparse(terminated=end), spec_of(1, 3), 0.5) for end in (False, True))
    # at the end only the steps really taken discount
    np.testing.assert_allclose(truncated.discount, [0.125, 0.125, 0.125, 0.25, 0.5])
    np.testing.assert_allclose(terminated.discount, [0.125, 0.125, 0, 0, 0])
    for name in ("state", "chunk", "plan", "reward", "next_state"):
        np.testing.assert_array_equal(getattr(truncated, name), getattr(terminated, name))


@pytest.mark.parametrize("steps", [8, 9, 11])
@pytest.mark.parametrize("terminated", [True, False])
def test_chunk_boundaries(steps: int, terminated: bool) -> None:
    """The windows at 0, h, 2h, ... are those that were executed: together they are the episode."""
    h, gamma = 4, 0.9
    whole = episode(steps, terminated=terminated)
    data = of_one(whole, spec_of(1, h), gamma)
    executed = np.arange(0, steps, h)
    actions = np.asarray(data.chunk)[executed].reshape(-1, ACTIONS)
    np.testing.assert_array_equal(actions[:steps], whole.actions)
    # each starts where the one before ended
    np.testing.assert_array_equal(
        np.asarray(data.next_state)[executed],
        np.concatenate([np.asarray(data.state)[executed[1:]], whole.observations["state"][-1:]]),
    )
    # bootstrapping from chunk to chunk with the true value behind the end gives the true return
    value = behind = 7.0
    for t in executed[::-1]:
        value = float(data.reward[t] + data.discount[t] * value)
    true = whole.rewards @ gamma ** np.arange(steps) + (0 if terminated else gamma**steps * behind)
    assert value == pytest.approx(true, rel=1e-5)


def test_chunks_of_one_step_are_ordinary_transitions() -> None:
    one = episode(6, terminated=False)
    data = of_one(one, spec_of(1, 1), 0.9)
    np.testing.assert_array_equal(data.chunk, one.actions)
    np.testing.assert_array_equal(data.reward, one.rewards)
    np.testing.assert_array_equal(data.next_state, one.observations["state"][1:])
    np.testing.assert_allclose(data.discount, 0.9)


@settings(max_examples=25)
@given(one=episodes(), h=st.sampled_from([1, 4, 12]))
def test_a_chunk_and_its_successor_make_the_return(one: Episode, h: int) -> None:
    """Bellman's equation, over whole chunks: r + discount * (what follows) is the return."""
    data = of_one(one, spec_of(1, h), 0.9)
    if not np.isfinite(data.return_to_go).all():
        return
    following = np.append(data.return_to_go, np.zeros(h, np.float32))[h:]
    expected = data.reward + 0.9**h * following
    np.testing.assert_allclose(data.return_to_go, expected, rtol=1e-4, atol=1e-3)


def test_states_and_chunks_are_those_of_the_transitions() -> None:
    many = [episode(n, terminated=False, seed=n) for n in (4, 9, 2)]
    store = store_of(many, spec_of(3, 4, 2), 0.9)
    rows = jnp.asarray(rows_of(many))
    data = store.transitions(rows)
    np.testing.assert_array_equal(store.states(rows), data.state)
    np.testing.assert_array_equal(store.chunks(rows), data.chunk)
    np.testing.assert_array_equal(store.plans(rows), data.plan)
    assert store.state_dim == data.state.shape[1] == 3 * FEATURES
    # an episode's last observation makes a state too
    np.testing.assert_array_equal(store.states(jnp.asarray([4]))[0], data.next_state[3])


def test_gathering_in_compiled_code_is_the_same() -> None:
    many = [episode(n, terminated=False, seed=n) for n in (4, 9, 2)]
    store, rows = store_of(many, spec_of(2, 4, 2), 0.9), jnp.asarray(rows_of(many))
    compiled = GATHER(store, rows)
    for name, one, other in zip(Transitions._fields, compiled, store.transitions(rows), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, err_msg=name)


def test_an_empty_store_has_no_starts() -> None:
    store = store_of([], spec_of(2, 3), 0.9, capacity=7)
    assert int(store.size) == 0
    assert store.capacity == 7
    assert not np.asarray(store.starts()).any()
    assert episode_starts(store) == []


def test_transitions_are_drawn_whole() -> None:
    many = [episode(n, terminated=True, seed=n) for n in (10, 6)]
    store, indices = store_of(many, spec_of(1, 3), 0.9), IndexSet.empty(20)
    for first, n in ((0, 10), (11, 6)):
        indices = indices.add(np.arange(first, first + n, dtype=np.int32))
    drawn = store.transitions(indices.draw(jax.random.key(0), 200))
    everything = gathered(store, rows_of(many))
    states = np.asarray(everything.state)
    rows = [int(np.abs(states - state).sum(axis=1).argmin()) for state in np.asarray(drawn.state)]
    assert set(rows) == set(range(16))
    for name in Transitions._fields:
        np.testing.assert_allclose(getattr(drawn, name), getattr(everything, name)[rows], rtol=1e-6)
