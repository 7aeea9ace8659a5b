"""How time grows with the replay, the candidates and the length of a chunk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import batch_keys, default_agent, experience
from benchmarks.timing import in_turns, medians, ratio
from otpr.training.learning import update_block

DEFAULT_CHUNK = 4


def growth_replay(sizes: Sizes) -> list[Row]:
    """An update with ever larger replays."""
    agent = default_agent(sizes, DEFAULT_CHUNK, 10)
    calls, memory = {}, {}
    keys = batch_keys(sizes.growth_block)
    for n in sizes.growth_replay:
        data = experience(sizes, n, DEFAULT_CHUNK)
        jitted: Any = eqx.filter_jit(update_block)  # typed as the plain function, which cannot be lowered
        lowered = jitted.lower(agent, data, keys, True)
        compiled: Any = lowered.compile()
        calls[n] = lambda compiled=compiled, data=data: compiled(agent, data, keys, True)
        stats = compiled.compiled.memory_analysis()
        memory[n] = {
            "replay_MB": sum(leaf.nbytes for leaf in jax.tree.leaves(data)) / 1e6,
            "scratch_MB": stats.temp_size_in_bytes / 1e6,
        }

    def note(n: int, first: int) -> str:
        return (
            f"the replay takes {memory[n]['replay_MB']:.0f} MB, a block of updates "
            f"{memory[n]['scratch_MB']:.1f} MB more; with {first:,} {memory[first]['scratch_MB']:.1f} MB"
        )

    return _rows("replay", calls, sizes.turns, sizes.growth_block, "an update", note, memory, at_most=1.25)


def growth_candidates(sizes: Sizes) -> list[Row]:
    """A decision with ever more candidates."""
    observation = np.zeros(sizes.observation_dim, np.float32)
    calls = {}
    for n in sizes.growth_candidates:
        policy = default_agent(sizes, DEFAULT_CHUNK, 10, candidates=n).deployed()
        calls[n] = lambda policy=policy: policy.act(observation, 0)
    return _rows("candidates", calls, sizes.growth_acts, 1, "Policy.act")


def growth_chunk(sizes: Sizes) -> list[Row]:
    """An update with ever longer chunks."""
    calls, keys = {}, batch_keys(sizes.growth_block)
    for n in sizes.growth_chunk:
        agent = default_agent(sizes, n, 10)
        data = experience(sizes, sizes.growth_replay[0], n)
        calls[n] = lambda agent=agent, data=data: update_block(agent, data, keys, True)
    return _rows("chunk", calls, sizes.turns, sizes.growth_block, "an update")


def _rows(
    what: str,
    calls: dict[int, Callable[[], Any]],
    turns: int,
    per_call: int,
    about: str,
    note: Callable[[int, int], str] | None = None,
    details: dict[int, dict[str, float]] | None = None,
    at_most: float | None = None,
) -> list[Row]:
    """A row for each size but the first, over the first."""
    times = in_turns({_short(n): call for n, call in calls.items()}, turns)
    times = {name: [t / per_call for t in values] for name, values in times.items()}
    first, *others = calls
    return [
        Row(
            f"{what}_{_short(n)}_vs_{_short(first)}",
            ratio(times[_short(n)], times[_short(first)]),
            "x",
            f"{about}: {what} {n:,} / {first:,}",
            {name: medians(times)[name] for name in (_short(n), _short(first))},
            at_most=at_most,
            note="" if note is None else note(n, first),
            details={} if details is None else details[n],
        )
        for n in others
    ]


def _short(n: int) -> str:
    """1000000 as 1e6; what is no power of ten as it is."""
    exponent = len(str(n)) - 1
    return f"1e{exponent}" if n >= 1000 and n == 10**exponent else str(n)


def draw(rows: list[Row]) -> Figure:
    """The three growths side by side, times over the smallest size's."""
    figure = Figure(figsize=(9, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {"replay": "transitions in replay", "candidates": "candidates", "chunk": "actions in a chunk"}
    subjects = {"replay": "update", "candidates": "act", "chunk": "update"}
    for axes, (what, label) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        sizes, milliseconds = _curve([row for row in rows if row.name.startswith(f"{what}_")])
        axes.plot(sizes, milliseconds, "o-", color="#0072B2")
        axes.set_xscale("log", base=10 if what == "replay" else 2)
        axes.set_xticks(sizes, [_short(n) for n in sizes], minor=False)
        axes.minorticks_off()
        axes.set_ylim(0, 1.3 * max(milliseconds))
        axes.set_xlabel(label)
        axes.set_ylabel(f"ms per {subjects[what]}")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curve(rows: list[Row]) -> tuple[list[int], list[float]]:
    """Sizes and milliseconds, the first size's out of every row's."""
    points = {int(float(name)): 1e3 * value for row in rows for name, value in row.seconds.items()}
    sizes = sorted(points)
    return sizes, [points[n] for n in sizes]
