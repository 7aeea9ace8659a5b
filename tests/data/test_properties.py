"""What must hold of replay, chunks and normalisation whatever the numbers, against plain references."""

from __future__ import annotations

import collections
import math

import jax
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from otpr.data.chunks import Transitions, chunk_transitions
from otpr.data.episodes import Episode
from otpr.data.replay import Replay
from otpr.policies.normalization import Normalizer

CAPACITY = 7  # one, for each compiles anew
finite = st.floats(-1e6, 1e6, width=32)
# the hard ones too: replay moves numbers, and may not change them
anything = st.floats(width=32, allow_subnormal=False)  # XLA may flush those to zero


@st.composite
def additions(draw: st.DrawFn) -> list[Transitions]:
    parts = []
    for n in draw(st.lists(st.integers(0, 2 * CAPACITY), max_size=5)):
        widths = {"observation": (2,), "chunk": (3,), "next_observation": (2,)}
        parts.append(
            Transitions(
                **{
                    name: draw(arrays(np.float32, (n, *widths.get(name, ())), elements=anything))
                    for name in Transitions._fields
                }
            )
        )
    return parts


def rows(transitions: Transitions) -> list[bytes]:
    """Each transition's bits."""
    fields = [np.asarray(field) for field in transitions]
    return [b"".join(field[i].tobytes() for field in fields) for i in range(len(fields[0]))]


class TestReplay:
    @settings(max_examples=40)
    @given(parts=additions(), seed=st.integers(0, 2**31 - 1))
    def test_is_a_deque_of_the_newest(self, parts: list[Transitions], seed: int) -> None:
        replay, reference = Replay.create(CAPACITY, 2, 3), collections.deque(maxlen=CAPACITY)
        for part in parts:
            replay = replay.add(part)
            reference.extend(rows(part))
            assert int(replay.size) == len(reference)
        size, position = int(replay.size), int(replay.position)
        assert replay.capacity == CAPACITY and 0 <= position < CAPACITY
        assert position == sum(min(len(rows(part)), CAPACITY) for part in parts) % CAPACITY
        held = rows(replay.data)
        oldest = position if size == CAPACITY else 0
        assert [held[(oldest + i) % CAPACITY] for i in range(size)] == list(reference)
        assert held[size:] == [bytes(len(held[0]))] * (CAPACITY - size)
        if size:
            assert set(rows(replay.sample(jax.random.key(seed), 16))) <= set(reference)


@st.composite
def episodes(draw: st.DrawFn) -> Episode:
    steps = draw(st.integers(1, 9))
    terminated, cost = draw(st.booleans()), draw(st.booleans())
    numbers = st.floats(-100, 100, width=32)
    return Episode(
        observations=draw(arrays(np.float32, (steps + 1, 2), elements=numbers)),
        actions=draw(arrays(np.float32, (steps, 2), elements=st.floats(-1, 1, width=32))),
        rewards=draw(arrays(np.float32, steps, elements=numbers if cost else st.floats(0, 1, width=32))),
        terminated=terminated,
        truncated=not terminated or draw(st.booleans()),
        success=terminated,
        seed=None,
    )


class TestChunks:
    @given(episode=episodes(), h=st.integers(1, 12), gamma=st.sampled_from([1.0, 0.99, 0.5, 0.01]))
    def test_against_two_loops(self, episode: Episode, h: int, gamma: float) -> None:
        T, transitions = len(episode), chunk_transitions(episode, h, gamma)
        assert all(field.dtype == np.float32 and len(field) == T for field in transitions)
        hides_costs = not episode.terminated and min(episode.rewards) < 0
        for start in range(T):
            reward, discount, actions = [], 1.0, []
            end = min(start + h, T)
            for t in range(start, start + h):
                actions.extend(episode.actions[min(t, T - 1)])  # past the end the last one again
                if t < T:
                    reward.append(discount * float(episode.rewards[t]))
                    discount *= gamma
            if episode.terminated and end == T:
                discount = 0.0
            to_go = math.fsum(gamma ** (t - start) * float(episode.rewards[t]) for t in range(start, T))
            np.testing.assert_array_equal(transitions.observation[start], episode.observations[start])
            np.testing.assert_array_equal(transitions.next_observation[start], episode.observations[end])
            np.testing.assert_array_equal(transitions.chunk[start], actions)
            np.testing.assert_allclose(transitions.reward[start], math.fsum(reward), rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(transitions.discount[start], discount, rtol=1e-6)
            expected = -np.inf if hides_costs else to_go
            np.testing.assert_allclose(transitions.return_to_go[start], expected, rtol=1e-5, atol=1e-4)

    @given(episode=episodes(), h=st.integers(1, 12))
    def test_a_chunk_and_its_successor_make_the_return(self, episode: Episode, h: int) -> None:
        """Bellman's equation, over whole chunks: r + discount * (what follows) is the return."""
        gamma, transitions = 0.9, chunk_transitions(episode, h, 0.9)
        if not np.isfinite(transitions.return_to_go).all():
            return
        following = np.append(transitions.return_to_go, np.zeros(h, np.float32))[h:]
        expected = transitions.reward + gamma**h * following
        np.testing.assert_allclose(transitions.return_to_go, expected, rtol=1e-4, atol=1e-3)


ROWS, DIMS = 6, 3
matrices = arrays(np.float32, (ROWS, DIMS), elements=finite)


def as_stated(data: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    wide = data.astype(np.float64)
    mean = np.array([math.fsum(column) / len(column) for column in wide.T])
    deviation = np.array(
        [
            math.sqrt(math.fsum((column - m) ** 2) / len(column))
            for column, m in zip(wide.T, mean, strict=True)
        ]
    )
    return mean, deviation


class TestNormalizer:
    @given(
        data=matrices,
        unit=st.sampled_from([1.0, 1e-4, 1e-8, 1e-9, 1e-10, 1e-12]),
        constant=finite,
        where=st.integers(0, DIMS - 1),
    )
    @example(np.outer([1, -1] * 3, [0.99, 1.01, 50]).astype(np.float32), 1e-4, 0.0, 2)
    def test_fit_is_mean_and_deviation(
        self, data: NDArray[np.float32], unit: float, constant: float, where: int
    ) -> None:
        data = data * np.float32(unit)
        data[:, where] = constant
        normalizer = Normalizer.fit(data)
        assert normalizer.mean.dtype == normalizer.scale.dtype == np.float32
        mean, deviation = as_stated(data)
        largest = np.abs(data).max(axis=0)
        np.testing.assert_allclose(normalizer.mean, mean, rtol=1e-6, atol=1e-12 * largest.max())
        assert float(normalizer.mean[where]) == constant and float(normalizer.scale[where]) == 1.0
        # where rounding decides on which side of 1e-4 a deviation lies, either is right
        sure = np.abs(deviation - 1e-4) > 1e-9 * largest + 1e-12
        expected = np.where(deviation > 1e-4, deviation, 1.0)
        np.testing.assert_allclose(np.asarray(normalizer.scale)[sure], expected[sure], rtol=1e-5)

    @given(data=matrices, seen=matrices)
    def test_is_undone_inside_the_limit_and_clipped_outside(
        self, data: NDArray[np.float32], seen: NDArray[np.float32]
    ) -> None:
        normalizer = Normalizer.fit(data)
        result = np.asarray(normalizer(seen))
        assert result.shape == seen.shape and result.dtype == np.float32
        mean, scale = (np.asarray(x, np.float64) for x in (normalizer.mean, normalizer.scale))
        exact = (seen - mean) / scale
        clipped = np.clip(exact, -Normalizer.LIMIT, Normalizer.LIMIT)
        rounding = 4e-7 * (np.abs(seen) + np.abs(mean)) / scale + 1e-6
        assert (np.abs(result - clipped) <= rounding).all()
        inside = np.abs(exact) < Normalizer.LIMIT - rounding
        back = result * scale + mean
        assert (np.abs(back - seen) <= rounding * scale + 1e-5 * scale)[inside].all()
        assert np.abs(np.asarray(normalizer(data))).max() <= math.sqrt(ROWS) + 1.0
