"""`otpr report`: a run, or many of them, as one HTML page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from otpr.errors import OtprError


@dataclasses.dataclass(frozen=True)
class Report:
    """Make one HTML page of a run directory or of benchmark results; it opens without a network."""

    # run directory, results file of `otpr bench` (Parquet), or its directory
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_BENCH")]
    # the page; left out, report.html in the directory, or beside the results file under its name
    out: Path | None = None

    def run(self) -> None:
        """Write the page and print its path."""
        # plots and statistics take a second to import
        from otpr_bench.report.page import check_out, write_page
        from otpr_bench.report.page_bench import bench_page, find_results
        from otpr_bench.report.page_run import run_page
        from otpr_bench.report.run_files import is_run

        if not self.source.exists():
            raise OtprError(f"There is no {self.source}. Name a run directory, or results of `otpr bench`.")
        inside = self.source / "report.html" if self.source.is_dir() else self.source.with_suffix(".html")
        out = self.out or inside
        check_out(out)
        if self.source.is_dir() and is_run(self.source):
            text = run_page(self.source)
        else:
            text = bench_page(find_results(self.source))
        write_page(out, text)
        print(f"Report: {out} ({len(text.encode()) / 2**20:.1f} MiB; open it in a browser)")
