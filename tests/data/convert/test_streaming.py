"""Memory and speed: what is not asked for is not read, and one episode at a time is in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from otpr.data.convert.sources import convert, open_source
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode

# Runs in a process of its own, so that nothing else is in its peak. The peak is VmHWM and not getrusage's,
# which begins with that of the process that started it: growth below the size of pytest would not be seen.
MEASURED = """if True:
    import re, sys
    from pathlib import Path
    from otpr.data.convert.sources import convert, open_source
    from otpr.data.inspect import inspect

    def peak():
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

    source = open_source(sys.argv[1], keys=tuple(sys.argv[3:]))
    before = peak()
    tally = convert(source, Path(sys.argv[2]))
    inspect(source)
    print(tally.episodes, tally.steps, (peak() - before) / 1024)
"""


needs_linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")


def growth(source: Path, out: Path, *keys: str) -> tuple[int, int, float]:
    """Episodes, steps, and the MiB by which converting and inspecting raised the peak memory of a process."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, str(source), str(out), *keys],
        capture_output=True,
        text=True,
        check=True,
    )
    episodes, steps, mib = result.stdout.split()
    return int(episodes), int(steps), float(mib)


DIMS = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}


def ten_gigabytes(path: Path, demos: int, steps: int) -> None:
    """A robomimic file whose pictures are 10 GB to whoever reads them, and take no room on the disk."""
    generator = np.random.default_rng(0)
    size = round(np.sqrt(10e9 / (demos * steps * 3))) + 1
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps({"env_name": "Stack", "type": 1})
        for i in range(demos):
            demo = file["data"].create_group(f"demo_{i}")
            for key, dim in DIMS.items():
                values = generator.standard_normal((steps + 1, dim))
                demo.create_dataset(f"obs/{key}", data=values[:-1], compression="gzip")
                demo.create_dataset(f"next_obs/{key}", data=values[1:], compression="gzip")
            demo.create_dataset(
                "obs/agentview_image",
                (steps, size, size, 3),
                np.uint8,
                chunks=(1, size, size, 3),
                compression="gzip",
            )
            demo["actions"] = generator.uniform(-1, 1, (steps, 7))
            demo["rewards"] = np.r_[np.zeros(steps - 1), 1]
        logical = sum(demo["obs/agentview_image"].nbytes for demo in file["data"].values())
    assert logical > 10e9


@needs_linux
def test_ten_gigabytes_of_pictures_are_left_alone(tmp_path: Path) -> None:
    ten_gigabytes(tmp_path / "big.hdf5", demos=50, steps=100)
    episodes, steps, mib = growth(tmp_path / "big.hdf5", tmp_path / "out", *DIMS)
    assert (episodes, steps) == (50, 5000)
    assert mib < 60


@needs_linux
@pytest.mark.slow
@pytest.mark.parametrize("name", ["big.npz", "big.hdf5"])
def test_memory_does_not_grow_with_low_dimensional_data_either(tmp_path: Path, name: str) -> None:
    """640 MB of observations, read episode by episode."""
    rows, dim = 1_000_000, 160
    arrays = {
        "observations": np.zeros((rows, dim), np.float32),
        "actions": np.zeros((rows, 2), np.float32),
        "rewards": (np.arange(1, rows + 1) % 500 == 0).astype(np.float32),
        "terminals": np.arange(1, rows + 1) % 500 == 0,
    }
    if name.endswith(".npz"):
        np.savez_compressed(tmp_path / name, **arrays)
    else:
        with h5py.File(tmp_path / name, "w") as file:
            for field, array in arrays.items():
                file.create_dataset(field, data=array, compression="gzip", chunks=(1000, *array.shape[1:]))
    episodes, _, mib = growth(tmp_path / name, tmp_path / "out")
    assert episodes == 2000
    assert mib < 150


def generated(episodes: int, steps: int) -> Iterator[Episode]:
    generator = np.random.default_rng(0)
    for seed in range(episodes):
        yield Episode(
            observations={"state": generator.standard_normal((steps + 1, 39), np.float32)},
            actions=generator.uniform(-1, 1, (steps, 4)).astype(np.float32),
            rewards=np.zeros(steps, np.float32),
            terminated=True,
            truncated=False,
            success=True,
            seed=seed,
        )


@pytest.mark.slow
def test_a_million_transitions_in_half_a_minute(tmp_path: Path) -> None:
    # of the processor, not of the clock: what else runs here must not decide
    start = time.process_time()
    write_dataset(generated(5000, 200), tmp_path / "set", task_id=None, expert="e", noise=0.0, seed=0)
    written = time.process_time()
    episodes = read_dataset(tmp_path / "set").episodes
    read = time.process_time()
    print(f"written in {written - start:.1f} s, read in {read - written:.1f} s")
    assert sum(len(episode) for episode in episodes) == 1_000_000
    assert read - written < 30
    assert written - start < 30


def test_only_the_fields_asked_for_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a measurement: the reader never touches the pictures."""
    ten_gigabytes(tmp_path / "big.hdf5", demos=2, steps=20)
    opened: list[str] = []
    original = h5py.Dataset.__getitem__

    def watched(self: h5py.Dataset, *args, **kwargs):
        opened.append(str(self.name))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    convert(open_source(tmp_path / "big.hdf5", keys=tuple(DIMS)), tmp_path / "out")
    assert opened
    assert not any("image" in name for name in opened)


# Frames that are mapped from a file count as memory of the process, though they go when it is short: only
# what is its own is measured, every few milliseconds.
FRAMES = """if True:
    import re, sys, threading, time
    from pathlib import Path
    import numpy as np
    import otpr.data.frames
    from otpr.data.convert.sources import convert, open_source
    from otpr.data.datasets import read_dataset
    from otpr.data.inspect import inspect
    from otpr.data.loading import _digest

    peak = 0
    def watch():
        global peak
        while True:
            status = Path("/proc/self/status").read_text()
            peak = max(peak, int(re.search(r"RssAnon:\\s+(\\d+) kB", status)[1]))
            time.sleep(0.005)

    def told(what):
        global peak
        print(what, round((peak - before) / 1024, 1), round(time.perf_counter() - start, 2), sep=",")

    what, path, out = sys.argv[1:]
    threading.Thread(target=watch, daemon=True).start()
    time.sleep(0.1)
    before, start = peak, time.perf_counter()
    if what == "convert":
        tally = convert(open_source(path), Path(out), check=False)
        told("convert")
        inspect(open_source(path))
        told("inspect")
    else:
        read = read_dataset(path)
        told("read")
        drawn = otpr.data.frames.DecisionObservations(read.episodes, read.spec)
        rows = sum(len(episode) + 1 for episode in read.episodes)
        generator = np.random.default_rng(0)
        for _ in range(100):
            drawn.of(generator.integers(0, rows, 256))
        told("draw")
        _digest([read.episodes])
        told("digest")
"""


def seen(episodes: int, steps: int) -> Iterator[Episode]:
    """Episodes with frames of two cameras, 84 x 84, that do not compress."""
    generator = np.random.default_rng(0)
    for episode in generated(episodes, steps):
        frames = {
            name: generator.integers(0, 256, (steps + 1, 84, 84, 3), np.uint8) for name in ("front", "wrist")
        }
        yield replace(episode, observations={**episode.observations, **frames})


def measured(what: str, path: Path, out: Path) -> dict[str, float]:
    """MiB of the process's own at the most, by what was done until then."""
    result = subprocess.run(
        [sys.executable, "-c", FRAMES, what, str(path), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    print(result.stdout)
    return {line.split(",")[0]: float(line.split(",")[1]) for line in result.stdout.split()}


@needs_linux
@pytest.mark.slow
def test_memory_does_not_grow_with_frames(tmp_path: Path) -> None:
    """20,000 steps and two cameras are 850 MB of frames; an episode has 8 MB."""
    write_dataset(seen(100, 200), tmp_path / "set", task_id=None, expert="e", noise=0.0, seed=0)
    assert max(measured("read", tmp_path / "set", tmp_path).values()) < 150
    with h5py.File(tmp_path / "zipped.hdf5", "w") as file:
        rows = 200 * 100
        for name in ("front", "wrist"):
            frames = file.create_dataset(
                name, (rows, 84, 84, 3), np.uint8, chunks=(8, 84, 84, 3), compression="gzip"
            )
            for start in range(0, rows, 200):
                frames[start : start + 200] = np.full((200, 84, 84, 3), start % 200 + 40, np.uint8)
        file["observations"], file["actions"] = (
            np.zeros((rows, 9), np.float32),
            np.zeros((rows, 2), np.float32),
        )
        file["success"] = file["timeouts"] = (np.arange(1, rows + 1) % 200 == 0).astype(np.float32)
    assert max(measured("convert", tmp_path / "zipped.hdf5", tmp_path / "out").values()) < 150
