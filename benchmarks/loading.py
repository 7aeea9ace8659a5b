"""Reading a large data set from disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from otpr.data.datasets import read_dataset, write_dataset
from otpr.data.episodes import Episode
from otpr.data.mixture import Mixture

STEPS = 200
"""Of an episode."""


def loading(sizes: Sizes) -> list[Row]:
    """Seconds from the files to a million transitions: reading, checking, cutting into chunks."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        written = _timed(lambda: _write(path, sizes))
        episodes: list[Episode] = []
        read = _timed(lambda: episodes.extend(read_dataset(path).episodes))
        cut = _timed(lambda: Mixture.of([episodes], (), sizes.default_chunk, 0.99))
    million = 1_000_000 / (sizes.load_episodes * STEPS)
    return [
        Row(
            "load_million",
            (read + cut) * million,
            "s",
            "seconds to read, check and cut into chunks a million transitions",
            {"read": read, "cut into chunks": cut, "written": written},
            at_most=30.0,
            note=f"{sizes.load_episodes:,} episodes of {STEPS} steps timed once",
        )
    ]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _write(path: Path, sizes: Sizes) -> None:
    write_dataset(_episodes(sizes), path, task_id="made-up", expert="none", noise=0.0, seed=0)


def _episodes(sizes: Sizes) -> Iterator[Episode]:
    generator = np.random.default_rng(0)
    for _ in range(sizes.load_episodes):
        yield Episode(
            observations={"state": generator.standard_normal((STEPS + 1, sizes.observation_dim), np.float32)},
            actions=generator.uniform(-1, 1, (STEPS, sizes.action_dim)).astype(np.float32),
            rewards=np.zeros(STEPS, np.float32),
            terminated=False,
            truncated=True,
            success=False,
            seed=None,
        )
