"""Against a LeRobotDataset of images, as lerobot reads it: fixtures/make_lerobot_images.py."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otpr.data.convert import lerobot_images
from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.errors import OtprError

FIXTURES = Path(__file__).parents[1] / "fixtures"
SET = FIXTURES / "lerobot_images"
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
LENGTHS = (5, 8, 6)


def _maker() -> Any:
    spec = importlib.util.spec_from_file_location("maker", FIXTURES / "make_lerobot_images.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


number_of = _maker().number_of


@pytest.fixture(scope="module")
def expected() -> dict[str, list[np.ndarray]]:
    """What lerobot reads, by camera and episode."""
    with np.load(FIXTURES / "lerobot_images_expected.npz") as stored:
        return {name: np.split(stored[name], np.cumsum(LENGTHS)[:-1]) for name in ("front", "wrist")}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(SET, tmp_path / "set"))


def video(folder: Path, number: int = 0) -> Path:
    return folder / "videos" / FRONT / "chunk-000" / f"file-{number:03d}.mp4"


def change_info(folder: Path, name: str, **values: object) -> None:
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"][name] |= values
    (folder / "meta" / "info.json").write_text(json.dumps(info))


def change_column(file: Path, name: str, values: list[Any]) -> None:
    table = pq.read_table(file)
    index = table.column_names.index(name)
    field = table.schema.field(index)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), file)


def errors(folder: Path) -> list[str | None]:
    """Of each episode its error, or None."""
    return [str(one) if isinstance(one, OtprError) else None for one in open_source(folder).read()]


@pytest.mark.parametrize("rows", [lerobot_images._ROWS, 1, 100])
def test_every_frame_is_the_one_that_lerobot_reads(expected, rows: int, monkeypatch) -> None:
    monkeypatch.setattr(lerobot_images, "_ROWS", rows)
    source = open_source(SET)
    assert {name: entry.shape for name, entry in source.images.items()} == {
        "front": (48, 64, 3),
        "wrist": (17, 21, 3),
    }
    number = 0
    for index, recorded in enumerate(source.episodes()):
        np.testing.assert_array_equal(recorded.images["wrist"], expected["wrist"][index])
        np.testing.assert_array_equal(recorded.images["front"], expected["front"][index])
        for frame in recorded.images["front"]:
            assert number_of(frame) == number
            number += 1
    assert number == sum(LENGTHS)


def test_frames_are_those_of_another_decoder() -> None:
    frames = np.concatenate([one.images["front"] for one in open_source(SET, keys=(FRONT,)).episodes()])
    others: list[np.ndarray] = []
    for number in (0, 1):
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video(SET, number))]
        raw = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True)
        others.append(np.frombuffer(raw.stdout, np.uint8).reshape(-1, 48, 64, 3))
    # two builds of FFmpeg scale colours a little otherwise
    off = np.abs(frames.astype(int) - np.concatenate(others))
    assert off.max() <= 3 and off.mean() < 0.5


def test_converted_episodes_have_the_frames_of_their_steps(tmp_path: Path, expected) -> None:
    tally = convert(open_source(SET), tmp_path / "out")
    assert (tally.episodes, tally.last_dropped, tally.successes) == (3, 3, 3)
    for index, episode in enumerate(read_dataset(tmp_path / "out").episodes):
        assert len(episode) == LENGTHS[index] - 1
        for name in ("front", "wrist"):
            np.testing.assert_array_equal(episode.observations[name], expected[name][index])


def test_keys_choose_and_what_is_not_chosen_is_not_needed(copy: Path, expected, monkeypatch) -> None:
    shutil.rmtree(copy / "videos")
    monkeypatch.setitem(sys.modules, "av", None)
    source = open_source(copy, keys=("observation.state", WRIST))
    assert (source.keys, list(source.images)) == ((("observation.state", 2),), ["wrist"])
    for index, recorded in enumerate(source.episodes()):
        np.testing.assert_array_equal(recorded.images["wrist"], expected["wrist"][index])
    alone = open_source(copy, keys=(WRIST,))
    assert (alone.keys, alone.observation_dim) == ((), 0)
    with pytest.raises(OtprError, match=r"has no feature of vectors or images 'front'; it has: action, "):
        open_source(copy, keys=("front",))
    with pytest.raises(OtprError, match=r"need PyAV.*otpr\[lerobot\].*--keys"):
        open_source(copy)


def test_episodes_that_are_not_read_are_passed_over(copy: Path, expected) -> None:
    data = copy / "data" / "chunk-000" / "file-000.parquet"
    change_column(data, "task_index", [0] * 5 + [1] * 8 + [0] * 6)
    second = list(open_source(copy, task_index=(1,)).episodes())
    assert len(second) == 1
    for name in ("front", "wrist"):
        np.testing.assert_array_equal(second[0].images[name], expected[name][1])
    others = list(open_source(copy, task_index=(0,)).episodes())
    for name in ("front", "wrist"):
        np.testing.assert_array_equal(others[1].images[name], expected[name][2])


def test_episodes_may_lie_in_a_video_in_any_order(copy: Path, expected) -> None:
    """The second one is sought behind the first: it begins before it."""
    episodes = copy / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    change_column(episodes, f"videos/{FRONT}/from_timestamp", [0.8, 0.0, 0.0])
    read = [one.images["front"] for one in open_source(copy, keys=(FRONT,)).episodes()]
    assert [number_of(frame) for frame in np.concatenate(read[:2])] == [*range(8, 13), *range(8)]


@pytest.mark.parametrize(
    ("names", "stored", "shape"),
    [
        (["channels", "height", "width"], [3, 17, 21], (17, 21, 3)),
        (["height", "width", "channel"], [17, 21, 3], (17, 21, 3)),
        (None, [3, 17, 21], (17, 21, 3)),
    ],
)
def test_axes_are_in_the_order_that_is_said(copy: Path, names, stored, shape, expected) -> None:
    change_info(copy, WRIST, names=names, shape=stored)
    source = open_source(copy, keys=(WRIST,))
    assert source.images["wrist"].shape == shape
    first = next(source.episodes())
    np.testing.assert_array_equal(first.images["wrist"], expected["wrist"][0])


def test_pictures_may_lie_beside_the_table(copy: Path, expected) -> None:
    data = copy / "data" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(data).column(WRIST).to_pylist()
    (copy / "images").mkdir(exist_ok=True)
    for number, row in enumerate(rows):
        (copy / "images" / f"{number}.png").write_bytes(row["bytes"])
    beside = [{"bytes": None, "path": f"images/{number}.png"} for number in range(len(rows))]
    change_column(data, WRIST, beside)
    for index, recorded in enumerate(open_source(copy, keys=(WRIST,)).episodes()):
        np.testing.assert_array_equal(recorded.images["wrist"], expected["wrist"][index])
    beside[6] = {"bytes": None, "path": "../secret.png"}
    change_column(data, WRIST, beside)
    found = errors(copy)
    assert found[0] is None and found[2] is None
    assert found[1] is not None and "has a step without a picture" in found[1]


# ---------------------------------------------------------------------------------------------------- faults


def test_a_damaged_picture_costs_its_episode_alone(copy: Path, tmp_path: Path, expected) -> None:
    data = copy / "data" / "chunk-000" / "file-000.parquet"
    rows = pq.read_table(data).column(WRIST).to_pylist()
    rows[6] = {**rows[6], "bytes": rows[6]["bytes"][:40]}
    change_column(data, WRIST, rows)
    found = errors(copy)
    assert found[0] is None and found[2] is None
    assert (
        found[1] is not None and "episode 1: observation.images.wrist: holds an image that cannot" in found[1]
    )
    with pytest.raises(OtprError, match="--skip-bad"):
        convert(open_source(copy), tmp_path / "out")
    tally = convert(open_source(copy), tmp_path / "out", rules=Rules(skip_bad=True))
    assert (tally.bad, tally.episodes) == (1, 2)
    last = read_dataset(tmp_path / "out").episodes[1]
    np.testing.assert_array_equal(last.observations["wrist"], expected["wrist"][2])


def test_a_picture_of_another_size_is_named(copy: Path) -> None:
    change_info(copy, WRIST, shape=[17, 22, 3])
    assert all("image of 17 x 21 pixels (height x width), expected 17 x 22" in str(e) for e in errors(copy))


def test_a_missing_video_costs_its_episodes_alone(copy: Path) -> None:
    video(copy).unlink()
    found = errors(copy)
    assert all("file-000.mp4 is missing; download it again" in str(error) for error in found[:2])
    assert found[2] is None


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.9])
def test_a_truncated_video_is_an_error(copy: Path, kept: float) -> None:
    data = video(copy).read_bytes()
    video(copy).write_bytes(data[: int(kept * len(data))])
    found = errors(copy)
    assert "file-000.mp4" in str(found[1]) and "download it again" in str(found[1])
    assert found[2] is None


def test_a_video_that_is_none_is_an_error(copy: Path) -> None:
    video(copy).write_text("no video" * 100)
    assert "file-000.mp4: cannot be decoded" in str(errors(copy)[0])


def write_video(file: Path, frames: np.ndarray, rate: int = 10) -> None:
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_other_codecs_with_frames_that_are_not_in_order_are_read(copy: Path, expected) -> None:
    """H.264 stores frames in another order than they are shown in."""
    write_video(video(copy), np.concatenate(expected["front"][:2]))
    read = [one.images["front"] for one in open_source(copy, keys=(FRONT,)).episodes()]
    assert [number_of(frame) for frame in np.concatenate(read)] == list(range(19))


def test_a_video_that_ends_early_is_an_error(copy: Path, expected) -> None:
    write_video(video(copy), np.concatenate(expected["front"][:2])[:9])
    found = errors(copy)
    assert found[0] is None
    assert "ends before its frame at 0.9" in str(found[1])


def test_a_video_of_another_rate_is_an_error(copy: Path, expected) -> None:
    write_video(video(copy), np.concatenate(expected["front"][:2]), rate=7)
    assert "has no frame at 0.1000 s, the next one is at 0.1429 s" in str(errors(copy)[0])


def test_a_video_of_another_size_is_an_error(copy: Path) -> None:
    write_video(video(copy), np.zeros((13, 96, 64, 3), np.uint8))
    assert "has frames of 96 x 64 pixels (height x width), expected 48 x 64" in str(errors(copy)[0])


def test_a_video_that_claims_to_be_huge_takes_no_memory(copy: Path) -> None:
    """Both the container's and the table's size are written over."""
    data = video(copy).read_bytes()
    for place in ("avc1", "av01"):
        at = data.find(place.encode())
        if at > 0:  # in the sample entry width and height are 28 and 30 bytes behind the name
            data = data[: at + 28] + (65535).to_bytes(2, "big") * 2 + data[at + 32 :]
    video(copy).write_bytes(data)
    change_info(copy, FRONT, shape=[100_000, 100_000, 3])
    with pytest.raises(OtprError, match=r"claims shape \(100000, 100000, 3\)"):
        open_source(copy)
    change_info(copy, FRONT, shape=[5000, 5000, 3])
    assert "expected 5000 x 5000" in str(errors(copy)[0])


@pytest.mark.parametrize("shape", [[0, 4, 3], "many", [4.0, 4, 3], [5], [7, 8, 9]])
def test_a_shape_that_is_none_is_an_error(copy: Path, shape: object) -> None:
    change_info(copy, WRIST, shape=shape, names=None)
    with pytest.raises(OtprError, match=r"observation\.images\.wrist"):
        errors(copy)


def test_a_table_without_places_of_videos_is_an_error(copy: Path) -> None:
    file = copy / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    pq.write_table(pq.read_table(file).drop_columns([f"videos/{FRONT}/from_timestamp"]), file)
    with pytest.raises(OtprError, match=r"has no column 'videos/.*/from_timestamp'"):
        open_source(copy)


def test_black_frames_of_an_episode_are_refused(copy: Path, tmp_path: Path) -> None:
    write_video(video(copy), np.zeros((13, 48, 64, 3), np.uint8))
    with pytest.raises(OtprError, match=r"episode 0: every frame of front is black.*--keys.*--skip-bad"):
        convert(open_source(copy), tmp_path / "out")
    assert convert(open_source(copy), tmp_path / "out", rules=Rules(skip_bad=True)).bad == 2
