"""The report of one run: results in words, curves, videos and settings."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from otpr.training.intervals import newcombe_interval
from otpr_bench.report.metric_charts import metric_sections, success_chart
from otpr_bench.report.otpr_words import transport_health
from otpr_bench.report.page import render
from otpr_bench.report.run_files import Document, Rate, RunFiles, number, read_run, success
from otpr_bench.report.seen import strips
from otpr_bench.tables import Table

VIDEO_LIMIT = 12 * 2**20  # bytes of the largest embedded video; base64 adds a third
VIDEOS_LIMIT = 48 * 2**20  # bytes of all videos of a page together


def run_page(path: Path) -> str:
    """The report of a run directory as HTML.

    Raises:
        OtprError: the directory holds no run, or a file is damaged.
    """
    run = read_run(path)
    title, line = _headline(run)
    numbers, sentences = _story(run)
    return render(
        "run.html",
        title=title,
        line=line,
        numbers=numbers,
        sentences=sentences,
        success=success_chart(run.rows, success(run.summary or {}, "base_success")),
        on_the_way=_evaluations_on_the_way(run.rows),
        afterwards=_evaluations(run.evaluations),
        films=list(_films(run)),
        strips=list(strips(run.path)),
        sections=list(metric_sections([*run.rows, *run.imitation])),
        settings=dict(_settings(run)),
        versions=_versions(run.starts),
        faults=[file.name for file in run.faults],
        summary=json.dumps(run.summary, indent=2) if run.summary else "",
        source=run.path.name or str(run.path),
    )


def _headline(run: RunFiles) -> tuple[str, str]:
    """Title of the page, and the line below it."""
    told = {**run.config, **(run.summary or {})}
    algorithm, preset = told.get("algorithm"), told.get("preset")
    how = " ".join(str(part) for part in (algorithm or run.command, f"({preset})" if preset else "") if part)
    title = f"{how} on {told['task']}" if told.get("task") else how
    begun = str(run.starts[0].get("started", "")) if run.starts else ""
    seed = f"seed {told['seed']}" if "seed" in told else ""
    parts = (run.path.name, seed, f"started {begun}" if begun else "")
    return title, ", ".join(part for part in parts if part)


def _story(run: RunFiles) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The results of a run: numbers as name, value and detail, and sentences, the most important first."""
    last = {name: value for row in run.rows for name in row if (value := number(row, name)) is not None}
    numbers, sentences = _success(run)
    steps = last.get("env_steps")
    seconds = number(run.summary or {}, "wall_seconds") or last.get("seconds")
    if steps:
        numbers.append(("environment steps", f"{steps:,.0f}", f"seed {run.config.get('seed', '-')}"))
    if seconds:
        numbers.append(("minutes", f"{seconds / 60:.1f}", "of wall-clock time, all sittings"))
    health = (*_imitation([*run.imitation, *run.rows]), *transport_health(last, run.config), *_health(last))
    return numbers, [*_ending(run), *sentences, *health]


def _ending(run: RunFiles) -> Iterator[str]:
    sittings = f" in {len(run.starts)} sittings" if len(run.starts) > 1 else ""
    if run.summary is None and run.command in ("finetune", "quickstart"):
        yield f"The run has not ended{sittings}: this is how far it came. Go on with --resume."
    elif sittings:
        yield f"The run ended{sittings}."
    if run.faults:
        yield f"Something broke on the way: faults/ holds {len(run.faults)} files that show what."


def _success(run: RunFiles) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Numbers and sentences on the first and the last evaluation; empty without evaluations."""
    evaluated = [(row, rate) for row in run.rows if (rate := success(row, "eval/success_rate"))]
    if not evaluated:
        return [], []
    (first, before), (last, after) = evaluated[0], evaluated[-1]
    numbers: list[tuple[str, str, str]] = []
    started = not number(first, "env_steps")
    if started:
        numbers.append(("before", f"{before.value:.0%}", _of(before)))
    if len(evaluated) > 1 or not started:
        when = "after" if run.summary else "so far"
        numbers.append((f"{when}, as deployed", f"{after.value:.0%}", _of(after)))
        if single := success(last, "eval/success_rate_single"):
            numbers.append(("one sample, no choice", f"{single.value:.0%}", _of(single)))
    if started and len(evaluated) == 1:
        return numbers, ["The policy was evaluated once, before the first environment step."]
    if not (started and before.episodes and after.episodes):
        return numbers, []
    low, high = newcombe_interval(after.value, after.interval, before.value, before.interval)
    undecided = "no difference that can be told from chance"
    verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else undecided
    return numbers, [
        f"Success went from {before.value:.0%} to {after.value:.0%} in {number(last, 'env_steps') or 0:,.0f} "
        f"environment steps: {100 * (after.value - before.value):+.0f} points, 95% interval {100 * low:+.0f} "
        f"to {100 * high:+.0f}; {verdict}.",
        "The intervals are of this run's episodes; another seed may differ by more. The last evaluation "
        "counts, no checkpoint was selected.",
    ]


def _imitation(rows: Sequence[Document]) -> Iterator[str]:
    losses = [loss for row in rows if (loss := number(row, "pretrain/loss")) is not None]
    held_out = [loss for row in rows if (loss := number(row, "pretrain/held_out_loss")) is not None]
    if losses:
        steps = max(number(row, "updates") or 0 for row in rows if number(row, "pretrain/loss") is not None)
        tail = f", {held_out[-1]:.3g} on held-out episodes" if held_out else ""
        change = f"from {losses[0]:.3g} to {losses[-1]:.3g} in {steps:,.0f} gradient steps"
        yield f"Imitation: the loss went {change}{tail}."


def _health(last: Mapping[str, float]) -> Iterator[str]:
    """Checks that a reader should make before trusting the results."""
    if (beyond := last.get("critic/beyond_bound", 0.0)) > 0.05:
        yield f"The critic's values are beyond what rewards allow for {beyond:.0%} of pairs. Distrust them."
    if broken := last.get("rollout/broken_episodes"):
        yield f"{broken:.0f} training episodes were lost to an environment that broke."


def _of(rate: Rate) -> str:
    low, high = rate.interval
    return f"of {rate.episodes:,} episodes [{100 * low:.0f}, {100 * high:.0f}]" if rate.episodes else ""


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
