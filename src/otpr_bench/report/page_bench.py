"""The page of many runs: where ours loses, curves of every task, tables, profiles, what failed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from otpr.errors import OtprError
from otpr_bench.figures import THRESHOLDS, curve, over_time, whole
from otpr_bench.losses import where_ours_loses
from otpr_bench.report.charts import Bar, Look, Series, bars, chart, legend
from otpr_bench.report.html import Html, bullets, details, table, tag
from otpr_bench.report.page import note, page, section
from otpr_bench.report.style import styles
from otpr_bench.results import Row, read_results
from otpr_bench.statistics import interquartile_estimate, performance_profile
from otpr_bench.study import OURS, Study, gather, newest
from otpr_bench.tables import (
    Table,
    aggregate_table,
    choice_table,
    failure_table,
    improvement_table,
    percent,
    success_table,
)


def find_results(path: Path) -> tuple[Path, Path | None]:
    """The results file that `otpr report` is asked for, and the bench directory if it was given one.

    A bench directory keeps runs; its results are a Parquet file in it, or, as `otpr bench` writes them, in
    `results/bench/` under the name of the directory.

    Raises:
        OtprError: there is no such file, or several.
    """
    if path.is_file():
        return path, None
    beside = Path("results", "bench", f"{path.resolve().name}.parquet")
    found = sorted(path.glob("*.parquet")) or [file for file in (beside,) if file.is_file()]
    if len(found) == 1:
        return found[0], path
    raise OtprError(
        f"{path} is no run directory (it has no config.json), and as a bench directory it has "
        f"{len(found) or 'no'} Parquet files, {beside} counted. Name the results file itself."
    )


def bench_page(results: Path, directory: Path | None, out: Path) -> str:
    """The report of a results file as HTML.

    Args:
        results: the Parquet file.
        directory: where the runs are kept, for their films; None where that is not known.
        out: where the page will be, for links to the films.

    Raises:
        OtprError: the file cannot be read, or its newest runs do not compare.
    """
    rows = read_results(results)
    kept = newest(rows)
    study = gather(kept)
    looks = {
        method: Look(place, style) for place, (method, style) in enumerate(styles(study.methods).items())
    }
    everywhere = whole(study)
    pictures = [_bars(study, looks), _profiles(study, looks), _time(study, looks)] if everywhere else []
    left_out = [method for method in study.methods if method not in everywhere]
    remark = f"Without {', '.join(left_out)}: no finished run on some task." if left_out else ""
    choices = choice_table(study)
    failures = _table(failure_table(study), numbers=False) if study.failures else ()
    return page(
        f"{study.suite} - otpr report",
        [look.style for look in looks.values()],
        tag("h1", f"{study.suite}: {len(study.methods)} methods on {len(study.tasks)} tasks"),
        _summary(study, left=len(rows) - len(kept)),
        section(f"Where {OURS} loses", bullets(where_ours_loses(study))),
        section(
            "Learning curves",
            note("Mean over seeds; the band reaches from the lowest to the highest seed."),
            legend(looks),
            tag("div", *_curves(study, looks), class_="charts"),
        ),
        section("Final success on each task", *_table(success_table(study))),
        section("One sample, and what choosing adds", *(_table(choices) if choices.rows else ())),
        section(
            "All tasks together",
            legend({method: looks[method] for method in everywhere}) if pictures else None,
            tag("div", *pictures, class_="charts") if pictures else None,
            note(remark) if remark else None,
            *_table(aggregate_table(study)),
        ),
        section(f"{OURS} against each other method", *_table(improvement_table(study))),
        section("Runs that failed", *failures),
        section("Films of runs", *_films(directory, out)),
        _provenance(study),
        tag("footer", f"Made by otpr report from {results.name}. Nothing here was fetched."),
    )


def _summary(study: Study, *, left: int) -> Html:
    finished = [run for run in study.runs if not run.failed]
    missing = sum(study.missing(method, task) for method in study.methods for task in study.tasks)
    failed, hours = len(study.failures), sum(run.minutes[-1] for run in finished) / 60
    episodes = sum(sum(run.episodes) for run in finished)
    numbers = [
        ("finished runs", str(len(finished)), f"{hours:.1f} hours in all"),
        ("failed runs", str(failed), "shown as failed, never as zero"),
        ("missing runs", str(missing), "failed, or other methods have them"),
        ("evaluated episodes", f"{episodes:,}", "of all evaluations"),
    ]
    tiles = [
        tag("div", tag("span", name), tag("strong", value), tag("span", detail))
        for name, value, detail in numbers
    ]
    older = f"{left:,} rows of older versions, settings or base policies are left out."
    return tag("section", tag("div", *tiles, class_="numbers"), note(older) if left else None)


def _curves(study: Study, looks: dict[str, Look]) -> Iterator[Html]:
    for task in study.tasks:
        series: list[Series] = []
        numbers: list[tuple[str, ...]] = []
        shown: set[int] = set()
        for method in study.methods:
            found = curve(study, method, task)
            if found is None:
                continue
            steps, rates = found
            shown.update(steps)
            mean, low, high = rates.mean(axis=0), rates.min(axis=0), rates.max(axis=0)
            seeds = "1 seed" if len(rates) == 1 else f"{len(rates)} seeds"
            tips = [
                f"{step:,} steps: {mean[place]:.1%}, {seeds}"
                + (f" ({', '.join(f'{rate:.0%}' for rate in rates[:, place])})" if len(rates) > 1 else "")
                for place, step in enumerate(steps)
            ]
            band = (list(low), list(high)) if len(rates) > 1 else ((), ())
            series.append(
                Series(method, steps, list(mean), tips, looks[method], *band, strong=method == OURS)
            )
        if not series:
            yield note(f"{task}: no finished run.")
            continue
        places = sorted(shown)
        for one in series:
            at = dict(zip(one.x, one.y, strict=True))
            numbers.append((one.name, *(f"{at[step]:.1%}" if step in at else "" for step in places)))
        picture = chart(series, title=task, x_label="environment steps", share=True)
        header = ("method", *(f"{step:,}" for step in places))
        yield tag("div", picture, details("Numbers", table(header, numbers, caption=f"{task}: mean success")))


def _bars(study: Study, looks: dict[str, Look]) -> Html:
    estimates = {
        method: interquartile_estimate(groups)
        for method in study.methods
        if (groups := study.groups(method)) is not None
    }
    order = sorted(estimates, key=lambda method: -estimates[method].value)
    rows = [Bar(name, *estimates[name], tip=percent(estimates[name]), look=looks[name]) for name in order]
    return bars(rows, title="Interquartile mean", label="final success, 95% interval")


def _profiles(study: Study, looks: dict[str, Look]) -> Html:
    series: list[Series] = []
    for method in whole(study):
        found = performance_profile(study.groups(method) or [], THRESHOLDS)
        tips = [
            f"{one.value:.1%} of runs end above {threshold:.0%}"
            + ("" if math.isnan(one.low) else f"\n95% interval {one.low:.1%} to {one.high:.1%}")
            for threshold, one in zip(THRESHOLDS, found, strict=True)
        ]
        values = [one.value for one in found]
        ours = method == OURS
        series.append(Series(method, THRESHOLDS, values, tips, looks[method], steps=True, strong=ours))
    return chart(
        series,
        title="Performance profiles",
        x_label="threshold of success",
        y_label="runs that end above it",
        share=True,
        x_share=True,
    )


def _time(study: Study, looks: dict[str, Look]) -> Html:
    series: list[Series] = []
    for method in whole(study):
        minutes, success = over_time(study, method)
        if minutes[0] == minutes[-1]:  # imitation alone: one evaluation
            minutes, success = minutes[:1], success[:1]
        tips = [f"{time:.1f} minutes: {rate:.1%}" for time, rate in zip(minutes, success, strict=True)]
        at, rates = [float(time) for time in minutes], [float(rate) for rate in success]
        series.append(Series(method, at, rates, tips, looks[method], strong=method == OURS))
    return chart(
        series,
        title="Success over time",
        x_label="wall-clock minutes of a run",
        y_label="mean over tasks and seeds",
        share=True,
    )


def _table(content: Table, *, numbers: bool = True) -> Sequence[Html]:
    return table(content.header, content.rows, numbers=numbers), note(content.note)


def _films(directory: Path | None, out: Path) -> Iterator[Html]:
    """Links to the films of runs, by way of the folder the page is in; nothing where there are none."""
    films = sorted(directory.glob("runs/*/*/*/videos/*.mp4")) if directory else []
    links: list[Html] = []
    for film in films:
        where = quote(os.path.relpath(film.resolve(), out.resolve().parent))
        links.append(tag("li", tag("a", " ".join(film.parts[-5:-2]) + f" {film.stem}", href=where)))
    if links:
        yield note("These stay where the runs are: the links work while the page lies where it was written.")
        yield tag("ul", *links)


def _provenance(study: Study) -> Html:
    rows: dict[tuple[str, ...], list[Row]] = {}
    for run in study.runs:
        row = run.row
        rows.setdefault((run.method, run.task, row.code_version, row.settings, row.base), []).append(row)
    lines = [
        (*key, f"{len(alike)}, from {min(row.started for row in alike)[:10]}") for key, alike in rows.items()
    ]
    machines = sorted({run.row.machine for run in study.runs})
    header = ("method", "task", "code", "settings", "base policy", "runs")
    return section(
        "Versions and settings",
        note(f"Measured on: {'; '.join(machines)}. Hashes are explained in docs/bench.md."),
        details("Every method on every task", table(header, lines, numbers=False)),
    )
