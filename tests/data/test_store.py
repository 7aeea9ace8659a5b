from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpr.data.chunks import Transitions, chunk_transitions, concatenate, take
from otpr.data.episodes import Episode


def episode(steps: int, *, terminated: bool, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        observations=rng.normal(size=(steps + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.uniform(-1, 2, steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        seed=None,
    )


def by_loop(episode: Episode, h: int, gamma: float) -> list[tuple]:
    """observation, chunk, reward, discount and next observation of each window, step by step."""
    windows, T = [], len(episode)
    for start in range(T):
        chunk, reward, discount, t = [], 0.0, 1.0, start
        for _ in range(h):
            if t < T:
                reward += discount * float(episode.rewards[t])
                discount *= gamma
                t += 1
            chunk.append(
                episode.actions[t - 1] if start + len(chunk) >= T else episode.actions[start + len(chunk)]
            )
        over = t == T and episode.terminated
        observation, following = episode.observations[start], episode.observations[t]
        windows.append((observation, np.concatenate(chunk), reward, 0.0 if over else discount, following))
    return windows


@given(
    steps=st.integers(1, 12),
    h=st.integers(1, 6),
    gamma=st.sampled_from([1.0, 0.99, 0.5]),
    terminated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_against_a_plain_loop(steps: int, h: int, gamma: float, terminated: bool, seed: int) -> None:
    given_episode = episode(steps, terminated=terminated, seed=seed)
    transitions = chunk_transitions(given_episode, h, gamma)
    expected = [np.array(field) for field in zip(*by_loop(given_episode, h, gamma), strict=True)]
    fields = ("observation", "chunk", "reward", "discount", "next_observation")
    for name, values in zip(fields, expected, strict=True):
        actual = getattr(transitions, name)
        assert actual.shape == values.shape, name
        np.testing.assert_allclose(actual, values, rtol=1e-5, atol=1e-6, err_msg=name)
    for field in transitions:
        assert field.dtype == np.float32 and len(field) == steps


def sparse(*, terminated: bool) -> Episode:
    """Five steps, reward 1 at the last; every number says which step it belongs to."""
    return Episode(
        observations=np.arange(6, dtype=np.float32)[:, None],
        actions=np.array([[0.1], [0.2], [0.3], [0.4], [0.5]], np.float32),
        rewards=np.array([0, 0, 0, 0, 1], np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=True,
        seed=0,
    )


def test_by_hand() -> None:
    transitions = chunk_transitions(sparse(terminated=True), 3, 0.5)
    np.testing.assert_allclose(transitions.reward, [0, 0, 0.25, 0.5, 1])
    np.testing.assert_allclose(transitions.discount, [0.125, 0.125, 0, 0, 0])
    np.testing.assert_array_equal(transitions.next_observation[:, 0], [3, 4, 5, 5, 5])
    np.testing.assert_array_equal(transitions.observation[:, 0], [0, 1, 2, 3, 4])


def test_past_the_end_the_last_action_repeats() -> None:
    chunks = chunk_transitions(sparse(terminated=True), 3, 0.5).chunk
    expected = [[0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.3, 0.4, 0.5], [0.4, 0.5, 0.5], [0.5, 0.5, 0.5]]
    np.testing.assert_allclose(chunks, expected)
    # an episode shorter than a chunk
    short = episode(2, terminated=False)
    first, last = short.actions
    np.testing.assert_array_equal(
        chunk_transitions(short, 4, 0.9).chunk,
        [np.concatenate([first, last, last, last]), np.concatenate([last] * 4)],
    )


def test_truncation_keeps_its_bootstrap_and_termination_does_not() -> None:
    truncated = chunk_transitions(sparse(terminated=False), 3, 0.5)
    terminated = chunk_transitions(sparse(terminated=True), 3, 0.5)
    # at the end only the steps really taken discount
    np.testing.assert_allclose(truncated.discount, [0.125, 0.125, 0.125, 0.25, 0.5])
    np.testing.assert_allclose(terminated.discount, [0.125, 0.125, 0, 0, 0])
    for name in ("observation", "chunk", "reward", "next_observation"):
        np.testing.assert_array_equal(getattr(truncated, name), getattr(terminated, name))


@pytest.mark.parametrize("steps", [8, 9, 11])
@pytest.mark.parametrize("terminated", [True, False])
def test_chunk_boundaries(steps: int, terminated: bool) -> None:
    """The windows at 0, h, 2h, ... are those that were executed: together they are the episode."""
    h, gamma = 4, 0.9
    whole = episode(steps, terminated=terminated)
    transitions = chunk_transitions(whole, h, gamma)
    executed = np.arange(0, steps, h)
    actions = transitions.chunk[executed].reshape(-1, 2)
    np.testing.assert_array_equal(actions[:steps], whole.actions)
    # each starts where the one before ended
    np.testing.assert_array_equal(
        transitions.next_observation[executed],
        np.concatenate([transitions.observation[executed[1:]], whole.observations[-1:]]),
    )
    # bootstrapping from chunk to chunk with the true value behind the end gives the true return
    value = behind = 7.0
    for t in executed[::-1]:
        value = transitions.reward[t] + transitions.discount[t] * value
    true = whole.rewards @ gamma ** np.arange(steps) + (0 if terminated else gamma**steps * behind)
    assert value == pytest.approx(true, rel=1e-5)


def test_chunks_of_one_step_are_ordinary_transitions() -> None:
    one = episode(6, terminated=False)
    transitions = chunk_transitions(one, 1, 0.9)
    np.testing.assert_array_equal(transitions.chunk, one.actions)
    np.testing.assert_array_equal(transitions.reward, one.rewards)
    np.testing.assert_array_equal(transitions.next_observation, one.observations[1:])
    np.testing.assert_allclose(transitions.discount, 0.9)


def test_concatenate_keeps_order() -> None:
    parts = [chunk_transitions(episode(steps, terminated=True, seed=steps), 3, 0.9) for steps in (4, 1, 6)]
    together = concatenate(parts)
    assert len(together.reward) == 11
    for name in Transitions._fields:
        np.testing.assert_array_equal(getattr(together, name)[4:5], getattr(parts[1], name))
        np.testing.assert_array_equal(getattr(together, name)[5:], getattr(parts[2], name))


def test_take_draws_whole_rows_uniformly() -> None:
    transitions = jax.tree.map(jnp.asarray, chunk_transitions(episode(10, terminated=True), 3, 0.9))
    drawn = take(transitions, jax.random.key(0), 5000)
    rows = [int(np.argmin(np.abs(transitions.observation - o).sum(axis=1))) for o in drawn.observation[:200]]
    for name in Transitions._fields:
        np.testing.assert_array_equal(getattr(drawn, name)[:200], getattr(transitions, name)[jnp.array(rows)])
    shares = (
        np.asarray(drawn.observation)[:, None, 0] == np.asarray(transitions.observation)[None, :, 0]
    ).mean(0)
    np.testing.assert_allclose(shares, 0.1, atol=4 * np.sqrt(0.1 * 0.9 / 5000))
