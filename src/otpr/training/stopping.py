"""Handling of Ctrl-C and SIGTERM: leave the current step and save, or remove partial output."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from types import FrameType, TracebackType
from typing import Any, NoReturn, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_LOOK = 0.1
"""Seconds between two checks for a stop request while work runs in a thread."""


class Stopped(Exception):  # noqa: N818 - no error
    """A run was asked to stop and has saved its state; the message gives its position."""


class Abandoned(Exception):  # noqa: N818 - no error
    """A stop was requested during a step, which has changed nothing yet and will be repeated."""


class StopRequest:
    """While entered, it turns the first SIGINT or SIGTERM into `requested`; a second one ends the process.

    Whoever loops looks at `requested` between steps that leave a consistent state, or calls `abandon` within
    one and `do` for long calls into compiled code, saves, and calls `leave_if_requested`. Outside the main
    thread signals stay as they are.
    """

    requested: bool = False

    def __init__(self) -> None:
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        # A second signal is the operating system's: it ends the process even in the middle of compiled code,
        # where an exception would have to wait. What is on disk bears that at any instant.
        for other in self._before:
            signal.signal(other, signal.SIG_DFL)
        # not `print`: the signal may have come in the middle of one, which may not be entered twice
        os.write(1, b"\nStopping: saving first, which takes a few seconds. Once more stops at once.\n")

    def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `work`, but do not wait for its end if a stop is requested meanwhile.

        Compiling takes many seconds and cannot be interrupted. So the work is done in a thread, and a stop
        leaves that behind: it must change nothing but what it returns. `exit_process` then ends the process.

        Raises:
            Abandoned: a stop was requested.
        """
        if not self._before:  # no signal is handled, so none is waited for
            return work(*args, **kwargs)
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - `result` raises it
                future.set_exception(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not self.requested:
            if wait([future], timeout=_LOOK).done:
                return future.result()
        _left_behind.append(thread)
        raise Abandoned

    def abandon(self) -> None:
        """Raise `Abandoned` if a stop was requested."""
        if self.requested:
            raise Abandoned

    def leave_if_requested(self, message: str) -> None:
        """Raise `Stopped` with the message if a stop was requested."""
        if self.requested:
            raise Stopped(message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextlib.contextmanager
def undone_by_sigterm(what: str) -> Generator[None]:
    """While entered, SIGTERM ends the process as Ctrl-C does: what has begun to be written is removed first.

    For work that cannot be resumed, and calls no compiled code, in which an exception would have to wait.
    Outside the main thread the signal stays as it is.

    Args:
        what: what was not done, e.g. "nothing was converted"; it is printed.

    Raises:
        SystemExit: with status 143, at the signal.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once
        os.write(2, f"\notpr: terminated; {what}.\n".encode())
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_left_behind: list[threading.Thread] = []


def exit_process(status: int) -> NoReturn:
    """End the process with an exit status, at once where `StopRequest.do` has left work behind.

    Python would tear down what the compiled code of that thread is using.
    """
    if any(thread.is_alive() for thread in _left_behind):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
