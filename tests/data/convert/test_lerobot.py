"""Against a LeRobotDataset that lerobot itself wrote from known numbers: fixtures/make_lerobot.py."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otpr.data.convert import lerobot_tables
from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.errors import OtprError

FIXTURES = Path(__file__).parents[1] / "fixtures"
SET = FIXTURES / "lerobot"


@pytest.fixture(scope="module")
def given() -> list[dict[str, np.ndarray]]:
    """What the library was given, by episode."""
    with np.load(FIXTURES / "lerobot_numbers.npz") as stored:
        arrays = dict(stored)
    ends = np.cumsum(arrays.pop("lengths"))[:-1]
    split = {name: np.split(array, ends) for name, array in arrays.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(len(ends) + 1)]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(SET, tmp_path / "set"))


@pytest.mark.parametrize("rows", [lerobot_tables._ROWS, 4, 1])
def test_every_number_is_what_the_library_was_given(
    given, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_tables, "_ROWS", rows)
    source = open_source(SET)
    assert (source.format, source.task_id) == ("lerobot", None)
    assert source.keys == (("observation.state", 3), ("observation.environment_state", 2))
    recorded = list(source.episodes())
    assert len(list((SET / "data").rglob("*.parquet"))) > 1  # an episode must not be sought in one file alone
    for episode, numbers in zip(recorded, given, strict=True):
        observations = np.hstack([numbers["observation.state"], numbers["observation.environment_state"]])
        np.testing.assert_array_equal(episode.observations, observations)
        np.testing.assert_array_equal(episode.actions, numbers["action"])
        np.testing.assert_array_equal(episode.rewards, numbers["next.reward"][:, 0])
        np.testing.assert_array_equal(episode.success, numbers["next.success"][:, 0])


def test_last_frame_is_left_out_and_success_stays(tmp_path: Path, given) -> None:
    tally = convert(open_source(SET), tmp_path / "out")
    assert (tally.episodes, tally.last_dropped, tally.successes) == (5, 5, 4)
    written = read_dataset(tmp_path / "out")
    assert written.spec.control_rate == json.loads((SET / "meta" / "info.json").read_text())["fps"]
    for episode, numbers in zip(written.episodes, given, strict=True):
        np.testing.assert_array_equal(episode.observations["state"][:, :3], numbers["observation.state"])
        np.testing.assert_array_equal(episode.actions, numbers["action"][:-1])
        solved = bool(numbers["next.success"].any())
        np.testing.assert_array_equal(episode.rewards, [0.0] * (len(episode) - 1) + [float(solved)])
        assert (episode.success, episode.terminated, episode.truncated) == (solved, solved, not solved)


def test_keys_in_the_order_given(given) -> None:
    source = open_source(SET, keys=("observation.force", "observation.state"))
    assert source.keys == (("observation.force", 1), ("observation.state", 3))
    for episode, numbers in zip(source.episodes(), given, strict=True):
        np.testing.assert_array_equal(episode.observations[:, 0], numbers["observation.force"][:, 0])


def without(copy: Path, *names: str) -> None:
    """Take columns and their features out of the set."""
    for file in (copy / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(list(names)), file)
    info = json.loads((copy / "meta" / "info.json").read_text())
    for name in names:
        del info["features"][name]
    (copy / "meta" / "info.json").write_text(json.dumps(info))


def test_sparse_rewards_tell_success_where_nothing_else_does(copy: Path, tmp_path: Path) -> None:
    without(copy, "next.success", "next.done")
    tally = convert(open_source(copy), tmp_path / "out")
    assert tally.told_by == {"a reward of 1, where all others are 0": 5}
    solved = [episode.success for episode in read_dataset(tmp_path / "out").episodes]
    assert solved == [True, True, False, True, True]


def test_without_success_and_rewards_the_user_is_asked(copy: Path, tmp_path: Path) -> None:
    without(copy, "next.success", "next.reward")
    with pytest.raises(OtprError, match=r"episode 0: success unknown.*--assume-success"):
        convert(open_source(copy), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    tally = convert(open_source(copy), tmp_path / "out", rules=Rules(assume_success=True))
    assert (tally.assumed, tally.successes, tally.rewards_made) == (5, 5, 5)
    for episode in read_dataset(tmp_path / "out").episodes:
        assert (episode.rewards.sum(), episode.rewards[-1], episode.terminated) == (1.0, 1.0, True)


def test_fixed_size_lists_and_doubles_are_read_too(copy: Path, given) -> None:
    for file in (copy / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        index = table.schema.get_field_index("action")
        column = table.column("action").cast(pa.list_(pa.float64(), 2))
        pq.write_table(table.set_column(index, "action", column), file)
    for episode, numbers in zip(open_source(copy).episodes(), given, strict=True):
        np.testing.assert_array_equal(episode.actions, numbers["action"])


def test_missing_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(OtprError, match=r"pip install 'otpr\[lerobot\]'"):
        open_source(SET)
