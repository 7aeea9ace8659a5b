"""The page of one run: what came of it in words, its curves, its films, its settings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from otpr_bench.report.metric_charts import metric_sections, success_chart
from otpr_bench.report.page import render
from otpr_bench.report.run_files import Document, RunFiles, number, read_run, success
from otpr_bench.report.story import headline, story
from otpr_bench.tables import Table

VIDEO_LIMIT = 12 * 2**20
"""Bytes of the largest film that is put into a page; a third more there, as text."""

VIDEOS_LIMIT = 48 * 2**20
"""Bytes of all films of a page together."""


def run_page(path: Path) -> str:
    """The report of a run directory as HTML.

    Raises:
        OtprError: there is no run in it, or one of its files is damaged.
    """
    run = read_run(path)
    title, line = headline(run)
    return render(
        "run.html",
        title=title,
        line=line,
        story=story(run),
        success=success_chart(run.rows, success(run.summary or {}, "base_success")),
        on_the_way=_evaluations_on_the_way(run.rows),
        afterwards=_evaluations(run.evaluations),
        films=list(_films(run)),
        sections=list(metric_sections([*run.rows, *run.imitation])),
        settings=dict(_settings(run)),
        versions=_versions(run.starts),
        faults=[file.name for file in run.faults],
        summary=json.dumps(run.summary, indent=2) if run.summary else "",
        source=run.path.name or str(run.path),
    )


def _evaluations_on_the_way(rows: Sequence[Document]) -> Table:
    found = [
        (
            _shown(row.get("env_steps")),
            str(rate),
            str(success(row, "eval/success_rate_single") or "-"),
            _shown(row.get("eval/episodes")),
            _one_decimal(row, "eval/length"),
            _one_decimal(row, "eval/seconds"),
        )
        for row in rows
        if (rate := success(row, "eval/success_rate"))
    ]
    return Table(("steps", "as deployed", "one sample", "episodes", "mean length", "seconds"), tuple(found))


def _evaluations(found: Sequence[Document]) -> Table:
    rows = [
        (
            Path(str(one.get("policy", ""))).name,
            _shown(one.get("kind")),
            str(rate),
            f"{rate.episodes:,}",
            _one_decimal(one, "mean_length"),
            f"{_shown(one.get('sampler'))}, {_shown(one.get('sampler_steps'))} steps",
        )
        for one in found
        if (rate := success(one, "success_rate", "episodes"))
    ]
    return Table(("policy", "how it acts", "success", "episodes", "mean length", "sampler"), tuple(rows))


def _films(run: RunFiles) -> Iterator[tuple[Path, int, str]]:
    """Each film with its size in bytes and, unless it is too large, its content as a data URL."""
    room = VIDEOS_LIMIT
    for file in sorted(run.videos, key=lambda file: (file.stem != "before", file.name)):
        size, source = file.stat().st_size, ""
        if size <= min(VIDEO_LIMIT, room):
            room -= size
            source = "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()
        yield file, size, source


def _versions(starts: Sequence[Document]) -> Table:
    names = dict.fromkeys(name for start in starts for name in start)
    header = ("", *("start" if place == 0 else f"resume {place}" for place in range(len(starts))))
    return Table(header, tuple((name, *(_shown(start.get(name)) for start in starts)) for name in names))


def _settings(run: RunFiles) -> Iterator[tuple[str, Table]]:
    """A table of the settings of the command, and one of each group of them."""
    groups = {name: cast(Document, value) for name, value in run.config.items() if isinstance(value, dict)}
    rest = {name: value for name, value in run.config.items() if name not in groups}
    for name, settings in {f"otpr {run.command}": rest, **groups}.items():
        rows = [(key, json.dumps(value, ensure_ascii=False).strip('"')) for key, value in settings.items()]
        yield name, Table(("setting", "value"), tuple(rows))


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in cast(list[Any], value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _one_decimal(row: Document, name: str) -> str:
    value = number(row, name)
    return "-" if value is None else f"{value:.1f}"
