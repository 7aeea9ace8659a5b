"""Times as ratios: what is compared runs in turns in one process, so that a slow moment hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Times = dict[str, list[float]]
"""Seconds of each call, a number for each turn."""


def seconds(call: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, its result computed to the end."""
    started = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - started


def in_turns(calls: Mapping[str, Callable[[], Any]], turns: int) -> Times:
    """Seconds of each call in each of `turns` turns; a first, uncounted turn compiles and warms up."""
    for call in calls.values():
        seconds(call)
    times: Times = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return times


def ratio(above: list[float], below: list[float]) -> float:
    """Median over the turns of one time over the other."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def medians(times: Times) -> dict[str, float]:
    """The median time of each call."""
    return {name: statistics.median(values) for name, values in times.items()}
