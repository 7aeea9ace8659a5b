"""The progress, rate and remaining time of a long task."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

import rich
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

SECONDS_BETWEEN_LINES = 10.0
"""Seconds between two lines without a terminal, so that long logs stay readable."""

RATE_WINDOW_SECONDS = 60.0
"""Window of the rate in seconds; it limits the effect of the initial compilation on the forecast."""


class Progress:
    """A progress bar in a terminal; elsewhere (a pipe, a log, a notebook) a line every ten seconds.

        with Progress(60_000, "fine-tuning", "steps") as progress:
            for _ in range(6):
                progress.advance(10_000, success=0.43)
                progress.message("evaluation at 10,000 steps: 43 of 100")

    Both end in one line that says how long it took. One may run inside another.

    Args:
        total: how many units there are to do, >= 1.
        description: what is being done, e.g. "fine-tuning".
        unit: the units, in the plural, e.g. "steps".
        done: how many were done before, in the run that is resumed.
        closing_line: False where the caller prints a line on the outcome itself.
    """

    def __init__(
        self, total: int, description: str, unit: str, *, done: int = 0, closing_line: bool = True
    ) -> None:
        self.total = total
        self.description = description
        self.unit = unit
        self.done = done
        self._done_before = done
        self._closing_line = closing_line
        self._fields: dict[str, object] = {}
        # Decided once, because a bar and plain lines must not be mixed.
        self._bar = _make_bar() if sys.stdout.isatty() and not rich.get_console().is_dumb_terminal else None

    def __enter__(self) -> Self:
        self._start = self._last_line = time.monotonic()
        self._history = deque([(self._start, self.done)])
        if self._bar is not None:
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.done, status=""
            )
            self._bar.start()
        return self

    def advance(self, n: int = 1, **fields: object) -> None:
        """Count `n` units as done.

        Args:
            n: how many were done since the last call, >= 0.
            fields: latest values to show beside the bar, e.g. `success=0.43`; each stays until replaced.
        """
        now = time.monotonic()
        self.done += n
        self._fields.update(fields)
        self._history.append((now, self.done))
        # The entry just outside the window stays: where an advance takes minutes, there is still a rate.
        while self._history[1][0] <= now - RATE_WINDOW_SECONDS:
            self._history.popleft()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, status=self._status())
        elif now - self._last_line >= SECONDS_BETWEEN_LINES and self.done < self.total:
            self._last_line = now
            print(f"{self.description}: {self._status()}", flush=True)

    def message(self, text: str) -> None:
        """Print a separate line above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if not self._closing_line:
            return
        seconds = time.monotonic() - self._start
        done = self.done - self._done_before
        rate = f" ({_rate(done / seconds, self.unit)})" if done and seconds > 0 else ""
        if error is None:
            text = f"{self.description}: {self.done:,} {self.unit} in {_duration(seconds)}{rate}"
        else:
            count = f"{self.done:,} of {self.total:,} {self.unit}"
            text = f"{self.description}: stopped at {count} after {_duration(seconds)}{rate}"
        self.message(text + self._shown_fields())

    def _status(self) -> str:
        """E.g. "12,000/60,000 steps (20%), 340 steps/s, 2m 21s left, success 0.43"."""
        count = f"{self.done:,}/{self.total:,} {self.unit} ({self.done / self.total:.0%})"
        (first_time, first_done), (last_time, last_done) = self._history[0], self._history[-1]
        if last_time == first_time or last_done == first_done:
            return count + self._shown_fields()
        rate = (last_done - first_done) / (last_time - first_time)
        left = _duration(max(0.0, (self.total - self.done) / rate))
        return f"{count}, {_rate(rate, self.unit)}, {left} left{self._shown_fields()}"

    def _shown_fields(self) -> str:
        return "".join(
            f", {name.replace('_', ' ')} {f'{value:.3g}' if isinstance(value, float) else value}"
            for name, value in self._fields.items()
        )


def _make_bar() -> RichProgress:
    return RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        # A bar that wraps leaves its old lines behind in a narrow terminal.
        TextColumn(
            "{task.fields[status]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
        ),
        console=rich.get_console(),
        transient=True,  # the closing line takes its place
    )


def _duration(seconds: float) -> str:
    """E.g. "0.4s", "35s", "4m 10s", "1h 02m"."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def _rate(per_second: float, unit: str) -> str:
    """E.g. "1,234 steps/s", "3.2 episodes/s", "4.5 rounds/min"."""
    if per_second >= 10:
        return f"{per_second:,.0f} {unit}/s"
    if per_second >= 1:
        return f"{per_second:.1f} {unit}/s"
    return f"{per_second * 60:.1f} {unit}/min"
