"""Environments in a separate process, which may raise, hang or die without ending the run."""

from __future__ import annotations

from typing import Any

from otpr.envs.served import BrokenEnvironmentError, ServedProcess
from otpr.envs.setup import Setup
from otpr.errors import OtprError

SLOWER_START = 10
"""Time limit for creation and reset of environments, relative to that for a decision's actions."""


def threads(number: int) -> dict[str, str]:
    """Environment variables that limit a process to so many threads of computation, JAX's on a CPU included.

    XLA has no flag for its own threads: it takes as many as NPROC says, else one for each core.
    """
    return dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(number))


class EnvProcess(ServedProcess):
    """An `EnvGroup` in a separate process without JAX.

    Args:
        setup: the task.
        num_envs: how many environments.
        execute: actions executed for each decision.
        history: observations that a decision sees.
        timeout: seconds allowed for the actions of a decision; `SLOWER_START` times as many for creation and
            reset.
    """

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int, *, timeout: float):
        self.fresh = True
        """Whether the process has not answered yet and may still be starting."""
        self._timeout = timeout
        super().__init__(
            "otpr.envs.env_group:EnvGroup",
            (setup, num_envs, execute, history),
            task_id=setup.task,
            who="the simulator's process",
            env=threads(1),  # simulators use one, and more would only cost memory
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
