"""Two toy problems of the paper's supplement: a Gaussian carried to eight Gaussians, and to a Swiss roll.

    .venv/bin/python examples/toy_transport.py [--updates 6000] [--out docs/transport_toys.png]

It trains potentials on fresh samples, then a score network on pairs that are weighted by their compatibility
H, the paper's equation 9; the network then draws y for a given x. Beside it stands what the exact plan of a
held-out sample says: its barycentric projection, sum_j H_ij y_j / m, of each x.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseMLP
from otpr.ot import Potentials, TransportProblem, fit, solve_discrete
from otpr.policies.denoising import Diffusion

EPSILON = 0.05
"""Of the regulariser, in the squared units of the plane."""
HELD_OUT = 512
SAMPLES = 64
"""Drawn for each held-out x, to have their mean."""
DOCS = Path(__file__).resolve().parents[1] / "docs"
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"  # Okabe and Ito's


def gaussian(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """The source: spread 0.5 about the origin."""
    return 0.5 * jax.random.normal(key, (n, 2))


def eight_gaussians(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """Eight of spread 0.06, on a circle of radius 0.75."""
    which, noise = jax.random.split(key)
    angles = jnp.pi / 4 * jax.random.randint(which, (n,), 0, 8)
    centres = 0.75 * jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    return centres + 0.06 * jax.random.normal(noise, (n, 2))


def swiss_roll(key: PRNGKeyArray, n: int) -> Float[Array, "n 2"]:
    """A spiral of one and a half turns, as scikit-learn draws it, within the unit square."""
    along, noise = jax.random.split(key)
    t = 1.5 * jnp.pi * (1 + 2 * jax.random.uniform(along, (n,)))
    spiral = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], axis=1) / (4.5 * jnp.pi) * 0.9
    return spiral + 0.02 * jax.random.normal(noise, (n, 2))


TARGETS = {"eight Gaussians": eight_gaussians, "Swiss roll": swiss_roll}


def squared_distances(x: Float[Array, "n 2"], y: Float[Array, "m 2"]) -> Float[Array, "n m"]:
    """The cost of each pair."""
    return jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)


class Toy(NamedTuple):
    """What came of one problem, on held-out samples."""

    x: np.ndarray  # (n, 2)
    y: np.ndarray
    projected: np.ndarray  # of the exact plan
    drawn: np.ndarray  # (n, samples, 2), by the score network
    exact_cost: float  # mean over the exact plan
    drawn_cost: float  # mean over the draws
    row_error: float  # of the potentials
    column_error: float
    apart: float  # root mean square distance of the draws' mean from the projection
    off_target: float  # energy distance of the draws from the target
    chance: float  # the same of another sample of the target, as large


def solve(name: str, key: PRNGKeyArray, *, updates: int, passes: int = 10) -> Toy:
    """Potentials, score network and exact plan of one problem."""
    target = TARGETS[name]
    keys = jax.random.split(key, 8)
    potentials = Potentials(2, 2, width=128, depth=2, key=keys[0])

    def draw(key: PRNGKeyArray, n: int) -> TransportProblem:
        one, other = jax.random.split(key)
        return TransportProblem(gaussian(one, n), target(other, n))

    solution = fit(potentials, draw, squared_distances, EPSILON, key=keys[1], max_passes=passes)
    generator = _trained(solution.compatibility, draw, keys[2], updates)
    x, y, _ = draw(keys[3], HELD_OUT)
    exact = solve_discrete(squared_distances(x, y), EPSILON)
    projected = exact.compatibility @ y / len(y)
    propose = jax.vmap(lambda x, key: generator.propose(x, key, SAMPLES)[:, 0])
    drawn = propose(x, jax.random.split(keys[4], len(x)))
    return Toy(
        *(np.asarray(array) for array in (x, y, projected, drawn)),
        exact_cost=float(jnp.sum(exact.plan * squared_distances(x, y))),
        drawn_cost=float(jnp.mean(jnp.sum((drawn - x[:, None]) ** 2, axis=-1))),
        row_error=float(solution.row_error),
        column_error=float(solution.column_error),
        apart=float(jnp.sqrt(jnp.mean(jnp.sum((drawn.mean(1) - projected) ** 2, axis=-1)))),
        off_target=energy_distance(np.asarray(drawn[:, 0]), np.asarray(target(keys[5], HELD_OUT))),
        chance=energy_distance(np.asarray(y), np.asarray(target(keys[5], HELD_OUT))),
    )


def _trained(compatibility, draw, key: PRNGKeyArray, updates: int) -> Diffusion:
    """A generator of y given x, by score matching of pairs weighted by H."""
    init, steps = jax.random.split(key)
    network = NoiseMLP(2, (1, 2), width=256, depth=3, key=init)
    generator = Diffusion(network, NoiseSchedule.cosine(40), prediction="velocity", bound=None)
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, updates))

    def loss(network: NoiseMLP, key: PRNGKeyArray) -> Array:
        samples, pick, noise = jax.random.split(key, 3)
        x, y, _ = draw(samples, 256)
        H = compatibility(x, y)
        # each x meets one y, drawn by H: the weighted mean over all pairs, with less variance than weights
        partner = jax.random.categorical(pick, jnp.log(H + 1e-9))
        return jnp.mean(generator.losses(network, x, y[partner][:, None], noise))

    @eqx.filter_jit
    def train(network: NoiseMLP, keys: PRNGKeyArray) -> NoiseMLP:
        arrays, static = eqx.partition(network, eqx.is_array)

        def step(carry, key):
            arrays, state = carry
            gradient = jax.grad(lambda a: loss(eqx.combine(a, static), key))(arrays)
            change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(arrays, change), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), keys)
        return eqx.combine(arrays, static)

    return generator.with_network(train(network, jax.random.split(steps, updates)))


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """2 E|A - B| - E|A - A'| - E|B - B'| of two samples (Szekely and Rizzo, 2013), without the diagonals."""

    def mean(p: np.ndarray, q: np.ndarray) -> float:
        distances = np.linalg.norm(p[:, None] - q[None], axis=-1)
        return float(distances.sum() / (len(p) * (len(q) - (p is q))))

    return 2 * mean(a, b) - mean(a, a) - mean(b, b)


def table(toys: dict[str, Toy]) -> str:
    """The numbers, as Markdown."""
    lines = [
        "| target | errors of the potentials, rows and columns | mean cost: exact plan, draws | "
        "draws' mean from the projection | energy distance to the target: draws, another sample |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {toy.row_error:.3f}, {toy.column_error:.3f} | {toy.exact_cost:.3f}, "
        f"{toy.drawn_cost:.3f} | {toy.apart:.3f} | {toy.off_target:.4f}, {toy.chance:.4f} |"
        for name, toy in toys.items()
    ]
    return "\n".join(lines)


def picture(toys: dict[str, Toy], path: Path) -> None:
    """Source and target; the exact plan's projection; the means of the draws; the draws themselves."""
    figure = Figure(figsize=(12, 3.2 * len(toys)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(toys), 4, squeeze=False, sharex=True, sharey=True)
    dots = functools.partial(dict, s=5, linewidths=0)
    for axes, (name, toy) in zip(rows, toys.items(), strict=True):
        shown = slice(0, 200)
        titles = ("source and target", "projection of the exact plan", "mean of 64 draws", "one draw each")
        for one, title in zip(axes, titles, strict=True):
            one.set(title=f"{name}: {title}" if one is axes[0] else title, aspect="equal")
            one.set_xlim(-1.7, 1.7)
            one.set_ylim(-1.7, 1.7)
        axes[0].scatter(*toy.x.T, color=BLUE, **dots())
        axes[0].scatter(*toy.y.T, color=ORANGE, **dots())
        for one, ends in ((axes[1], toy.projected), (axes[2], toy.drawn.mean(1))):
            segments = np.stack([toy.x[shown], ends[shown]], axis=1)
            one.add_collection(LineCollection(list(segments), colors="0.75", linewidths=0.5))
            one.scatter(*toy.x[shown].T, color=BLUE, **dots())
            one.scatter(*ends[shown].T, color=GREEN, **dots())
        axes[3].scatter(*toy.drawn[:, 0].T, color=GREEN, **dots())
    figure.savefig(path, dpi=70)


def main() -> None:
    """Solve both, print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=int, default=6_000, help="gradient steps of the score network")
    parser.add_argument("--out", type=Path, default=DOCS / "transport_toys.png", help="the picture")
    options = parser.parse_args()
    toys = {name: solve(name, jax.random.key(0), updates=options.updates) for name in TARGETS}
    print(table(toys))
    picture(toys, options.out)


if __name__ == "__main__":
    main()
