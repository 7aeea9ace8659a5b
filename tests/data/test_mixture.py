from __future__ import annotations

import jax
import numpy as np
import pytest
from scipy import stats

from otpr.data.episodes import Episode
from otpr.data.mixture import Mixture, split
from otpr.errors import OtprError


def episode(label: float, steps: int) -> Episode:
    """Each observation says which episode it is of."""
    zeros = np.zeros(steps, np.float32)
    return Episode(
        {"state": np.full((steps + 1, 1), label, np.float32)}, zeros[:, None], zeros, False, True, False, None
    )


# rows of three data sets, the first and the last of two episodes; between episodes a row starts nothing
EPISODES = [np.arange(0, 5), np.arange(6, 51), np.arange(52, 202), np.arange(203, 233), np.arange(234, 304)]
SETS = [np.concatenate(EPISODES[:2]), EPISODES[2], np.concatenate(EPISODES[3:])]


def counts(mixture: Mixture, n: int = 20_000) -> np.ndarray:
    """How often each row is drawn, set after set."""
    drawn = np.bincount(np.asarray(mixture.draw(jax.random.key(0), n)), minlength=304)
    assert drawn[[5, 51, 202, 233]].sum() == 0
    return drawn[np.concatenate(SETS)]


def test_without_weights_every_step_is_as_frequent_as_any_other() -> None:
    assert stats.chisquare(counts(Mixture.of(SETS))).pvalue > 1e-3


def test_weights_are_the_shares_of_the_sets_and_steps_within_a_set_are_equally_frequent() -> None:
    expected = np.repeat([0.6 / 50, 0.1 / 150, 0.3 / 100], [50, 150, 100])
    assert stats.chisquare(counts(Mixture.of(SETS, (6, 1, 3))), 20_000 * expected).pvalue > 1e-3


def test_a_single_set_is_drawn_as_one_without_a_weight_is() -> None:
    key = jax.random.key(4)
    one, other = Mixture.of([SETS[1]]), Mixture.of([SETS[1]], (3.0,))
    np.testing.assert_array_equal(one.draw(key, 9), other.draw(key, 9))
    again, another = (np.asarray(one.draw(jax.random.key(k), 9)) for k in (4, 5))
    np.testing.assert_array_equal(one.draw(key, 9), again)
    assert np.any(again != another)


def test_rows_are_in_the_order_of_sets_and_episodes() -> None:
    for mixture in (Mixture.of(SETS), Mixture.of(SETS, (1, 1, 1))):
        np.testing.assert_array_equal(mixture.rows, np.concatenate(EPISODES))


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
        Mixture.of(SETS, weights)


def test_split_keeps_every_episode_once_and_order() -> None:
    episodes = [episode(i, 3) for i in range(10)]
    kept, held = split(episodes, 0.3, seed=1)
    assert len(held) == 3
    assert sorted(map(id, kept + held)) == sorted(map(id, episodes))
    for part in (kept, held):
        labels = [e.observations["state"][0, 0] for e in part]
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
