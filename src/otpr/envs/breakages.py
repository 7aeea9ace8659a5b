"""The limit on failures of environments."""

from __future__ import annotations

from collections import deque

from otpr.envs.served import BrokenEnvironmentError

RESTARTS = 10
"""Number of failures, each followed by a restart, that are allowed ..."""

WITHIN = 100
"""... within this many episodes; at one more, the run ends."""


class Breakages:
    """Counts the failures of a task's environments.

    Args:
        task_id: the task, for the error.
    """

    def __init__(self, task_id: str):
        self._task_id = task_id
        self._at: deque[int] = deque(maxlen=RESTARTS)  # number of episodes started at each failure

    def add(self, started: int, cause: str) -> None:
        """Count one failure, after `started` episodes in total.

        Raises:
            BrokenEnvironmentError: there were too many failures.
        """
        if len(self._at) == self._at.maxlen and self._at[0] > started - WITHIN:
            raise BrokenEnvironmentError(
                f"{self._task_id}: the environment broke {len(self._at) + 1} times within {WITHIN} episodes, "
                f"the last time so: {cause}"
            )
        self._at.append(started)
