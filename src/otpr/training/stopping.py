"""Ctrl-C and SIGTERM: finish the step at hand, save, and say how to go on."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class Stopped(Exception):  # noqa: N818 - no error
    """A run was asked to stop and has saved its state; the message says where it stands."""


class StopRequest:
    """While entered, it turns the first SIGINT or SIGTERM into `requested`; a second one ends the process.

    Whoever loops looks at `requested` between steps that leave a consistent state, saves, and calls
    `leave_if_requested`. Outside the main thread signals stay as they are.
    """

    requested: bool = False

    def __enter__(self) -> Self:
        self._before: dict[signal.Signals, Any] = {}
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

    def leave_if_requested(self, message: str) -> None:
        """Raise `Stopped` with the message if a stop was requested."""
        if self.requested:
            raise Stopped(message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
