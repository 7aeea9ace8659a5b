"""Environments in a process of their own, which may raise, hang or die without taking the run with it."""

from __future__ import annotations

from typing import Any

from otpr.envs.served import BrokenEnvironmentError, ServedProcess
from otpr.envs.setup import Setup
from otpr.errors import OtprError

SLOWER_START = 10
"""To be made and reset an environment may take so many times as long as for the actions of a decision."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""The simulator is single-threaded: a BLAS thread pool per process would only cost memory."""


class EnvProcess(ServedProcess):
    """An `EnvGroup` in a process of its own, without JAX.

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
        self._timeout = timeout
        super().__init__(
            "otpr.envs.env_group:EnvGroup",
            (setup, num_envs, execute, history),
            task_id=setup.task,
            who="the simulator's process",
            env=ONE_THREAD,
        )

    def patience(self, method: str) -> float:
        """See `ServedProcess.patience`."""
        return self._timeout * (SLOWER_START if self.fresh or method == "reset" else 1)

    def receive(self) -> Any:
        """Wait for the result of the last `send`.

        Raises:
            BrokenEnvironmentError: something raised in the process, it took too long, or it ended.
        """
        try:
            reply = super().receive()
        except BrokenEnvironmentError:
            raise
        except OtprError as error:
            raise BrokenEnvironmentError(str(error)) from error
        self.fresh = False
        return reply
