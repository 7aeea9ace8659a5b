from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from otpr.cli.main import main
from otpr.data import frames
from otpr.data.convert.sources import open_source
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.inspect import SAMPLE, Moments, _Reservoir, inspect
from otpr.data.looks import Look
from otpr.data.picture import draw
from otpr.errors import OtprError
from otpr.spec import Entry, Spec

FIXTURES = Path(__file__).parent / "fixtures"


def episodes() -> list[Episode]:
    """Four episodes; the last is a copy of the second, the third fails; the third dimension is constant."""
    generator = np.random.default_rng(0)
    made = []
    for i, steps in enumerate((4, 6, 11)):
        observations = generator.standard_normal((steps + 1, 3)).astype(np.float32)
        observations[:, 2] = 0.25
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = i != 2
        actions = generator.uniform(-0.9, 0.9, (steps, 2)).astype(np.float32)
        actions[0, 1] = 1.0
        made.append(Episode({"state": observations}, actions, rewards, i != 2, i == 2, i != 2, seed=i))
    return [*made, replace(made[1], seed=9)]


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    write_dataset(episodes(), tmp_path / "demos", task_id="metaworld/reach-v3", expert="e", noise=0.0, seed=0)
    return tmp_path / "demos"


def test_numbers_are_those_of_the_episodes(demos: Path) -> None:
    found = inspect(open_source(demos)).as_dict()
    made = episodes()
    observations = np.concatenate([episode.observations["state"] for episode in made]).astype(np.float64)
    actions = np.concatenate([episode.actions for episode in made]).astype(np.float64)
    assert {key: found[key] for key in ("episodes", "steps", "successes", "success_unknown")} == {
        "episodes": 4,
        "steps": 27,
        "successes": 3,
        "success_unknown": 0,
    }
    assert (found["format"], found["task"], found["path"]) == ("minari", "metaworld/reach-v3", str(demos))
    assert found["length"] == {"min": 4, "median": 6, "max": 11}
    assert found["return"] == {"min": 0, "median": 1, "max": 1}
    assert (found["terminated"], found["truncated"]) == (3, 1)
    assert found["spec"] == Spec.flat(3, 2).to_json()
    for rows, values in ((found["observation"], observations), (found["action"], actions)):
        for name, expected in (
            ("min", values.min(axis=0)),
            ("max", values.max(axis=0)),
            ("mean", values.mean(axis=0)),
            ("std", values.std(axis=0)),
        ):
            np.testing.assert_allclose([row[name] for row in rows], expected, rtol=1e-12, atol=1e-12)
    assert [row["constant"] for row in found["observation"]] == [False, False, True]
    assert [row["name"] for row in found["action"]] == ["action[0]", "action[1]"]
    assert [row["saturated"] for row in found["action"]] == [0, pytest.approx(4 / 27)]
    assert found["duplicates"] == [[1, 3]]
    assert (found["problems"], found["problem_count"], found["nan"], found["actions_outside"]) == (
        [],
        0,
        0,
        0,
    )


def test_what_cannot_be_read_is_described(demos: Path) -> None:
    with h5py.File(demos / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/observations"][3, 1] = np.nan
        file["episode_1/observations"][5, 0] = -np.inf
        file["episode_2/actions"][4, 0] = -3.0
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = np.zeros(2)
    with pytest.raises(OtprError):
        read_dataset(demos)
    found = inspect(open_source(demos)).as_dict()
    assert (found["nan"], found["infinite"], found["actions_outside"]) == (1, 1, 1)
    assert found["observation"][1]["nan"] == 1
    assert found["observation"][0]["infinite"] == 1
    assert np.isfinite(found["observation"][0]["min"])
    assert found["problem_count"] == 2
    assert "episode 0: rewards have length 2, expected 4" in found["problems"][0]
    assert (
        "episode 1: observations hold 2 NaN or infinity, first at step 3, dimension 1" in found["problems"][1]
    )
    assert found["duplicates"] == []


def test_many_problems_are_counted_and_ten_told(tmp_path: Path) -> None:
    observations = np.full((40, 1), np.nan)
    np.savez(
        tmp_path / "set.npz",
        observations=observations,
        actions=np.zeros((40, 1)),
        timeouts=np.arange(40) % 2 == 1,
    )
    found = inspect(open_source(tmp_path / "set.npz"))
    assert (found.problem_count, len(found.problems)) == (20, 10)
    row = found.as_dict()["observation"][0]
    assert (row["min"], row["std"], row["nan"], row["constant"]) == (None, None, 40, False)
    draw(found, tmp_path / "empty.png")  # nothing to draw, and no error
    assert (tmp_path / "empty.png").exists()


@pytest.mark.parametrize("name", ["lift.hdf5", "lerobot"])
def test_other_formats_are_described_before_they_are_converted(name: str) -> None:
    found = inspect(open_source(FIXTURES / name)).as_dict()
    assert found["terminated"] is None
    assert found["successes"] == found["episodes"] - 1
    assert found["problem_count"] == 0


def test_moments_in_pieces_are_those_of_the_whole() -> None:
    values = np.random.default_rng(0).standard_normal((1000, 3)) * [1, 1e-3, 1e3] + [0, 1e3, -5]
    moments = Moments(3)
    for piece in np.split(values, [1, 1, 300, 999]):
        moments.add(piece)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0))
    np.testing.assert_allclose(moments.std, values.std(axis=0), rtol=1e-9)


def test_sample_is_even_over_a_long_set() -> None:
    reservoir = _Reservoir()
    for start in range(0, 20 * SAMPLE, 500):
        reservoir.add(np.arange(start, start + 500.0)[:, None])
    rows, progress = reservoir.rows()
    assert rows.shape == (SAMPLE, 1)
    assert (progress.min(), progress.max()) == (0, 1)
    # of a uniform distribution: the standard error of the mean is 20 SAMPLE / sqrt(12 SAMPLE)
    assert abs(rows.mean() - 10 * SAMPLE) < 4 * 20 * SAMPLE / np.sqrt(12 * SAMPLE)
    assert len(np.unique(rows)) == SAMPLE


def test_command_prints_and_draws(demos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = demos.parent / "new" / "set.png"
    assert main(["data", "inspect", str(demos), "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    for line in (
        f"{demos}: minari, task metaworld/reach-v3",
        "episodes      4, 1 of them copies",
        "steps         27",
        "length        4 to 11, median 6",
        "success       3 of 4",
        "ended         3 terminated, 1 truncated",
        "copies        episodes 3 = 1",
        "observation   state: vector (3,) float32",
        "action        2 dimensions, bounds [-1, 1]",
        "control rate  unknown",
        "problems      none",
        f"picture       {picture}",
    ):
        assert line in said.splitlines()
    (constant,) = (line for line in said.splitlines() if line.startswith("observations[2]"))
    assert constant.split() == ["observations[2]", "0.25", "0.25", "0.25", "0", "constant"]
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert image.width > 1000
    assert len(np.unique(pixels, axis=0)) > 500  # a drawing, not an empty page


def test_json_is_json_alone(demos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(demos), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["episodes"], found["duplicates"]) == (4, [[1, 3]])


def test_keys_choose_what_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    lift = str(FIXTURES / "lift.hdf5")
    assert main(["data", "inspect", lift, "--keys", "object", "--json"]) == 0
    told = Spec.from_json(json.loads(capsys.readouterr().out)["spec"])
    assert told.observation == {"state": Entry((10,), "float64")}  # as in the file
    assert told.differences(Spec.flat(10, 7, control_rate=20)) == []


def test_misspelt_names_are_mended(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspct"]) == 2
    assert "Did you mean 'inspect'?" in capsys.readouterr().err
    assert main(["data", "convert", "x", "--assume-succes"]) == 2
    assert "Did you mean '--assume-success'" in capsys.readouterr().err
    assert main(["data", "inspect", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("otpr: No data set at nowhere")


# --------------------------------------------------------------------------------------------------- frames


def with_frames(black: bool = False) -> list[Episode]:
    """Three episodes of 9 steps; of the 30 frames 3 are black, 2 of one colour, 4 as the one before."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(3):
        front = generator.integers(0, 256, (10, 40, 30, 3)).astype(np.uint8)
        front[4, 0, 0] = 0, 200, 0  # as the frames beside it there
        if number == 0:
            front[2] = [3, 0, 5]
            front[3] = [5, 5, 5]
            front[5] = 0
        elif number == 1:
            front[0] = [10, 200, 30]
            front[1] = [10, 200, 30]
            front[7] = front[8] = front[9] = front[6]
        if black:
            front[:] = 0
        made.append(
            Episode(
                {"front": front, "state": generator.standard_normal((10, 3)).astype(np.float32)},
                generator.uniform(-0.9, 0.9, (9, 2)).astype(np.float32),
                np.eye(1, 9, 8, dtype=np.float32)[0],
                terminated=True,
                truncated=False,
                success=True,
                seed=number,
            )
        )
    return made


@pytest.mark.parametrize("at_once", [1, 10_000, 2**24])
def test_shares_of_frames_are_counted(tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "_AT_ONCE", at_once)
    write_dataset(with_frames(), tmp_path / "set", task_id=None, expert="e", noise=0.0, seed=0)
    found = inspect(open_source(tmp_path / "set")).as_dict()
    assert found["images"] == [
        {
            "name": "front",
            "shape": [40, 30, 3],
            "frames": 30,
            "black": pytest.approx(3 / 30),
            "one_colour": pytest.approx(2 / 30),
            "repeated": pytest.approx(4 / 30),
        }
    ]
    assert found["problems"] == []


def test_episodes_without_light_are_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(with_frames(black=True), tmp_path / "set", task_id=None, expert="e", noise=0.0, seed=0)
    main(["data", "inspect", str(tmp_path / "set")])
    printed = capsys.readouterr().out
    assert "problems      3; the first:" in printed
    assert "episode 2: every frame of front is black" in printed
    row = next(line for line in printed.splitlines() if line.startswith("front "))
    assert row.split() == ["front", "40", "x", "30", "x", "3", "30", "100.0%", "0.0%", "90.0%"]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


@pytest.mark.long
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_picture_has_a_strip_of_each_camera(tmp_path: Path, channels: int) -> None:
    """Eight frames from the first to the last of three episodes, in their own colours."""
    episodes = []
    for episode in with_frames():
        colours = np.linspace(0, 240, 10).astype(np.uint8)
        front = np.broadcast_to(colours[:, None, None, None], (10, 40, 30, channels)).copy()
        if channels > 1:
            front[..., 1] = 255 - front[..., 0]
        episodes.append(replace(episode, observations={**episode.observations, "front": front}))
    write_dataset(episodes, tmp_path / "set", task_id=None, expert="e", noise=0.0, seed=0)
    found = inspect(open_source(tmp_path / "set"))
    strips = found.looks["front"].strips
    assert [strip.shape for strip in strips] == [(8, 40, 30, channels)] * 3
    chosen = [0, 1, 3, 4, 5, 6, 8, 9]
    assert strips[0][:, 0, 0, 0].tolist() == colours[chosen].tolist()
    draw(found, tmp_path / "picture.png")
    whole = pixels(tmp_path / "picture.png")
    picture = whole.reshape(-1, 3)
    for level in colours[chosen]:
        colour = [level, 255 - level, level] if channels > 1 else [level] * 3
        assert (np.abs(picture.astype(int) - colour).max(axis=1) <= 1).sum() > 1000
    with_none = replace(found, looks={})
    draw(with_none, tmp_path / "without.png")
    assert len(whole) > len(pixels(tmp_path / "without.png"))


def test_large_frames_are_kept_small(tmp_path: Path) -> None:
    look = Look((600, 800, 3))
    look.add(np.full((3, 600, 800, 3), 9, np.uint8))
    assert look.strips[0].shape == (3, 86, 115, 3)
