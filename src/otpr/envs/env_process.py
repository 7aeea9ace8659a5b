"""Environments in a process of their own, which may raise, hang or die without taking the run with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from typing import Any

from otpr.envs.setup import Setup
from otpr.errors import OtprError

SLOWER_START = 10
"""To be made and reset an environment may take so many times as long as for the actions of a decision."""

_CLOSING_SECONDS = 5.0
"""How long a process may take to close its environments before it is killed."""


class BrokenEnvironmentError(OtprError):
    """An environment raised, hung, died or broke its promises; the message says which, how and where."""


class EnvProcess:
    """An `EnvGroup` in a process of its own.

    Once `receive` has raised `BrokenEnvironmentError` the process is gone: `close` it and start another.

    Args:
        setup: the task.
        num_envs: how many environments.
        execute: actions executed for each decision.
        history: observations that a decision sees.
        timeout: seconds it may take for the actions of a decision; `SLOWER_START` times as many to be made
            and reset.
    """

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int, *, timeout: float):
        self.fresh = True
        """Whether it has answered nothing yet: its environments may still be in the making."""
        self._task_id, self._timeout = setup.task, timeout
        self._asked, self._deadline, self._patience = "", 0.0, 0.0
        self._connection, child_end = Pipe()
        # Not `multiprocessing.Process`: forking is unsafe beside JAX's threads, and both other start methods
        # import the caller's main module again in the child, which would load JAX there (and break a script
        # that has no main guard). A process group of its own keeps Ctrl-C for the parent; when the parent
        # goes, the closed pipe ends the child.
        boot = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
            "from otpr.envs.worker import serve; serve(int(sys.argv[2]))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", boot, json.dumps(sys.path), str(child_end.fileno())],
            # The simulator is single-threaded: a BLAS thread pool per process would only cost memory.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=[child_end.fileno()],
            process_group=0,
        )
        child_end.close()
        with contextlib.suppress(OSError):  # it died at once: the first `receive` says so
            self._connection.send((setup, num_envs, execute, history))

    def send(self, method: str, argument: Any) -> None:
        """Ask for `method` ("reset" or "step"), without waiting for it."""
        slow = self.fresh or method == "reset"
        self._asked, self._patience = method, self._timeout * (SLOWER_START if slow else 1)
        self._deadline = time.monotonic() + self._patience
        with contextlib.suppress(OSError):  # it is dead: `receive` says so, or hands over its last words
            self._connection.send((method, argument))

    def receive(self) -> Any:
        """Wait for the result of the last `send`.

        Raises:
            BrokenEnvironmentError: something raised in the process, it took too long, or it ended.
        """
        try:
            if not self._connection.poll(max(0.0, self._deadline - time.monotonic())):
                self._kill()
                raise BrokenEnvironmentError(
                    f"{self._task_id}: {self._asked}() hung: no answer within {self._patience:g} seconds."
                )
            reply = self._connection.recv()
        except (EOFError, OSError) as error:
            raise BrokenEnvironmentError(self._epitaph()) from error
        if isinstance(reply, OtprError):
            raise BrokenEnvironmentError(str(reply))
        self.fresh = False
        return reply

    def _epitaph(self) -> str:
        """What is known of a process that closed its end of the pipe."""
        try:
            status = self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            return f"{self._task_id}: the simulator's process closed its connection in {self._asked}()."
        how = f"exit status {status}"
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else "a signal"
            how += f", killed by {name}"
        return f"{self._task_id}: the simulator's process died in {self._asked}() ({how})."

    def _kill(self) -> None:
        # the whole group: what the simulator has started must not outlive it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the process; one that does not go by itself is killed."""
        self._connection.close()
        try:
            self._process.wait(_CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
