"""An object in a separate process, whose methods are called over a pipe."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from multiprocessing import Pipe
from typing import Any

from otpr.errors import OtprError

_CLOSING_SECONDS = 5.0
"""Seconds that a process may take to end by itself before it is killed."""


class BrokenEnvironmentError(OtprError):
    """An environment raised, hung, died or violated its interface; the message gives the details."""


class ServedProcess:
    """An object in a separate process, in which `otpr.envs.worker.serve` runs.

    Once `receive` has raised, the process is ending or gone: `close` it and start another.

    Args:
        factory: "module:name" of a callable that makes the object.
        arguments: the arguments of the factory, which are pickled.
        task_id: the task, for errors.
        who: what the process is, for errors, e.g. "the simulator's process".
        env: environment variables of the process in addition to those of this one.
    """

    def __init__(
        self, factory: str, arguments: tuple[Any, ...], *, task_id: str, who: str, env: Mapping[str, str]
    ):
        self._task_id, self._who = task_id, who
        self._asked, self._patience, self._deadline = "start", math.inf, math.inf
        self._connection, child_end = Pipe()
        # Not `multiprocessing.Process`: forking is unsafe with JAX's threads, and both other start methods
        # import the caller's main module in the child, which would load JAX there (and break scripts without
        # a main guard). A separate process group leaves Ctrl-C to the parent; when the parent ends, the
        # closed pipe ends the child.
        boot = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from otpr.envs.worker import serve; serve(sys.argv[2], int(sys.argv[3]))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", boot, json.dumps(sys.path), factory, str(child_end.fileno())],
            env={**os.environ, **env},
            pass_fds=[child_end.fileno()],
            process_group=0,
        )
        child_end.close()
        with contextlib.suppress(OSError):  # it died at once, which the first `receive` reports
            self._connection.send((f"{task_id}: {who}", arguments))

    def patience(self, method: str) -> float:
        """Seconds after which a process that has not answered `method` counts as hung."""
        return math.inf

    def send(self, method: str, *arguments: Any) -> None:
        """Request a call of the object's method without waiting for its result."""
        self._asked, self._patience = method, self.patience(method)
        self._deadline = time.monotonic() + self._patience
        with contextlib.suppress(OSError):  # it is dead, which `receive` reports
            self._connection.send((method, arguments))

    def receive(self) -> Any:
        """Wait for the result of the last `send`.

        Raises:
            BrokenEnvironmentError: the call took too long and the process was killed, or the process ended.
            OtprError: the method raised this or another error, which the message names.
        """
        left = None if math.isinf(self._deadline) else max(0.0, self._deadline - time.monotonic())
        try:
            if not self._connection.poll(left):
                self.kill()
                raise BrokenEnvironmentError(
                    f"{self._task_id}: {self._asked}() hung: no answer within {self._patience:g} seconds."
                )
            reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise BrokenEnvironmentError(self._epitaph()) from error
        if isinstance(reply, OtprError):
            raise reply
        return reply

    def _epitaph(self) -> str:
        """A description of why a process closed its end of the pipe."""
        try:
            status = self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"{self._task_id}: {self._who} closed its connection in {self._asked}()."
        return f"{self._task_id}: {self._died(status)}"

    def _died(self, status: int) -> str:
        """A description of an exit status; a negative one is the number of the signal that killed it."""
        how = f"exit status {status}"
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else "a signal"
            how += f", killed by {name}"
        return f"{self._who} died in {self._asked}() ({how})."

    def kill(self) -> None:
        """Kill the process and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process, by force if it does not end by itself."""
        self._connection.close()
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
