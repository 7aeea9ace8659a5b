"""`make results`: the tables and figures of docs/results.md, from the raw results in results/bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from otpr_bench.figures import draw_all
from otpr_bench.markdown import blocks, update_page
from otpr_bench.results import Row, read_results
from otpr_bench.study import Study, gather, method_name, newest
from otpr_bench.suites import SHIFTED

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"


def balanced(rows: Sequence[Row]) -> list[Row]:
    """The rows of the seeds that every method has on a task, since a queue may be committed unfinished.

    A seed that some methods lack would give the others narrower intervals, and other means.
    """
    seeds: dict[str, dict[str, set[int]]] = {}
    for row in rows:
        method = method_name(row.algorithm, row.preset)
        seeds.setdefault(row.task, {}).setdefault(method, set()).add(row.seed)
    shared = {task: set.intersection(*of_method.values()) for task, of_method in seeds.items()}
    return [row for row in rows if row.seed in shared[row.task]]


def studies() -> dict[str, Study]:
    """The newest runs of each file of results, by its name: the suite's.

    The runs of the suite of shifts are those of docs/robustness.md.
    """
    files = sorted((ROOT / "results" / "bench").glob("*.parquet"))
    return {file.stem: gather(balanced(newest(read_results(file)))) for file in files if file.stem != SHIFTED}


def texts(found: Mapping[str, Study]) -> dict[str, str]:
    """The tables of all studies, by the names of their marks on the page."""
    return {name: text for study in found.values() for name, text in blocks(study).items()}


def main() -> None:
    """Fill in the tables of the page, and draw the figures beside it."""
    found = studies()
    update_page(PAGE, texts(found))
    for name, study in found.items():
        for path in draw_all(study, ROOT / "docs" / name):
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
