"""Plain and D4RL-style dictionaries, and OGBench's, for which OGBench's own loader is the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.errors import OtprError

LENGTHS = (4, 3, 5)


def d4rl(**changes: Any) -> dict[str, np.ndarray]:
    """Three episodes: terminated with reward, timed out, terminated without reward."""
    generator = np.random.default_rng(0)
    n = sum(LENGTHS)
    ends = np.cumsum(LENGTHS) - 1
    observations = generator.standard_normal((n, 3))
    after = np.vstack([observations[1:], observations[:1]])
    after[ends] += 0.5  # what follows an end is in no row
    terminals, timeouts, rewards = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n)
    terminals[ends[[0, 2]]] = True
    timeouts[ends[1]] = True
    rewards[ends[0]] = 1
    arrays = {
        "observations": observations,
        "actions": generator.uniform(-1, 1, (n, 2)),
        "rewards": rewards,
        "terminals": terminals,
        "timeouts": timeouts,
        "next_observations": after,
        **changes,
    }
    return {name: array for name, array in arrays.items() if array is not None}


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file.create_dataset(name, data=array, compression="gzip", chunks=True)
    return path


def parts(array: np.ndarray) -> list[np.ndarray]:
    return np.split(array, np.cumsum(LENGTHS)[:-1])


@pytest.mark.parametrize("name", ["set.npz", "set.hdf5"])
def test_every_number_by_episode(tmp_path: Path, name: str) -> None:
    arrays = d4rl()
    convert(open_source(save(tmp_path / name, arrays)), tmp_path / "out")
    episodes = read_dataset(tmp_path / "out").episodes
    for i, episode in enumerate(episodes):
        observations, actions, rewards, after = (
            parts(arrays[field])[i] for field in ("observations", "actions", "rewards", "next_observations")
        )
        np.testing.assert_array_equal(episode.observations["state"], np.vstack([observations, after[-1:]]))
        np.testing.assert_array_equal(episode.actions, actions.astype(np.float32))
        np.testing.assert_array_equal(episode.rewards, rewards.astype(np.float32))
    assert [episode.terminated for episode in episodes] == [True, False, True]
    assert [episode.truncated for episode in episodes] == [False, True, False]
    assert [episode.success for episode in episodes] == [True, False, False]


@pytest.mark.parametrize("name", ["set.npz", "set.hdf5"])
def test_without_next_observations_the_last_row_goes_and_the_return_stays(tmp_path: Path, name: str) -> None:
    arrays = d4rl(next_observations=None)
    tally = convert(open_source(save(tmp_path / name, arrays)), tmp_path / "out")
    assert tally.last_dropped == 3
    for i, episode in enumerate(read_dataset(tmp_path / "out").episodes):
        np.testing.assert_array_equal(episode.observations["state"], parts(arrays["observations"])[i])
        actions, rewards = (parts(arrays[name].astype(np.float32))[i] for name in ("actions", "rewards"))
        np.testing.assert_array_equal(episode.actions, actions[:-1])
        assert episode.rewards.sum() == rewards.sum()
        assert episode.success == (i == 0)


def test_missing_rewards_are_one_at_the_last_step_of_a_success(tmp_path: Path) -> None:
    timeouts = np.zeros(sum(LENGTHS), bool)
    terminals = d4rl()["terminals"] | d4rl()["timeouts"]
    source = open_source(
        save(tmp_path / "set.npz", d4rl(rewards=None, terminals=terminals, timeouts=timeouts))
    )
    with pytest.raises(OtprError, match="success unknown: neither success nor rewards are recorded"):
        convert(source, tmp_path / "out")  # a terminal state may be a failure
    tally = convert(source, tmp_path / "out", rules=Rules(assume_success=True))
    assert (tally.rewards_made, tally.successes) == (3, 3)
    assert "3 episodes without rewards: 1 at the last step of a success, 0 elsewhere" in tally.lines()
    for episode in read_dataset(tmp_path / "out").episodes:
        assert episode.rewards.tolist() == [0.0] * (len(episode) - 1) + [1.0]


def test_missing_rewards_of_a_timed_out_episode_need_a_word(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "set.npz", d4rl(rewards=None)))
    with pytest.raises(OtprError, match=r"set\.npz: rows 0 to 3: success unknown.*--assume-success"):
        convert(source, tmp_path / "out")
    tally = convert(source, tmp_path / "out", rules=Rules(assume_success=True))
    assert (tally.assumed, tally.successes) == (3, 3)
    assert all(episode.terminated for episode in read_dataset(tmp_path / "out").episodes)


def test_rest_after_the_last_end_is_an_episode_cut_off(tmp_path: Path) -> None:
    terminals = d4rl()["terminals"]
    terminals[-1] = False
    source = open_source(save(tmp_path / "set.npz", d4rl(terminals=terminals)))
    assert source.notes == ("12 rows, 3 episodes", "the last episode has no end: it counts as cut off")
    last = list(source.episodes())[-1]
    assert (last.terminated, last.truncated, len(last.actions)) == (False, True, 5)


def test_episode_of_one_row_without_the_next_is_left_out_and_counted(tmp_path: Path) -> None:
    terminals = d4rl()["terminals"]
    terminals[0] = True
    arrays = d4rl(next_observations=None, terminals=terminals)
    tally = convert(open_source(save(tmp_path / "set.npz", arrays)), tmp_path / "out")
    assert (tally.episodes, tally.too_short) == (3, 1)


@pytest.mark.parametrize("field", ["success", "infos/success", "infos/goal_achieved", "is_success"])
def test_recorded_success_decides_and_may_end_the_episode(tmp_path: Path, field: str) -> None:
    success = np.zeros(sum(LENGTHS), bool)
    success[[9, 10]] = True  # the third and fourth row of the last episode
    source = open_source(save(tmp_path / "set.hdf5", d4rl(**{field: success})))
    tally = convert(source, tmp_path / "whole")
    assert (tally.cut, tally.goes_on, tally.later_steps) == (0, 1, 2)
    assert [len(episode) for episode in read_dataset(tmp_path / "whole").episodes] == [4, 3, 5]
    assert [e.terminated for e in read_dataset(tmp_path / "whole").episodes] == [True, False, True]
    tally = convert(source, tmp_path / "out", rules=Rules(end_at_success=True))
    told = [line for line in tally.lines() if line.startswith("success of 3 episodes told by")]
    assert told == ([] if field.endswith("/success") or field == "success" else [told[0]])
    episodes = read_dataset(tmp_path / "out").episodes
    assert [episode.success for episode in episodes] == [False, False, True]
    assert [len(episode) for episode in episodes] == [4, 3, 3]
    assert (tally.cut, tally.cut_steps) == (1, 2)
    # the observation after the third row is the fourth row's
    np.testing.assert_array_equal(episodes[2].observations["state"][-1], parts(d4rl()["observations"])[2][3])
    assert (episodes[2].terminated, episodes[2].truncated) == (True, False)


def test_keys_choose_arrays_in_their_order(tmp_path: Path) -> None:
    arrays = d4rl(proprio=np.arange(12.0), images=np.zeros((12, 4, 4, 3), np.uint8))
    source = open_source(save(tmp_path / "set.npz", arrays), keys=("proprio", "observations"))
    assert source.keys == (("proprio", 1), ("observations", 3))
    assert source.last_observation is False  # next_observations know nothing of `proprio`
    np.testing.assert_array_equal(next(source.episodes()).observations[:, 0], np.arange(4))


def test_other_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    arrays = d4rl(observations=np.arange(36, dtype=np.int16).reshape(12, 3), next_observations=None)
    arrays["rewards"] = arrays["rewards"][:, None].astype(np.float16)
    arrays["terminals"] = arrays["terminals"].astype(np.float64)
    source = open_source(save(tmp_path / "set.npz", arrays))
    np.testing.assert_array_equal(list(source.episodes())[2].observations, np.arange(21, 36).reshape(5, 3))


# ---------------------------------------------------------------------------- OGBench


def ogbench_file(path: Path) -> Path:
    """As OGBench publishes it: a row a state, the last state of a trajectory marked terminal."""
    generator = np.random.default_rng(1)
    n = sum(LENGTHS)
    terminals = np.zeros(n, np.float32)
    terminals[np.cumsum(LENGTHS) - 1] = 1
    np.savez_compressed(
        path,
        observations=generator.standard_normal((n, 6)).astype(np.float32),
        actions=generator.uniform(-1, 1, (n, 2)).astype(np.float32),
        terminals=terminals,
        qpos=generator.standard_normal((n, 9)),
        qvel=generator.standard_normal((n, 8)),
    )
    return path


def test_ogbench_is_what_its_own_loader_reads(tmp_path: Path) -> None:
    pytest.importorskip("ogbench")
    from ogbench.utils import load_dataset

    file = ogbench_file(tmp_path / "cube-single-play-v0.npz")
    reference = load_dataset(str(file))
    source = open_source(file)
    assert source.format == "ogbench"
    episodes = list(source.episodes())
    np.testing.assert_array_equal(
        np.concatenate([episode.observations[:-1] for episode in episodes]),
        reference["observations"],
    )
    np.testing.assert_array_equal(
        np.concatenate([episode.observations[1:] for episode in episodes]),
        reference["next_observations"],
    )
    np.testing.assert_array_equal(
        np.concatenate([episode.actions for episode in episodes]), reference["actions"]
    )
    assert [len(episode.actions) for episode in episodes] == [length - 1 for length in LENGTHS]
    ends = np.flatnonzero(reference["terminals"])
    assert ends.tolist() == (np.cumsum([length - 1 for length in LENGTHS]) - 1).tolist()
    assert all((episode.terminated, episode.truncated) == (False, True) for episode in episodes)


def test_play_data_need_a_word_on_success(tmp_path: Path) -> None:
    source = open_source(ogbench_file(tmp_path / "play.npz"))
    with pytest.raises(OtprError, match=r"rows 0 to 3: success unknown.*--assume-success"):
        convert(source, tmp_path / "out")
    tally = convert(source, tmp_path / "out", rules=Rules(assume_success=True))
    assert (tally.successes, tally.last_dropped, tally.steps) == (3, 0, sum(LENGTHS) - 3)


def test_same_file_called_npz_ends_in_terminal_states(tmp_path: Path) -> None:
    """What tells them apart is the simulator's state, or the user."""
    with np.load(ogbench_file(tmp_path / "play.npz")) as stored:
        arrays = {name: stored[name] for name in ("observations", "actions", "terminals")}
    plain = save(tmp_path / "plain.npz", arrays)
    assert [episode.terminated for episode in open_source(plain).episodes()] == [True] * 3
    assert [episode.terminated for episode in open_source(plain, "ogbench").episodes()] == [False] * 3


def test_a_file_with_a_simulators_state_is_what_the_user_says(tmp_path: Path) -> None:
    file = ogbench_file(tmp_path / "play.npz")
    assert open_source(file).format == "ogbench"
    plain = open_source(file, "npz")
    assert plain.format == "npz"
    assert [episode.terminated for episode in plain.episodes()] == [True] * 3
