"""Draw docs/otpr_steps.png, what OTPR does in four steps: `.venv/bin/python examples/otpr_steps.py`.

A finger on a table has to get to a goal behind a wall with a gap. From each state it may go on by one of
several chunks of four displacements. Q is written down, where OTPR learns it; H is computed by `otpr.ot`,
with the cost and the settings of OTPR's preset `default`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from otpr.ot import solve_discrete
from otpr.policies.choosers import most_central

DOCS = Path(__file__).resolve().parents[1] / "docs"
GOAL, GAP, WALL = np.array([1.0, 0.0]), 0.22, 0.25
"""Where it has to get; half the height of the gap; where the wall is, along x."""
STATES, CANDIDATES, STEPS = 24, 10, 4
SHOWN = (2, 9, 16, 21)
"""The states that are drawn."""
EPSILON, RELAXATION = 0.1, 1000.0
ORANGE, BLUE = "#D55E00", "#0072B2"


class Toy(NamedTuple):
    """The toy, and what transport makes of it.

    Attributes:
        states: (n, 2), where the finger is.
        chunks: (n, k, 4, 2), displacements; each state has k candidates.
        q: (n, n k), the value of each chunk, whosever candidate it is, in each state.
        H: (n, n k), their compatibility.
        excess: (n, n k), what H is the positive part of, up to a factor.
    """

    states: NDArray[np.float64]
    chunks: NDArray[np.float64]
    q: NDArray[np.float64]
    H: NDArray[np.float64]
    excess: NDArray[np.float64]

    def own(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of (n, n k) values those of each state's own candidates, (n, k)."""
        n, k = self.chunks.shape[:2]
        return values.reshape(n, n, k)[np.arange(n), np.arange(n)]

    @property
    def choice(self) -> NDArray[np.int64]:
        """The candidate that each state executes: the most central one of the better half."""
        flat = self.chunks.reshape(*self.chunks.shape[:2], -1)
        return np.asarray(jax.vmap(most_central)(jnp.asarray(flat), jnp.asarray(self.own(self.excess))))


def paths(states: NDArray[np.float64], chunks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where chunks lead: (..., 2) and (..., 4, 2) give (..., 5, 2), the state first."""
    steps = np.concatenate([np.zeros_like(chunks[..., :1, :]), chunks], axis=-2)
    return states[..., None, :] + np.cumsum(steps, axis=-2)


def value(way: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of success after the way, (..., 5, 2): the nearer to the goal; 0 through the wall."""
    near = np.exp(-1.2 * np.linalg.norm(way[..., -1, :] - GOAL, axis=-1))
    before, after = way[..., :-1, :], way[..., 1:, :]
    crosses = (before[..., 0] < WALL) & (after[..., 0] >= WALL)
    share = (WALL - before[..., 0]) / np.where(crosses, after[..., 0] - before[..., 0], 1.0)
    height = before[..., 1] + share * (after[..., 1] - before[..., 1])
    return np.where(np.any(crosses & (np.abs(height) > GAP), axis=-1), 0.0, near)


def solve(seed: int = 0) -> Toy:
    """States, candidates, their Q and, by transport, their H."""
    rng = np.random.default_rng(seed)
    states = np.stack([rng.uniform(-0.9, -0.1, STATES), np.linspace(-0.8, 0.8, STATES)], axis=1)
    heading = rng.uniform(-1.1, 1.1, (STATES, CANDIDATES, 1)) + rng.uniform(-0.25, 0.25, (1, 1, STEPS))
    turned = heading + rng.uniform(-0.5, 0.5, (STATES, CANDIDATES, 1)) * np.arange(STEPS)
    chunks = 0.22 * np.stack([np.cos(turned), np.sin(turned)], axis=-1)
    q = value(paths(states[:, None], chunks.reshape(1, -1, STEPS, 2)))
    cost = (q.max(axis=1, keepdims=True) - q) / q.std()
    solution = solve_discrete(jnp.asarray(cost), EPSILON, column_relaxation=RELAXATION)
    excess = solution.u[:, None] + solution.v[None] - cost
    return Toy(states, chunks, q, *(np.asarray(of, np.float64) for of in (solution.compatibility, excess)))


def draw(toy: Toy, file: Path) -> None:
    """Write the figure as a PNG file of few colours."""
    figure = Figure(figsize=(7.2, 6.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    q, H = toy.own(toy.q), toy.own(toy.H)
    titles = (
        "1  The policy offers chunks of actions",
        "2  Q: how likely is success after each?",
        "3  H: which does the transport use here?",
        "4  The most central one is executed",
    )
    for ax, title in zip(axes.flat, titles, strict=True):
        _table(ax, title)
    for i in SHOWN:
        ways = paths(toy.states[i], toy.chunks[i])
        _ways(axes[0, 0], ways, np.full((CANDIDATES, 3), 0.45), np.full(CANDIDATES, 1.2))
        _ways(axes[0, 1], ways, _shades(q[i] / q.max(), BLUE), np.full(CANDIDATES, 1.8))
        share = H[i] / H.max()
        _ways(axes[1, 0], ways, _shades(np.sqrt(share), ORANGE), 0.8 + 3 * share)
        best = [toy.choice[i]]
        _ways(axes[1, 1], ways[best], np.array([_rgb(ORANGE)]), np.array([3.0]))
        for ax in axes.flat:
            ax.plot(*toy.states[i], "o", color="black", markersize=6, zorder=5)
    page = io.BytesIO()
    figure.savefig(page, format="png")
    Image.open(page).convert("RGB").quantize(64).save(file, optimize=True)


def _table(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=11, loc="left")
    ax.set(xlim=(-1.05, 1.15), ylim=(-1.05, 1.05), xticks=[], yticks=[], aspect="equal")
    for low, high in ((-1.05, -GAP), (GAP, 1.05)):
        ax.plot([WALL, WALL], [low, high], color="0.2", linewidth=5, solid_capstyle="butt")
    ax.plot(*GOAL, "*", color="#009E73", markersize=18)


def _ways(ax: Axes, ways: NDArray, colours: NDArray, widths: NDArray) -> None:
    ax.add_collection(LineCollection(list(ways), colors=colours, linewidths=widths, capstyle="round"))
    ax.scatter(*ways[:, -1].T, s=10 * widths, color=colours, zorder=3)


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def _shades(shares: NDArray[np.float64], colour: str) -> NDArray[np.float64]:
    """From light grey at 0 to the colour at 1."""
    shares = np.clip(shares, 0, 1)[:, None]
    return (1 - shares) * 0.87 + shares * _rgb(colour)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "otpr_steps.png"
    draw(solve(), target)
    print(f"{target} ({target.stat().st_size / 1000:.0f} kB)")
