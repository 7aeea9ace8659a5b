"""The target measure of OTPR and the rows of its transport problems, against loops over episodes."""

from __future__ import annotations

import dataclasses

import bandit
import equinox as eqx
import jax
import numpy as np
import pytest
import reference
import small

from otpr.agents.otpr.batches import draw_batch, draw_problem, draw_rows, target_measure
from otpr.agents.otpr.config import OTPRConfig
from otpr.data.experience import Experience
from otpr.data.row_sets import Marked

CONFIG = OTPRConfig(critic_width=16, potentials_width=16, batch_size=32, pairs=64, ot_block=32)
DRAW = eqx.filter_jit(draw_rows)
PROBLEM = eqx.filter_jit(draw_problem)


@pytest.fixture(scope="module")
def seen() -> Experience:
    return small.experience()


def starts(*, own: bool | None = None, success: bool = False) -> list[int]:
    """Rows at which transitions start, by a loop over the episodes."""
    count = len(small.DEMONSTRATIONS)
    found = []
    for row, each, _ in small.rows_of(small.EPISODES):
        mine = not any(each is other for other in small.EPISODES[:count])
        if (own is None or own == mine) and (each.success or not success):
            found.append(row)
    return found


def members(marked: Marked) -> list[int]:
    return np.flatnonzero(np.diff(np.asarray(marked.count), prepend=0)).tolist()


def test_the_target_measure_is_every_step_of_successes_or_of_the_replay(seen):
    by_success = target_measure(seen, CONFIG)
    assert members(by_success) == starts(success=True)
    by_replay = target_measure(seen, dataclasses.replace(CONFIG, target_measure="replay"))
    assert members(by_replay) == starts(own=True)
    # an episode that terminated without success is none, nor does it hold an episode's last row
    assert 0 < len(starts(success=True)) < len(starts())
    last = np.asarray(seen.store.last)[members(by_success)]
    assert (np.asarray(members(by_success)) < last).all()


def test_while_there_is_no_replay_the_demonstrations_stand_for_it():
    alone = small.experience(())
    config = dataclasses.replace(CONFIG, target_measure="replay")
    assert members(target_measure(alone, config)) == starts(own=False)
    rows, columns, _ = DRAW(
        alone, target_measure(alone, config), small.created(config), jax.random.key(0), 512
    )
    assert set(rows.tolist()) == set(columns.tolist()) == set(starts(own=False))


@pytest.mark.parametrize("measure", ["successes", "replay"])
@pytest.mark.parametrize("keypoint_share", [0.0, 0.25])
def test_rows_of_a_problem_are_of_their_measures(measure, keypoint_share, seen):
    config = dataclasses.replace(
        CONFIG, target_measure=measure, keypoint_share=keypoint_share, demonstration_share=0.5
    )
    agent, n = small.created(config), 64
    targets = target_measure(seen, config)
    allowed = set(starts(success=True) if measure == "successes" else starts(own=True))
    states, chunks = set(), set()
    for seed in range(20):
        rows, columns, mask = DRAW(seen, targets, agent, jax.random.key(seed), n)
        rows, columns = np.asarray(rows), np.asarray(columns)
        tied = np.zeros(n, bool)
        if keypoint_share:
            mask = np.asarray(mask)
            tied = mask.sum(axis=1) == 1
            assert tied.sum() == 16
            for row in np.flatnonzero(tied):  # each meets itself
                assert columns[mask[row].argmax()] == rows[row] in starts(own=False)
            free = mask[:, ~(mask.sum(axis=0) == 1)]
            assert free[~tied].all()
        else:
            assert mask is None
        free_columns = columns if mask is None else columns[mask.sum(axis=0) > 1]
        assert set(free_columns.tolist()) <= allowed
        demonstrated = np.isin(rows[~tied], starts(own=False))
        # half of all, of which the keypoints took the places first
        assert demonstrated.sum() == 32 - tied.sum()
        states |= set(rows[~tied].tolist())
        chunks |= set(free_columns.tolist())
    # all of them are met, and none else: no episode's last row among them
    assert states == set(starts())
    assert chunks == allowed


def test_a_problem_is_the_states_and_the_chunks_of_its_rows(seen):
    config = dataclasses.replace(CONFIG, keypoint_share=0.25)
    agent, key = small.created(config), jax.random.key(2)
    targets = target_measure(seen, config)
    rows, columns, mask = DRAW(seen, targets, agent, key, 64)
    problem = PROBLEM(seen, targets, agent, key, 64)
    by_row = {row: small.walked(each, t) for row, each, t in small.rows_of(small.EPISODES)}
    np.testing.assert_array_equal(problem.states, [by_row[int(row)].state for row in rows])
    np.testing.assert_array_equal(problem.actions, [by_row[int(column)].chunk for column in columns])
    np.testing.assert_array_equal(problem.mask, mask)


def test_a_batch_is_of_the_replay_and_of_the_demonstrations(seen):
    batch = draw_batch(seen, small.created(CONFIG), jax.random.key(0))
    for data, own, n in ((batch.replay, True, 24), (batch.demonstrations, False, 8)):
        known = {
            small.walked(each, t).state.tobytes(): small.walked(each, t)
            for row, each, t in small.rows_of(small.EPISODES)
            if row in starts(own=own)
        }
        assert len(data.reward) == n
        for i in range(n):
            expected = known[np.asarray(data.state[i]).tobytes()]
            for name in set(data._fields) - {"row"}:
                np.testing.assert_allclose(getattr(data, name)[i], getattr(expected, name), rtol=1e-6)
            assert int(data.row[i]) in starts(own=own)


@pytest.fixture(scope="module")
def acted() -> Experience:
    rng = np.random.default_rng(5)
    return bandit.added(bandit.experience(), rng.uniform(-1, 1, 50), rng.uniform(-1, 1, 50))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_batch_may_be_of_one_kind_alone(share, seen):
    agent = small.created(dataclasses.replace(CONFIG, demonstration_share=share))
    batch = draw_batch(seen, agent, jax.random.key(0))
    assert batch.demonstrations.state.shape == (round(32 * share), 6)
    assert batch.replay.plan.shape == (round(32 * (1 - share)), 3, 2)


def test_a_problem_masks_its_keypoints(acted):
    agent = bandit.new_agent(dataclasses.replace(CONFIG, keypoint_share=0.25))
    problem = PROBLEM(acted, target_measure(acted, agent.config), agent, jax.random.key(1), 64)
    mask = np.asarray(problem.mask)
    keypoint_rows = np.flatnonzero(mask.sum(axis=1) == 1)
    assert len(keypoint_rows) == 16
    expert = set(zip(*(np.round(each, 5).tolist() for each in bandit.demonstrated()), strict=True))
    for row in keypoint_rows:
        column = int(np.flatnonzero(mask[row])[0])
        assert mask[:, column].sum() == 1
        # what belongs together in the mask belonged together in a demonstration
        pair = (problem.states[row, 0], problem.actions[column, 0])
        assert tuple(np.round(np.asarray(pair), 5).tolist()) in expert
    free = np.setdiff1d(np.arange(64), keypoint_rows)
    assert mask[free].sum(axis=1).tolist() == [48] * 48
    unmasked = PROBLEM(acted, target_measure(acted, CONFIG), bandit.new_agent(CONFIG), jax.random.key(1), 64)
    assert unmasked.mask is None


def test_top_q_keypoints_are_the_best_of_several_draws(acted):
    def mean_q_of_keypoints(strategy: str) -> float:
        config = dataclasses.replace(CONFIG, keypoint_share=0.5, keypoint_strategy=strategy)
        agent = bandit.new_agent(config)
        problem = PROBLEM(acted, target_measure(acted, config), agent, jax.random.key(1), 128)
        rows, columns = np.nonzero(np.asarray(problem.mask & (problem.mask.sum(1, keepdims=True) == 1)))
        assert len(rows) == 64
        q = reference.q(agent.critics.target, problem.states[rows], problem.actions[columns])
        return float(q.min(0).mean())

    critic = bandit.new_agent(CONFIG).critics.target
    observation, action = (each[:, None] for each in bandit.demonstrated())
    spread = float(reference.q(critic, observation, action).min(0).std())
    assert mean_q_of_keypoints("top-q") > mean_q_of_keypoints("all") + 0.5 * spread
