from __future__ import annotations

import jax
import numpy as np
import pytest

from otpr.data.chunks import chunk_transitions, take
from otpr.data.episodes import Episode
from otpr.data.mixture import Mixture, split
from otpr.errors import OtprError


def episode(label: float, steps: int, reward: float = 0.0) -> Episode:
    """The first entry of each observation says which episode it is of, the second the step."""
    observations = np.stack([np.full(steps + 1, label), np.arange(steps + 1)], axis=1).astype(np.float32)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = reward
    return Episode(observations, np.zeros((steps, 1), np.float32), rewards, False, True, reward > 0, None)


SETS = [[episode(0, 5), episode(1, 45)], [episode(2, 150)], [episode(3, 30), episode(4, 70)]]


def shares(mixture: Mixture, n: int = 20_000) -> np.ndarray:
    drawn = np.asarray(mixture.sample(jax.random.key(0), n).observation)
    assert all(0 <= step < {0: 5, 1: 45, 2: 150, 3: 30, 4: 70}[int(label)] for label, step in drawn)
    return np.bincount(drawn[:, 0].astype(int), minlength=5) / n


def test_without_weights_every_step_is_as_frequent_as_any_other() -> None:
    np.testing.assert_allclose(
        shares(Mixture.of(SETS, (), 2, 1.0)), np.array([5, 45, 150, 30, 70]) / 300, atol=0.01
    )


def test_weights_are_the_shares_of_the_sets_and_steps_within_a_set_are_equally_frequent() -> None:
    expected = np.array([6 * 0.1, 6 * 0.9, 1, 3 * 0.3, 3 * 0.7]) / 10
    np.testing.assert_allclose(shares(Mixture.of(SETS, (6, 1, 3), 2, 1.0)), expected, atol=0.012)


def test_a_single_set_is_drawn_as_plain_transitions_are() -> None:
    part = [episode(7, 20)]
    mixture = Mixture.of([part], (), 3, 0.9)
    transitions = chunk_transitions(part[0], 3, 0.9)
    for one, other in zip(mixture.transitions, transitions, strict=True):
        np.testing.assert_array_equal(one, other)
    key = jax.random.key(4)
    for one, other in zip(mixture.sample(key, 9), take(mixture.transitions, key, 9), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_are_in_the_order_of_sets_and_episodes() -> None:
    labels = np.asarray(Mixture.of(SETS, (1, 1, 1), 2, 1.0).transitions.observation[:, 0])
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2, 3, 4], [5, 45, 150, 30, 70]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2), "2 weights for 3 data sets"),
        ((1, 0, 1), "positive number, given 0"),
        ((1, np.inf, 1), "given inf"),
    ],
)
def test_bad_weights_are_refused(weights, message: str) -> None:
    with pytest.raises(OtprError, match=message):
        Mixture.of(SETS, weights, 2, 1.0)


def test_split_keeps_every_episode_once_and_order() -> None:
    episodes = [episode(i, 3) for i in range(10)]
    kept, held = split(episodes, 0.3, seed=1)
    assert len(held) == 3
    assert sorted(map(id, kept + held)) == sorted(map(id, episodes))
    for part in (kept, held):
        labels = [e.observations[0, 0] for e in part]
        assert labels == sorted(labels)
    assert [id(e) for e in split(episodes, 0.3, seed=1)[1]] == [id(e) for e in held]
    assert any([id(e) for e in split(episodes, 0.3, seed=s)[1]] != [id(e) for e in held] for s in range(2, 6))


def test_split_of_nothing_and_of_too_much() -> None:
    episodes = [episode(i, 3) for i in range(3)]
    assert split(episodes, 0.0, seed=0) == (episodes, [])
    assert len(split(episodes, 0.01, seed=0)[1]) == 1  # asked for, so at least one
    with pytest.raises(OtprError, match="3 of 3 episodes out leaves none"):
        split(episodes, 0.9, seed=0)
    for share in (-0.1, 1.0):
        with pytest.raises(OtprError, match=r"held_out must lie in \[0, 1\)"):
            split(episodes, share, seed=0)
