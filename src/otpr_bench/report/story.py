"""What happened in a run, in words and a few large numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from otpr.training.intervals import Interval, newcombe_interval, wilson_interval
from otpr_bench.report.otpr_words import transport_health
from otpr_bench.report.run_files import Document, RunFiles, episodes, number, success


@dataclasses.dataclass(frozen=True)
class Story:
    """Numbers, as name, value and detail, and sentences, the first of them the most important."""

    numbers: list[tuple[str, str, str]]
    sentences: list[str]


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
    evaluated = [row for row in run.rows if success(row, "eval/success_rate") is not None]
    numbers: list[tuple[str, str, str]] = []
    sentences = list(_ending(run))
    if evaluated:
        found, said = _success(run, evaluated)
        numbers += found
        sentences += said
    last = run.rows[-1] if run.rows else {}
    steps, seconds = number(last, "env_steps"), number(run.summary or last, "wall_seconds")
    seconds = seconds if seconds is not None else number(last, "seconds")
    if steps:
        numbers.append(("environment steps", f"{steps:,.0f}", f"seed {run.config.get('seed', '-')}"))
    if seconds:
        numbers.append(("minutes", f"{seconds / 60:.1f}", "of wall-clock time, all sittings"))
    sentences += [*_imitation([*run.imitation, *run.rows]), *_health(run)]
    return Story(numbers, sentences)


def _ending(run: RunFiles) -> Iterator[str]:
    sittings = f" in {len(run.starts)} sittings" if len(run.starts) > 1 else ""
    if run.summary is None and run.command in ("finetune", "quickstart"):
        yield f"The run has not ended{sittings}: this is how far it came. Go on with --resume."
    elif sittings:
        yield f"The run ended{sittings}."
    if run.faults:
        yield f"Something broke on the way: faults/ holds {len(run.faults)} files that show what."


def _success(run: RunFiles, evaluated: Sequence[Document]) -> tuple[list[tuple[str, str, str]], list[str]]:
    first, last = evaluated[0], evaluated[-1]
    numbers: list[tuple[str, str, str]] = []
    sentences: list[str] = []
    before = (success(first, "eval/success_rate") or 0.0, episodes(first))
    after = (success(last, "eval/success_rate") or 0.0, episodes(last))
    steps = number(last, "env_steps") or 0
    started = not number(first, "env_steps")
    if started:
        numbers.append(("before", f"{before[0]:.0%}", _of(*before)))
    if len(evaluated) > 1 or not started:
        when = "after" if run.summary else "so far"
        numbers.append((f"{when}, as deployed", f"{after[0]:.0%}", _of(*after)))
        single = success(last, "eval/success_rate_single")
        if single is not None:
            numbers.append(("one sample, no choice", f"{single:.0%}", _of(single, after[1])))
    if started and len(evaluated) > 1 and before[1] and after[1]:
        intervals = _wilson(after[0], after[1]), _wilson(before[0], before[1])
        low, high = newcombe_interval(after[0], intervals[0], before[0], intervals[1])
        change = after[0] - before[0]
        undecided = "no difference that can be told from chance"
        verdict = "clearly better" if low > 0 else "clearly worse" if high < 0 else undecided
        sentences.append(
            f"Success went from {before[0]:.0%} to {after[0]:.0%} in {steps:,.0f} environment steps: "
            f"{100 * change:+.0f} points, 95% interval {100 * low:+.0f} to {100 * high:+.0f}; {verdict}."
        )
        sentences.append(
            "The intervals are of this run's episodes; another seed may differ by more. The last evaluation "
            "counts, no checkpoint was selected."
        )
    elif started and len(evaluated) == 1:
        sentences.append("The policy was evaluated once, before the first environment step.")
    return numbers, sentences


def _imitation(rows: Sequence[Document]) -> Iterator[str]:
    losses = [loss for row in rows if (loss := number(row, "pretrain/loss")) is not None]
    held_out = [loss for row in rows if (loss := number(row, "pretrain/held_out_loss")) is not None]
    if losses:
        steps = max(number(row, "updates") or 0 for row in rows if number(row, "pretrain/loss") is not None)
        tail = f", {held_out[-1]:.3g} on held-out episodes" if held_out else ""
        yield (
            f"Imitation: the loss went from {losses[0]:.3g} to {losses[-1]:.3g} in {steps:,.0f} gradient "
            f"steps{tail}."
        )


def _health(run: RunFiles) -> Iterator[str]:
    """What a reader should check before trusting the rest."""
    last = {name: value for row in run.rows for name in row if (value := number(row, name)) is not None}
    yield from transport_health(last, run.config)
    if (beyond := last.get("critic/beyond_bound", 0.0)) > 0.05:
        yield (
            f"The critic's values are beyond what rewards allow for {beyond:.0%} of pairs: they are not to "
            "be trusted."
        )
    if broken := last.get("rollout/broken_episodes"):
        yield f"{broken:.0f} training episodes were lost to an environment that broke."


def _of(rate: float, count: int | None) -> str:
    if count is None:
        return ""
    low, high = _wilson(rate, count)
    return f"of {count:,} episodes [{100 * low:.0f}, {100 * high:.0f}]"


def _wilson(rate: float, count: int) -> Interval:
    return wilson_interval(round(rate * count), count)
