"""The page of one run: what came of it in words, its curves, its films, its settings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from otpr.training.intervals import wilson_interval
from otpr_bench.report.charts import Line, chart, legend
from otpr_bench.report.html import Html, bullets, details, join, table, tag
from otpr_bench.report.metric_charts import LOOKS, metric_charts, success_series
from otpr_bench.report.page import note, page, section
from otpr_bench.report.run_files import Document, RunFiles, episodes, number, read_run, success
from otpr_bench.report.story import headline, story

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
    return page(
        f"{headline(run)[0]} - otpr report",
        [look.style for look in LOOKS],
        tag("h1", headline(run)[0]),
        tag("p", headline(run)[1], class_="note"),
        _outcome(run),
        _success(run),
        _films(run),
        *_diagnostics(run),
        _settings(run),
        tag("footer", f"Made by otpr report from {run.path.name or run.path}. Nothing here was fetched."),
    )


def _outcome(run: RunFiles) -> Html:
    told = story(run)
    numbers = [
        tag("div", tag("span", name), tag("strong", value), tag("span", detail))
        for name, value, detail in told.numbers
    ]
    return section(
        "What happened",
        tag("div", *numbers, class_="numbers") if numbers else None,
        bullets(told.sentences),
    )


def _success(run: RunFiles) -> Html:
    series = success_series(run.rows)
    if not series:
        return Html()
    base = success(run.summary or {}, "base_success")
    lines = [Line(base, f"before: {base:.0%}")] if base is not None else []
    picture = chart(
        series,
        title="Success",
        x_label="environment steps",
        y_label="of held-out episodes, with 95% Wilson intervals",
        share=True,
        lines=lines,
    )
    looks = {one.name: one.look for one in series}
    tables = (_evaluations_on_the_way(run.rows), _evaluations(run.evaluations))
    return section(
        "Learning curve",
        legend(looks) if len(looks) > 1 else None,
        tag("div", picture, tag("div", *tables), class_="charts wide"),
    )


def _evaluations_on_the_way(rows: Sequence[Document]) -> Html:
    found: list[tuple[str, ...]] = []
    for row in rows:
        if success(row, "eval/success_rate") is None:
            continue
        cells = [_rate(row, name) for name in ("eval/success_rate", "eval/success_rate_single")]
        found.append(
            (
                _shown(row.get("env_steps")),
                *cells,
                _shown(row.get("eval/episodes")),
                _one_decimal(row, "eval/length"),
                _one_decimal(row, "eval/seconds"),
            )
        )
    header = ("steps", "as deployed", "one sample", "episodes", "mean length", "seconds")
    return table(header, found, caption="Evaluations during the run: success [95% interval]")


def _evaluations(found: Sequence[Document]) -> Html | None:
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
    return table(header, rows, caption="Evaluation afterwards") if rows else None


def _films(run: RunFiles) -> Html:
    shown: list[Html] = []
    room = VIDEOS_LIMIT
    for film in sorted(run.videos, key=lambda film: (film.stem != "before", film.name)):
        size = film.stat().st_size
        if size > min(VIDEO_LIMIT, room):
            shown.append(
                note(f"{film.name} is left out: its {size / 2**20:.1f} MiB are more than a page should hold.")
            )
            continue
        room -= size
        source = "data:video/mp4;base64," + base64.b64encode(film.read_bytes()).decode()
        video = tag("video", src=source, controls=True, preload="metadata", playsinline=True, loop=True)
        caption = tag("figcaption", film.stem, tag("small", f" {film.name}, {size / 1024:.0f} KiB"))
        shown.append(tag("figure", caption, video))
    return section("Films", tag("div", *shown, class_="charts")) if shown else Html()


def _diagnostics(run: RunFiles) -> Iterator[Html]:
    for title, pictures, remark in metric_charts(run.rows, run.imitation):
        yield section(title, note(remark) if remark else None, tag("div", *pictures, class_="charts"))


def _settings(run: RunFiles) -> Html:
    versions = _versions(run.starts)
    faults = bullets([file.name for file in run.faults])
    return section(
        "Settings and versions",
        tag("div", *_settings_tables(run), class_="charts"),
        versions,
        join([note("What was saved where something broke, in faults/:"), faults]) if run.faults else None,
        details("summary.json", tag("pre", json.dumps(run.summary, indent=2))) if run.summary else None,
    )


def _versions(starts: Sequence[Document]) -> Html | None:
    if not starts:
        return None
    names = list(dict.fromkeys(name for start in starts for name in start))
    header = ("", *("start" if place == 0 else f"resume {place}" for place in range(len(starts))))
    rows = [(name, *(_shown(start.get(name)) for start in starts)) for name in names]
    return table(header, rows, caption="Versions, at the start and at each resume", numbers=False)


def _settings_tables(run: RunFiles) -> Iterator[Html]:
    """One of the settings of the command, and one of each group of them."""
    groups = {name: cast(Document, value) for name, value in run.config.items() if isinstance(value, dict)}
    rest = {name: value for name, value in run.config.items() if name not in groups}
    for name, settings in {f"otpr {run.command}": rest, **groups}.items():
        rows = [(key, json.dumps(value, ensure_ascii=False).strip('"')) for key, value in settings.items()]
        yield table(("setting", "value"), rows, caption=name, numbers=False)


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
