"""The page of one run: what came of it in words, its curves, its films, its settings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from otpr.training.intervals import wilson_interval
from otpr_bench.report.metric_charts import metric_sections, success_chart
from otpr_bench.report.page import render
from otpr_bench.report.run_files import Document, RunFiles, episodes, number, read_run, success
from otpr_bench.report.story import headline, story
from otpr_bench.tables import Table

VIDEO_LIMIT = 12 * 2**20
"""Bytes of the largest film that is put into a page; a third more there, as text."""

VIDEOS_LIMIT = 48 * 2**20
"""Bytes of all films of a page together."""


class Film(NamedTuple):
    """A film's file and size in bytes, and its content as a data URL; None where it is too large."""

    file: Path
    size: int
    source: str | None


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
            _rate(row, "eval/success_rate"),
            _rate(row, "eval/success_rate_single"),
            _shown(row.get("eval/episodes")),
            _one_decimal(row, "eval/length"),
            _one_decimal(row, "eval/seconds"),
        )
        for row in rows
        if success(row, "eval/success_rate") is not None
    ]
    return Table(("steps", "as deployed", "one sample", "episodes", "mean length", "seconds"), tuple(found))


def _evaluations(found: Sequence[Document]) -> Table:
    rows: list[tuple[str, ...]] = []
    for one in found:
        rate, count = success(one, "success_rate"), episodes(one, "episodes")
        if rate is None or count is None:
            continue
        low, high = wilson_interval(round(rate * count), count)
        policy = str(one.get("policy", ""))
        rows.append(
            (
                Path(policy).name or policy,
                _shown(one.get("kind")),
                f"{rate:.0%}",
                f"[{low:.0%}, {high:.0%}]",
                f"{count:,}",
                _one_decimal(one, "mean_length"),
                f"{_shown(one.get('sampler'))}, {_shown(one.get('sampler_steps'))} steps",
            )
        )
    header = ("policy", "how it acts", "success", "95% interval", "episodes", "mean length", "sampler")
    return Table(header, tuple(rows))


def _films(run: RunFiles) -> Iterator[Film]:
    room = VIDEOS_LIMIT
    for file in sorted(run.videos, key=lambda file: (file.stem != "before", file.name)):
        size = file.stat().st_size
        if size > min(VIDEO_LIMIT, room):
            yield Film(file, size, None)
            continue
        room -= size
        yield Film(file, size, "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode())


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


def _rate(row: Document, name: str) -> str:
    rate, count = success(row, name), episodes(row)
    if rate is None:
        return "-"
    if count is None:
        return f"{rate:.0%}"
    low, high = wilson_interval(round(rate * count), count)
    return f"{rate:.0%} [{100 * low:.0f}, {100 * high:.0f}]"


def _one_decimal(row: Document, name: str) -> str:
    value = number(row, name)
    return "-" if value is None else f"{value:.1f}"
