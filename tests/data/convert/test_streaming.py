"""Memory and speed: what is not asked for is not read, and one episode at a time is in memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset, write_dataset
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
