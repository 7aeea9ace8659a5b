from __future__ import annotations

import collections

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otpr.data import replay as replay_module
from otpr.data.chunks import Transitions
from otpr.data.replay import Replay


def numbered(start: int, n: int) -> Transitions:
    """Transitions whose fields all tell their number: widths 2 and 3, the rest scalars."""
    number = np.arange(start, start + n, dtype=np.float32)
    widths = {"observation": 2, "chunk": 3, "next_observation": 2}
    fields = {}
    for place, name in enumerate(Transitions._fields):
        values = number + place / 16  # exact in float32, and no two fields alike
        fields[name] = np.repeat(values[:, None], widths[name], axis=1) if name in widths else values
    return Transitions(**fields)


def stored(replay: Replay) -> list[float]:
    """Numbers of the transitions held, oldest first; checks that no field of a row strays from the others."""
    size, position, capacity = int(replay.size), int(replay.position), replay.capacity
    numbers = np.asarray(replay.data.observation)[:, 0]
    rows = (np.arange(size) + (position if size == capacity else 0)) % capacity
    whole = numbered(0, 10_000)
    for name in Transitions._fields:
        actual = np.asarray(getattr(replay.data, name))
        np.testing.assert_array_equal(
            actual[rows], getattr(whole, name)[numbers[rows].astype(int)], err_msg=name
        )
        assert np.all(actual[size:] == 0)
    return numbers[rows].tolist()


def check_against_deque(capacity: int, additions: list[int]) -> None:
    replay, reference = Replay.create(capacity, 2, 3), collections.deque(maxlen=capacity)
    count = 0
    for n in additions:
        replay = replay.add(numbered(count, n))
        reference.extend(range(count, count + n))
        count += n
        assert stored(replay) == list(reference)
        assert int(replay.size) == len(reference) == min(count, capacity)


@settings(max_examples=25)
@given(capacity=st.sampled_from([1, 5, 8]), additions=st.lists(st.integers(0, 20), max_size=6))
def test_is_a_deque(capacity: int, additions: list[int]) -> None:
    check_against_deque(capacity, additions)


@pytest.mark.parametrize(
    "additions",
    [
        [700],  # all at once, several blocks
        [400, 400],  # wraps round inside a block
        [1500],  # more than there is room for
        [100, 1500, 3],  # the same from the middle
        [256, 256, 188, 1],  # exactly full, then one more
        [699, 2],
    ],
)
def test_is_a_deque_over_several_blocks(additions: list[int]) -> None:
    assert 2 * replay_module._ROWS < 700  # several blocks of insertion, the last one not full
    check_against_deque(700, additions)


def test_sample_returns_only_stored_rows_each_as_often() -> None:
    replay = Replay.create(50, 2, 3).add(numbered(100, 20))  # 30 rows are still empty
    drawn = replay.sample(jax.random.key(0), 4000)
    numbers = np.asarray(drawn.observation)[:, 0]
    assert set(numbers) == set(range(100, 120))
    whole = numbered(0, 200)
    for name in Transitions._fields:  # rows are drawn whole
        np.testing.assert_array_equal(
            getattr(drawn, name), getattr(whole, name)[numbers.astype(int)], err_msg=name
        )
    counts = np.bincount(numbers.astype(int), minlength=120)[100:]
    np.testing.assert_allclose(counts, 200, atol=5 * np.sqrt(200))


def test_sample_after_wrapping_returns_only_the_newest() -> None:
    replay = Replay.create(50, 2, 3).add(numbered(0, 40)).add(numbered(40, 43))
    drawn = replay.sample(jax.random.key(1), 2000)
    assert set(np.asarray(drawn.reward - drawn.reward % 1)) == set(range(33, 83))


def test_sample_depends_on_the_key_alone() -> None:
    replay = Replay.create(50, 2, 3).add(numbered(0, 50))
    first, again, other = (np.asarray(replay.sample(jax.random.key(k), 30).reward) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


def test_an_empty_buffer() -> None:
    replay = Replay.create(7, 2, 3)
    assert int(replay.size) == 0 and replay.capacity == 7
    assert stored(replay.add(numbered(0, 0))) == []
