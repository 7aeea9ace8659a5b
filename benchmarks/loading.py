"""Reading a large data set from disk."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import GAMMA, flat_spec
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.policies.encoder import VectorEncoder, encode
from otpr.spec import STATE

STEPS = 200
"""Of an episode."""


def loading(sizes: Sizes) -> list[Row]:
    """Seconds from the files to a million transitions: reading, checking, encoding, on the device."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        written = _timed(lambda: _write(path, sizes))
        episodes: list[Episode] = []
        read = _timed(lambda: episodes.extend(read_dataset(path).episodes))
        put = _timed(lambda: _put(episodes, sizes))
    million = 1_000_000 / (sizes.load_episodes * STEPS)
    return [
        Row(
            "load_million",
            (read + put) * million,
            "s",
            "seconds to read, check, encode and put on the device a million transitions",
            {"read": read, "encoded and put on the device": put, "written": written},
            at_most=30.0,
            note=f"{sizes.load_episodes:,} episodes of {STEPS} steps timed once",
        )
    ]


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _put(episodes: list[Episode], sizes: Sizes) -> Experience:
    """As a run begins."""
    spec = flat_spec(sizes, sizes.default_chunk)
    seen = np.concatenate([episode.observations[STATE] for episode in episodes])
    features = functools.partial(encode, VectorEncoder.fit(spec, {STATE: seen}))
    return jax.block_until_ready(Experience.of([episodes], (), features, spec=spec, gamma=GAMMA))


def _write(path: Path, sizes: Sizes) -> None:
    write_dataset(_episodes(sizes), path, task_id="made-up", expert="none", noise=0.0, seed=0)


def _episodes(sizes: Sizes) -> Iterator[Episode]:
    generator = np.random.default_rng(0)
    for _ in range(sizes.load_episodes):
        yield Episode(
            observations={STATE: generator.standard_normal((STEPS + 1, sizes.observation_dim), np.float32)},
            actions=generator.uniform(-1, 1, (STEPS, sizes.action_dim)).astype(np.float32),
            rewards=np.zeros(STEPS, np.float32),
            terminated=False,
            truncated=True,
            success=False,
            seed=None,
        )
