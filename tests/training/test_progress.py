from __future__ import annotations

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from otpr.training import progress
from otpr.training.progress import Progress


class Clock:
    """Time as the test tells it, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


def test_without_a_terminal_a_line_every_ten_seconds_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with Progress(60_000, "fine-tuning", "steps") as task:
        for _ in range(60):
            clock.now += 1
            task.advance(1000)
    assert capsys.readouterr().out.splitlines() == [
        "fine-tuning: 10,000/60,000 steps (17%), 1,000 steps/s, 50s left",
        "fine-tuning: 20,000/60,000 steps (33%), 1,000 steps/s, 40s left",
        "fine-tuning: 30,000/60,000 steps (50%), 1,000 steps/s, 30s left",
        "fine-tuning: 40,000/60,000 steps (67%), 1,000 steps/s, 20s left",
        "fine-tuning: 50,000/60,000 steps (83%), 1,000 steps/s, 10s left",
        "fine-tuning: 60,000 steps in 1m 00s (1,000 steps/s)",
    ]


def test_fields_are_shown_until_replaced(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress(40, "collecting", "episodes") as task:
        clock.now += 20
        task.advance(10, success=0.43210, kept=7, q_mean=-12345.6)
        clock.now += 20
        task.advance(10, success=0.5)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == (
        "collecting: 10/40 episodes (25%), 30.0 episodes/min, 1m 00s left, "
        "success 0.432, kept 7, q mean -1.23e+04"
    )
    assert second.endswith("40s left, success 0.5, kept 7, q mean -1.23e+04")
    assert last.startswith("collecting: 20 episodes in 40s (30.0 episodes/min), success 0.5")


def test_forecast_forgets_a_slow_start(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress(1000, "training", "updates") as task:
        clock.now += 300  # compiling
        task.advance(1)
        for _ in range(99):
            clock.now += 1
            task.advance(1)
    assert "training: 91/1,000 updates (9%), 1.0 updates/s, 15m 09s left" in capsys.readouterr().out


def test_forecast_needs_no_advance_in_the_last_minute(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress(10, "training", "rounds") as task:
        for _ in range(2):
            clock.now += 1800
            task.advance(1)
    assert "2/10 rounds (20%), 0.0 rounds/min, 4h 00m left" in capsys.readouterr().out


def test_resumed_task_counts_all_and_times_only_its_own(clock: Clock, capsys: pytest.CaptureFixture[str]):
    with Progress(100, "training", "steps", done=50) as task:
        clock.now += 10
        task.advance(25)
    assert capsys.readouterr().out.splitlines() == [
        "training: 75/100 steps (75%), 2.5 steps/s, 10s left",
        "training: 75 steps in 10s (2.5 steps/s)",
    ]


def test_interrupted_task_says_how_far_it_came(clock: Clock, capsys: pytest.CaptureFixture[str]):
    task = Progress(100, "training", "steps")

    def interrupted() -> None:
        with task:
            clock.now += 5
            task.advance(30)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert capsys.readouterr().out == "training: stopped at 30 of 100 steps after 5.0s (6.0 steps/s)\n"


def test_messages_are_lines_and_the_closing_line_can_be_left_to_the_caller(
    clock: Clock, capsys: pytest.CaptureFixture[str]
):
    with Progress(3, "evaluating", "episodes", closing_line=False) as task:
        task.advance(3)
        task.message("success [43%] of 100")
    assert capsys.readouterr().out == "success [43%] of 100\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (3599.6, "1h 00m"),
        (90061, "25h 01m"),
    ],
)
def test_durations(seconds: float, text: str):
    assert progress._duration(seconds) == text


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal_a_bar_with_messages_above_it_and_nested_bars():
    script = """
import time
from otpr.training.progress import Progress
with Progress(4, "outer", "steps") as outer:
    outer.advance(2, success=0.25)
    outer.message("a [long] line " + "x" * 100)
    with Progress(5, "inner", "episodes") as inner:
        inner.advance(5)
    time.sleep(0.3)  # bars are drawn ten times a second
    outer.advance(2)
"""
    main, side = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    subprocess.run([sys.executable, "-c", script], stdout=side, stderr=side, env=environment, check=True)
    os.close(side)
    output = b""
    try:
        while piece := os.read(main, 65536):
            output += piece
    except OSError:  # Linux reports the end of a pseudo-terminal so
        pass
    finally:
        os.close(main)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert "a [long] line " + "x" * 100 + "\r\n" in text
    assert "\u2501" in text  # the bar
    assert "inner: 5 episodes in 0.0s" in text
    assert "outer: 4 steps in 0." in text
    assert "2/4 steps (50%)" in text
