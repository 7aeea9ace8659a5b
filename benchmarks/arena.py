"""`make results`: the tables and figures of docs/results.md, out of the raw results in results/bench."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from otpr.bench.figures import draw_all
from otpr.bench.markdown import blocks, update_page
from otpr.bench.results import read_results
from otpr.bench.study import Study, gather, newest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"


def studies() -> dict[str, Study]:
    """The newest runs of each file of results, by its name: the suite's."""
    files = sorted((ROOT / "results" / "bench").glob("*.parquet"))
    return {file.stem: gather(newest(read_results(file))) for file in files}


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
