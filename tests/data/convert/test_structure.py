"""Files whose fields are not what they claim: what is certain is read, what is not is refused."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otpr.cli.main import main
from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.inspect import inspect
from otpr.data.loading import DataConfig
from otpr.envs import Setup, TaskSpec, task_spec
from otpr.errors import OtprError
from otpr.spec import Spec

FIXTURES = Path(__file__).parents[1] / "fixtures"


def converted(source: Path | str, out: Path, **rules: Any) -> tuple[list[Episode], list[str]]:
    """The episodes, and what was told of the conversion."""
    opened = open_source(source)
    tally = convert(opened, out, rules=Rules(**rules))
    return read_dataset(out).episodes, [*opened.doubts, *tally.lines()]


def problems(source: Path | str) -> list[str]:
    return inspect(open_source(source)).problems


# ---------------------------------------------------------------------------- D4RL's rows


def d4rl(path: Path, ends: dict[str, list[int]], *, rows: int = 12, **changes: Any) -> dict[str, np.ndarray]:
    """A file as D4RL's, its observations the numbers of the rows, with flags set in some rows."""
    observations = np.arange(rows, dtype=np.float32)[:, None] * [1, -1]
    arrays: dict[str, Any] = {
        "observations": observations,
        "next_observations": observations + np.array([1, -1]),
        "actions": np.linspace(-0.5, 0.5, rows)[:, None],
        "rewards": np.zeros(rows, np.float32),
        "terminals": np.zeros(rows, bool),
        "timeouts": np.zeros(rows, bool),
        **changes,
    }
    for name, where in ends.items():
        arrays[name][where] = 1
    arrays = {name: array for name, array in arrays.items() if array is not None}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip")
    return arrays


def first_row(episode: Episode) -> int:
    return int(episode.observations["state"][0, 0])


def test_rows_that_repeat_the_flag_after_the_end_are_left_out(tmp_path: Path) -> None:
    """A goal is reached in row 3 and the flag stays for two rows; the trajectory goes on from there."""
    path = tmp_path / "set.hdf5"
    d4rl(path, {"terminals": [3, 4, 5, 11], "rewards": [3, 4, 5, 11]})
    episodes, lines = converted(path, tmp_path / "out")
    assert [(first_row(episode), len(episode)) for episode in episodes] == [(0, 4), (6, 6)]
    assert all(episode.success and episode.terminated for episode in episodes)
    np.testing.assert_array_equal(episodes[0].observations["state"][:, 0], [0, 1, 2, 3, 4])
    told = "an end is marked on 2 rows right after an end, first in row 4: the observations go on there"
    assert any(line.startswith(told) for line in lines)
    assert any(told in problem for problem in problems(path))


def test_repeated_flags_without_next_observations_are_left_out_too(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    d4rl(path, {"terminals": [3, 4, 5, 11], "rewards": [3, 4, 5, 11]}, next_observations=None)
    episodes, lines = converted(path, tmp_path / "out")
    assert [(first_row(episode), len(episode)) for episode in episodes] == [(0, 3), (6, 5)]
    assert any("either they repeat the flag" in line for line in lines)
    assert "2 episodes of a single step without the observation after it left out" in lines
    assert any("either they repeat the flag" in problem for problem in problems(path))
    assert any("succeeds in a single step" in problem for problem in problems(path))


def test_episodes_of_one_step_are_episodes(tmp_path: Path) -> None:
    """Where the row after an end does not continue from it, it is another episode."""
    path = tmp_path / "set.hdf5"
    after = np.full((12, 2), -50, np.float32)
    d4rl(path, {"terminals": list(range(12)), "rewards": [1, 5]}, next_observations=after)
    episodes, lines = converted(path, tmp_path / "out")
    assert [len(episode) for episode in episodes] == [1] * 12
    assert [i for i, episode in enumerate(episodes) if episode.success] == [1, 5]
    assert lines == ["success of 12 episodes told by a reward of 1 at a termination"]


def test_an_end_that_is_not_marked(tmp_path: Path) -> None:
    """The second of three episodes has no flag: its last next observation is not the third's first."""
    path = tmp_path / "set.hdf5"
    after = np.arange(1, 13, dtype=np.float32)[:, None] * [1, -1]
    after[[3, 7, 11]] = 100
    d4rl(path, {"timeouts": [3, 11], "rewards": [3, 11]}, next_observations=after)
    place = f"{path}: rows 4 to 11: the next observation of 1 of 8 steps is not the following row, first that"
    with pytest.raises(OtprError, match=r"mark the ends.* --skip-bad leaves out such episodes") as refused:
        converted(path, tmp_path / "out")
    assert str(refused.value).startswith(f"{place} of step 3")
    assert [problem for problem in problems(path) if problem.startswith(place)]
    episodes, lines = converted(path, tmp_path / "out", skip_bad=True)
    assert [(first_row(episode), len(episode)) for episode in episodes] == [(0, 4)]
    assert any(line.startswith("1 episode left out as bad:\n    ") and place in line for line in lines)
    # the advice: the end is marked
    d4rl(path, {"timeouts": [3, 7, 11], "rewards": [3, 11]}, next_observations=after)
    episodes, _ = converted(path, tmp_path / "mended")
    assert [(first_row(episode), len(episode)) for episode in episodes] == [(0, 4), (4, 4), (8, 4)]
    assert [episode.success for episode in episodes] == [True, False, True]


def test_next_observations_of_something_else(tmp_path: Path) -> None:
    """Of normalised observations, say: what follows the last row is not known."""
    path = tmp_path / "set.hdf5"
    arrays = d4rl(path, {"timeouts": [3, 11], "rewards": [3]}, next_observations=np.ones((12, 2)))
    episodes, lines = converted(path, tmp_path / "out")
    assert [len(episode) for episode in episodes] == [3, 7]
    np.testing.assert_array_equal(episodes[1].observations["state"], arrays["observations"][4:12])
    assert [episode.rewards.sum() for episode in episodes] == [1, 0]
    assert "2 episodes whose next observations are not the following rows: these are not used" in lines
    assert any("the next observations of 10 of 10 steps are not the following" in p for p in problems(path))


def test_rounding_of_next_observations_is_none_of_that(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    after = (np.arange(1, 13)[:, None] * [1.0, -1.0]) * (1 + 1e-7)
    d4rl(path, {"timeouts": [3, 11], "rewards": [3]}, next_observations=after)
    assert [len(episode) for episode in converted(path, tmp_path / "out")[0]] == [4, 8]
    assert problems(path) == []


def test_time_limits_stored_as_terminals(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    d4rl(path, {"terminals": [3, 7, 9, 11], "rewards": [9]}, timeouts=None)
    episodes, lines = converted(path, tmp_path / "out")
    assert [(e.terminated, e.truncated, e.success) for e in episodes] == [
        (False, True, False),
        (False, True, False),
        (True, False, True),
        (True, False, False),  # shorter: it failed before the limit
    ]
    assert any(
        line.startswith("2 episodes terminated without success at the longest length") for line in lines
    )
    assert any(
        "of the longest length, 4, are terminated without a known success" in p for p in problems(path)
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("terminals", 0.3, "terminals hold values other than 0 and 1, the first of them 0.3 in row 2"),
        ("timeouts", np.nan, "timeouts hold values other than 0 and 1, the first of them nan in row 2"),
        (
            "success",
            0.5,
            "rows 0 to 5: success hold values other than 0 and 1, the first of them 0.5 in row 2",
        ),
        ("infos/solved", -1, "rows 0 to 5: infos/solved hold values .*, the first of them -1 in row 2"),
    ],
)
def test_flags_of_rows_that_are_none(tmp_path: Path, field: str, value: float, message: str) -> None:
    flags = np.zeros(12)
    flags[[5, 11]] = 1
    flags[2] = value
    d4rl(tmp_path / "set.hdf5", {"timeouts": [5, 11]}, **{field: flags})
    with pytest.raises(OtprError, match=message):
        converted(tmp_path / "set.hdf5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fields_of_success_that_contradict_each_other(tmp_path: Path) -> None:
    one, other = np.zeros(12, bool), np.zeros(12, bool)
    one[4] = True
    path = tmp_path / "set.hdf5"
    d4rl(path, {"timeouts": [5, 11]}, **{"success": one, "infos/is_success": other})
    with pytest.raises(OtprError, match="rows 0 to 5: success and infos/is_success contradict each other"):
        converted(path, tmp_path / "out")
    d4rl(path, {"timeouts": [5, 11]}, **{"success": one, "infos/is_success": one})
    assert [episode.success for episode in converted(path, tmp_path / "out")[0]] == [True, False]


def test_success_of_a_whole_episode_on_each_of_its_steps(tmp_path: Path) -> None:
    path = tmp_path / "set.hdf5"
    d4rl(path, {"timeouts": [5, 11]}, success=np.arange(12) < 6)
    episodes, lines = converted(path, tmp_path / "out", end_at_success=True)
    assert [(len(episode), episode.success) for episode in episodes] == [(6, True), (6, False)]
    assert any("the same on all steps of each episode, and so its label" in line for line in lines)


def test_locomotion_is_refused_and_never_told_to_lose_its_rewards(tmp_path: Path) -> None:
    rewards = np.linspace(1, 3, 12)
    path = tmp_path / "hopper.hdf5"
    d4rl(path, {"terminals": [3], "timeouts": [11]}, rewards=rewards)
    with pytest.raises(OtprError, match=r"paid from the first step on.*--assume-failure") as refused:
        converted(path, tmp_path / "out")
    assert "sparse" not in str(refused.value)
    episodes, lines = converted(path, tmp_path / "out", assume_failure=True)
    assert [(e.success, e.terminated, e.truncated) for e in episodes] == [
        (False, True, False),
        (False, False, True),
    ]
    np.testing.assert_array_equal(np.concatenate([e.rewards for e in episodes]), rewards.astype(np.float32))
    assert not any("sparse" in line for line in lines)


# ---------------------------------------------------------------------------- robomimic


def lift(tmp_path: Path, change: Callable[[h5py.File], None]) -> Path:
    path = Path(shutil.copy(FIXTURES / "lift.hdf5", tmp_path / "lift.hdf5"))
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replaced(group: Any, name: str, value: Any) -> None:
    del group[name]
    group[name] = value


def test_robomimic_s_next_observations_are_compared(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data/demo_2/next_obs/object"][4, 1] += 0.01

    path = lift(tmp_path, change)
    message = (
        "data/demo_2: the next observation of 1 of 28 steps is not the following row, first that of step 4"
    )
    with pytest.raises(OtprError, match=message):
        converted(path, tmp_path / "out")
    assert [message in problem for problem in problems(path)] == [True]
    assert len(converted(path, tmp_path / "out", skip_bad=True)[0]) == 3


@pytest.mark.parametrize(("value", "shown"), [(0.3, "0.3"), (np.nan, "nan"), (2, "2")])
def test_dones_that_are_no_flags(tmp_path: Path, value: float, shown: str) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            del demo["rewards"]
        dones = file["data/demo_10/dones"][()].astype(float)
        dones[3] = value
        replaced(file["data/demo_10"], "dones", dones)

    with pytest.raises(
        OtprError, match=f"demo_10/dones hold values other .*, the first of them {shown} in row 3"
    ):
        converted(lift(tmp_path, change), tmp_path / "out")


def test_dones_at_the_end_of_every_demonstration_say_nothing(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            del demo["rewards"]
            demo["dones"][:] = 0
            demo["dones"][-1] = 1

    path = lift(tmp_path, change)
    with pytest.raises(
        OtprError, match="`dones` are 1 at the end of every episode, whether it was solved or"
    ):
        converted(path, tmp_path / "out")
    episodes, _ = converted(path, tmp_path / "out", assume_success=True)
    assert [episode.success for episode in episodes] == [True] * 4


def test_bad_demonstrations_are_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(file: h5py.File) -> None:
        file["data/demo_0"].pop("obs")  # the first, which tells the layout where it is whole
        file["data/demo_2/actions"][5, 0] = np.nan
        file["data/demo_10/actions"][1, 3] = 1.5

    path = lift(tmp_path, change)
    out = tmp_path / "out"
    assert main(["data", "convert", str(path), "--out", str(out)]) == 2
    assert "--skip-bad leaves out such episodes" in capsys.readouterr().err
    assert not out.exists()
    assert main(["data", "convert", str(path), "--out", str(out), "--skip-bad"]) == 0
    said = capsys.readouterr().out
    assert "- 3 episodes left out as bad:\n" in said
    for reason in (
        "/data/demo_0 has no group 'obs'",
        "data/demo_2: actions hold NaN or infinity, first at step 5",
        "data/demo_10: actions leave [-1, 1], first at step 1 with 1.5",
    ):
        assert reason in said
    (kept,) = read_dataset(out).episodes
    with h5py.File(path) as file:
        np.testing.assert_array_equal(kept.actions, file["data/demo_11/actions"][()].astype(np.float32))
    assert len(problems(path)) == 2  # actions beyond the range are counted apart


def test_all_bad_is_an_error(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        for demo in file["data"].values():
            demo["actions"][0] = np.inf

    with pytest.raises(
        OtprError, match=r"no episode that can be kept, 4 were left out\. The first: .*demo_0"
    ):
        converted(lift(tmp_path, change), tmp_path / "out", skip_bad=True)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- LeRobot


def lerobot(tmp_path: Path, change: Callable[[pa.Table], pa.Table], kind: str | None = None) -> Path:
    """The set with its first file changed, and `next.success` of another type."""
    path = Path(shutil.copytree(FIXTURES / "lerobot", tmp_path / "set"))
    file = path / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    if kind is not None:
        info = json.loads((path / "meta" / "info.json").read_text())
        info["features"]["next.success"]["dtype"] = kind
        (path / "meta" / "info.json").write_text(json.dumps(info))
    return path


def with_value(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table.column(name).to_pylist()
    if isinstance(value, float) and not isinstance(values[0], list):
        values = [float(one) for one in values]
    values[row] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


@pytest.mark.parametrize(("value", "shown"), [(0.3, "0.3"), (float("nan"), "nan")])
def test_next_success_that_is_no_flag(tmp_path: Path, value: float, shown: str) -> None:
    path = lerobot(tmp_path, lambda table: with_value(table, "next.success", 2, value), "float32")
    with pytest.raises(
        OtprError, match=f"episode 0: next.success hold .*, the first of them {shown} in row 2"
    ):
        converted(path, tmp_path / "out")


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("next.success", None, "next.success: has frames without a value"),
        ("action", [0.5], "action: has vectors of different lengths"),
    ],
)
def test_frames_that_are_bad_cost_their_episode(tmp_path: Path, field: str, value: Any, reason: str) -> None:
    path = lerobot(tmp_path, lambda table: with_value(table, field, 1, value))
    whole, _ = converted(FIXTURES / "lerobot", tmp_path / "whole")
    kept, lines = converted(path, tmp_path / "out", skip_bad=True)
    assert len(kept) == len(whole) - 1 == 4
    for one, other in zip(kept, whole[1:], strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
    assert any("1 episode left out as bad:" in line and f"set: episode 0: {reason}" in line for line in lines)


# ---------------------------------------------------------------------------- Minari


class Stay(gymnasium.Env[Any, Any]):
    """Pays 1 on every step at the goal, and goes on: as maze2d, pointmaze and Fetch do."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,))
    action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self, field: str):
        self._field = field

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self._x = float(self.np_random.uniform(-0.1, 0.1))
        return np.array([self._x], np.float32), {self._field: False}

    def step(self, action: Any):
        self._x += 0.1 * float(action[0])
        there = abs(self._x - 0.8) < 0.1
        return np.array([self._x], np.float32), float(there), False, False, {self._field: there}


@pytest.fixture
def stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes a set of three episodes that reach the goal by Minari's own collector, and gives its id."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def make(field: str) -> str:
        env = minari.DataCollector(gymnasium.wrappers.TimeLimit(Stay(field), 20), record_infos=True)
        for seed in range(3):
            observation, _ = env.reset(seed=seed)
            over = False
            while not over:
                wanted = np.clip((0.8 - observation) / 0.1, -1, 1).astype(np.float32)
                observation, _, terminated, truncated, _ = env.step(wanted)
                over = terminated or truncated
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            env.create_dataset("my/stay-v0", algorithm_name="a", author="b")
        env._tmp_dir.cleanup()
        return "my/stay-v0"

    return make


@pytest.mark.parametrize("field", ["success", "is_success", "goal_achieved"])
def test_a_task_that_goes_on_is_kept_whole_whichever_way_it_is_read(
    tmp_path: Path, stays: Callable[[str], str], field: str
) -> None:
    given = stays(field)
    stored = list(minari.load_dataset(given))
    by_conversion, lines = converted(given, tmp_path / "out")
    task = TaskSpec(Setup("my:task"), "", "", True, Spec.flat(1, 1), None, expert=False)
    for read in (by_conversion, read_dataset(given).episodes, read_dataset(given, task=task).episodes):
        for episode, one in zip(read, stored, strict=True):
            assert (len(episode), episode.success) == (20, True)
            assert (episode.terminated, episode.truncated) == (False, True)
            np.testing.assert_array_equal(episode.rewards, one.rewards)
            np.testing.assert_array_equal(episode.observations["state"], one.observations)
    later = sum(19 - int(np.argmax(one.infos[field][1:])) for one in stored)
    told = f"3 episodes with {later} steps after the first success, kept as recorded"
    assert [line.startswith(told) for line in lines].count(True) == 1
    told = f"success of 3 episodes told by infos/{field}"
    assert [line for line in lines if line.startswith("success")] == ([told] if field != "success" else [])
    assert inspect(open_source(given)).success == [True] * 3


def test_a_task_of_ours_ends_at_success_whichever_way_its_data_are_read(
    tmp_path: Path, stays: Callable[[str], str]
) -> None:
    given = stays("success")
    stored = list(minari.load_dataset(given))
    convert(open_source(given), tmp_path / "out", rules=Rules(end_at_success=True))
    for read in (
        read_dataset(tmp_path / "out").episodes,
        read_dataset(given, task=task_spec("robosuite/lift")).episodes,
    ):
        for episode, one in zip(read, stored, strict=True):
            first = int(np.argmax(one.infos["success"][1:])) + 1
            assert (len(episode), episode.success, episode.terminated) == (first, True, True)
            assert episode.rewards.sum() == 1


def test_training_reads_a_set_for_its_task(
    stays: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets, _ = DataConfig((stays("success"),)).read(f"{__name__}:make_stay")
    assert [len(episode) for episode in sets[0]] == [20] * 3


def make_stay() -> gymnasium.Env[Any, Any]:
    return gymnasium.wrappers.TimeLimit(Stay("success"), 20)


def stored_set(path: Path, **changes: Any) -> Path:
    """Another project's set of two episodes of four steps, some fields of the second changed."""
    path.mkdir()
    spaces = {
        "observation_space": gymnasium.spaces.Box(-9, 9, (1,)),
        "action_space": gymnasium.spaces.Box(-1, 1, (1,)),
    }
    storage = minari.dataset.minari_storage.MinariStorage.new(path / "data", **spaces, data_format="hdf5")
    storage.update_metadata({"dataset_id": "other/set-v0", "minari_version": "0.5.3"})
    fields = {
        "observations": np.zeros((5, 1), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.array([0.0, 0.0, 0.0, 1.0]),
        "terminations": np.array([False, False, False, True]),
        "truncations": np.zeros(4, bool),
        "infos": {"success": np.array([False, False, False, False, True])},
    }
    buffer = minari.data_collector.EpisodeBuffer
    storage.update_episodes([buffer(**fields), buffer(**{**fields, **changes})])
    return path


def test_minari_s_flags_after_the_end_are_cut(tmp_path: Path) -> None:
    path = stored_set(
        tmp_path / "other",
        terminations=np.array([False, True, True, True]),
        infos={"success": np.array([0, 0, 1, 1, 1])},
    )
    episodes, lines = converted(path, tmp_path / "out")
    assert [(len(e), e.terminated, e.success) for e in episodes] == [(4, True, True), (2, True, True)]
    assert "1 episode cut at the end: its flag is repeated on 2 later steps" in lines
    assert any("episode 1: 2 steps after its end repeat the flag" in problem for problem in problems(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"terminations": np.array([False, True, False, False])},
            "terminations are 1 in row 1 and 0 in row 2, but an episode ends once",
        ),
        (
            {"truncations": np.array([True, False, False, True])},
            "truncations are 1 in row 0 and 0 in row 1, but an episode ends once",
        ),
        ({"terminations": np.zeros(3, bool)}, "terminations have length 3, expected 4"),
        ({"infos": {"success": np.array([0, 0, 0, 0, np.nan])}}, "infos/success hold .* nan in row 4"),
        ({"infos": {"success": np.zeros(8, bool)}}, "infos/success has length 8, expected 4"),
        ({"infos": {"success": np.zeros((4, 2), bool)}}, r"infos/success: has shape \(4, 2\)"),
        ({"infos": {"success": np.array([b"False"] * 4)}}, "holds dtype .*, expected real numbers"),
        (
            {"infos": {"success": np.zeros(4, bool), "is_success": np.ones(4, bool)}},
            "infos/success and infos/is_success contradict each other",
        ),
    ],
)
def test_minari_s_flags_that_are_none(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = stored_set(tmp_path / "set", **changes)
    with pytest.raises(OtprError, match=f"episode.1.*{message}.*--skip-bad leaves out such episodes"):
        converted(path, tmp_path / "out")
    with pytest.raises(OtprError, match=f"episode.1.*{message}.*`otpr data convert --skip-bad` leaves out"):
        read_dataset(path)
    assert len(converted(path, tmp_path / "out", skip_bad=True)[0]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"terminations": np.array([0, 0, 0, 0.5])}, "terminations hold .* the first of them 0.5 in row 3"),
        ({"infos": {"success": np.array([np.nan, 0.3, 0.3, 1])}}, "infos/success hold .* 0.3 in row 1"),
    ],
)
def test_a_field_of_other_numbers_costs_no_episode_but_the_set(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Shares of success in percent would cost the successes alone."""
    path = stored_set(tmp_path / "set", **changes)
    for rules in ({}, {"skip_bad": True}):
        with pytest.raises(OtprError, match=f"episode 1: {message}; mend the file.$"):
            converted(path, tmp_path / "out", **rules)
    assert any(re.search(message, problem) for problem in problems(path))


def test_training_says_how_to_bring_in_a_set_of_unknown_success(tmp_path: Path) -> None:
    path = stored_set(tmp_path / "set", infos={}, rewards=np.array([0.5, 0.25, 0.5, 0.125]))
    with pytest.raises(
        OtprError, match=r"episode 1: success unknown: the rewards take many values.*data convert"
    ):
        read_dataset(path)
