"""What happened in a run, in words and a few large numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from otpr.training.intervals import newcombe_interval
from otpr_bench.report.otpr_words import transport_health
from otpr_bench.report.run_files import Document, Rate, RunFiles, number, success


class Story(NamedTuple):
    """What happened in a run."""

    numbers: list[tuple[str, str, str]]  # name, value, detail
    sentences: list[str]  # the most important first


def headline(run: RunFiles) -> tuple[str, str]:
    """Title of the page, and the line below it."""
    told = {**run.config, **(run.summary or {})}
    algorithm, preset = told.get("algorithm"), told.get("preset")
    how = " ".join(str(part) for part in (algorithm or run.command, f"({preset})" if preset else "") if part)
    title = f"{how} on {told['task']}" if told.get("task") else how
    begun = str(run.starts[0].get("started", "")) if run.starts else ""
    seed = f"seed {told['seed']}" if "seed" in told else ""
    parts = (run.path.name, seed, f"started {begun}" if begun else "")
    return title, ", ".join(part for part in parts if part)


def story(run: RunFiles) -> Story:
    """What happened in a run, from its files alone."""
    last = {name: value for row in run.rows for name in row if (value := number(row, name)) is not None}
    numbers, sentences = _success(run)
    steps = last.get("env_steps")
    seconds = number(run.summary or {}, "wall_seconds") or last.get("seconds")
    if steps:
        numbers.append(("environment steps", f"{steps:,.0f}", f"seed {run.config.get('seed', '-')}"))
    if seconds:
        numbers.append(("minutes", f"{seconds / 60:.1f}", "of wall-clock time, all sittings"))
    health = (*_imitation([*run.imitation, *run.rows]), *transport_health(last, run.config), *_health(last))
    return Story(numbers, [*_ending(run), *sentences, *health])


def _ending(run: RunFiles) -> Iterator[str]:
    sittings = f" in {len(run.starts)} sittings" if len(run.starts) > 1 else ""
    if run.summary is None and run.command in ("finetune", "quickstart"):
        yield f"The run has not ended{sittings}: this is how far it came. Go on with --resume."
    elif sittings:
        yield f"The run ended{sittings}."
    if run.faults:
        yield f"Something broke on the way: faults/ holds {len(run.faults)} files that show what."


def _success(run: RunFiles) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Numbers and sentences on the first and the last evaluation; none where there was no evaluation."""
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
    """What a reader should check before trusting the rest."""
    if (beyond := last.get("critic/beyond_bound", 0.0)) > 0.05:
        yield f"The critic's values are beyond what rewards allow for {beyond:.0%} of pairs. Distrust them."
    if broken := last.get("rollout/broken_episodes"):
        yield f"{broken:.0f} training episodes were lost to an environment that broke."


def _of(rate: Rate) -> str:
    low, high = rate.interval
    return f"of {rate.episodes:,} episodes [{100 * low:.0f}, {100 * high:.0f}]" if rate.episodes else ""
