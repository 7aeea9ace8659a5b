"""The cost of every pair of n states and n actions, against concatenate-and-call; memory at n = 8192."""

from __future__ import annotations

import json
import subprocess
import sys

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from benchmarks.naive import NaiveEnsemble
from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.timing import in_turns, medians, ratio
from otpr.networks.critics import QEnsemble


def pairwise_cost(sizes: Sizes) -> list[Row]:
    """A row for each number of states and actions."""
    return [_row(sizes, n) for n in sizes.pairs]


@eqx.filter_jit
def ours(critic: QEnsemble, states: Array, actions: Array) -> Float[Array, "n m"]:
    """As the transport cost has it."""
    return critic.pairwise_minimum(states, actions)


@eqx.filter_jit
def naive(
    critic: NaiveEnsemble, states: Array, actions: Array, rows_at_once: int | None = None
) -> Float[Array, "n m"]:
    """Concatenate and call, `rows_at_once` states at a time; None: all."""
    if rows_at_once is None:
        return critic.pairwise_minimum(states, actions)
    blocks = states.reshape(-1, rows_at_once, states.shape[1])

    def of_block(block: Array) -> Array:
        return critic.pairwise_minimum(block, actions)

    return jax.lax.map(of_block, blocks).reshape(states.shape[0], actions.shape[0])


def _row(sizes: Sizes, n: int) -> Row:
    rows = min(n, sizes.pair_rows)
    states, actions = points(n, sizes.observation_dim, sizes.pair_chunk)
    states = states[:rows]
    critic = QEnsemble(
        sizes.observation_dim,
        sizes.pair_chunk,
        size=2,
        width=sizes.pair_width,
        depth=sizes.pair_depth,
        key=jax.random.key(0),
    )
    plain = NaiveEnsemble.of(critic)
    # the same numbers, or the comparison means nothing
    np.testing.assert_allclose(ours(critic, states, actions), naive(plain, states, actions), atol=1e-4)
    sides = {
        "concatenated": lambda: naive(plain, states, actions),
        "ours": lambda: ours(critic, states, actions),
    }
    some = sizes.naive_rows
    if rows < n:
        # a naive side that minds its memory, for who would not call it naive otherwise
        sides["concatenated by rows"] = lambda: naive(plain, states, actions, some)
    times = in_turns(sides, sizes.turns)
    note = f"{rows} of the {n} rows" if rows < n else ""
    if by_rows := times.get("concatenated by rows"):
        note += f"; {ratio(by_rows, times['ours']):.2f} x if the naive side takes {some} rows at a time"
    return Row(
        f"pairwise_cost_{n}",
        ratio(times["concatenated"], times["ours"]),
        "x",
        f"concatenate and call / QEnsemble.pairwise_minimum, {n} states x {n} actions",
        medians(times),
        at_least=3,
        note=note,
    )


def pairwise_memory(sizes: Sizes) -> list[Row]:
    """Peak memory of n x n pairs, in a process of its own."""
    n, width = sizes.memory_pairs, sizes.memory_width
    child = [sys.executable, "-m", "benchmarks.pairwise", str(n), str(width)]
    measured = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    return [
        Row(
            f"pairwise_memory_{n}",
            measured["gigabytes"],
            "GB",
            f"growth of peak memory by {n} x {n} pairs",
            {"ours": measured["seconds"]},
            at_most=1,
            note=f"2 critics of 1 x {width}; the result alone is {4 * n * n / 1e9:.2g} GB, "
            f"one hidden layer of all pairs would be {4 * n * n * width / 1e9:.2g} GB",
        )
    ]


def points(n: int, state_dim: int, action_dim: int) -> tuple[Array, Array]:
    """`n` normal states and `n` uniform actions."""
    return (
        jax.random.normal(jax.random.key(1), (n, state_dim)),
        jax.random.uniform(jax.random.key(2), (n, action_dim), minval=-1),
    )


def measure_memory(n: int, width: int) -> dict[str, float]:
    """Growth of this process's peak memory by n x n pairs, compilation included, and the seconds it took."""
    from benchmarks.machine import peak_memory
    from benchmarks.timing import seconds

    critic = QEnsemble(39, 16, size=2, width=width, depth=1, key=jax.random.key(0))
    states, actions = points(n, 39, 16)
    seconds(lambda: ours(critic, states[:8], actions[:8]))  # what the first compiled program needs anyway
    before = peak_memory()
    spent = seconds(lambda: ours(critic, states, actions))
    return {"gigabytes": (peak_memory() - before) / 1e9, "seconds": spent}


if __name__ == "__main__":
    print(json.dumps(measure_memory(int(sys.argv[1]), int(sys.argv[2]))))
