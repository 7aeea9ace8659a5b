"""`make bench`: measure, print a table, write latest.json, and the table and picture in the docs."""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    acting,
    compilation,
    convolution,
    growth,
    learner,
    loading,
    machine,
    pairwise,
    rendering,
    rollout,
    seeing,
    unet,
    workers,
)
from benchmarks.rows import Row, table, write_json, write_page
from benchmarks.sizes import FULL, TINY, Sizes
from otpr.training.compilation import use_compilation_cache

ROOT = Path(__file__).resolve().parents[1]
LATEST = ROOT / "benchmarks" / "latest.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "growth.png"

BENCHMARKS: dict[str, Callable[[Sizes], list[Row]]] = {
    "matrix_product": machine.matrix_product,
    **{name: functools.partial(learner.learning, names=[name]) for name in learner.SIDES},
    "marginal_error_vs_release": learner.marginal_error,
    "pairwise_cost": pairwise.pairwise_cost,
    "pairwise_memory": pairwise.pairwise_memory,
    "convolution": convolution.convolution,
    "unet_vs_torch": unet.unet,
    "act": acting.act,
    "act_crowd": acting.act_crowd,
    "rollout_vs_bare": rollout.rollout,
    "rollout_workers": workers.workers,
    "rendering": rendering.rendering,
    "encode": seeing.encoding,
    "collect_seeing_vs_bare": seeing.collecting,
    "update_seeing": seeing.updating,
    "memory_frames": seeing.memory,
    "load_million": loading.loading,
    "growth_replay": growth.growth_replay,
    "growth_candidates": growth.growth_candidates,
    "growth_chunk": growth.growth_chunk,
    "compilation_cache": compilation.compilation_cache,
}
"""What `--only` names; some give several rows."""


def measure(names: Sequence[str], sizes: Sizes, say: Callable[[str], None]) -> list[Row]:
    """The rows of those benchmarks. Those of the learner are timed together, in the same turns."""
    rows: list[Row] = []
    together = [name for name in names if name in learner.SIDES]
    for name in names:
        started = time.monotonic()
        if name not in learner.SIDES:
            rows += BENCHMARKS[name](sizes)
        elif name == together[0]:
            rows += learner.learning(sizes, together)
        else:
            continue
        say(f"{', '.join(together) if name in together else name}: {time.monotonic() - started:.0f} s")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=BENCHMARKS,
        metavar="NAME",
        help=f"measure these alone and leave the repository as it is; names: {', '.join(BENCHMARKS)}",
    )
    parser.add_argument("--out", type=Path, help="write the rows to this JSON file")
    parser.add_argument("--tiny", action="store_true", help="sizes that say nothing of speed: a trial")
    options = parser.parse_args(arguments)
    if options.tiny and not options.only:
        parser.error("--tiny needs --only: numbers of a trial are not written to the docs.")
    use_compilation_cache()  # or half the time goes into compiling what is measured
    console = Console(stderr=True)
    rows = measure(options.only or list(BENCHMARKS), TINY if options.tiny else FULL, console.log)
    Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
    if options.out:
        write_json(rows, options.out)
    if not options.only:
        write_json(rows, LATEST)
        write_page(rows, PAGE)
        growth.draw(rows).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
