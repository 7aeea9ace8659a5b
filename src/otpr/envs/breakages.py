"""When environments that break are no accident any more."""

from __future__ import annotations

from collections import deque

from otpr.envs.served import BrokenEnvironmentError

RESTARTS = 10
"""How often environments may break and be started anew ..."""

WITHIN = 100
"""... within so many episodes, before they count as broken for good."""


class Breakages:
    """Counts the breakages of a task's environments.

    Args:
        task_id: the task, for the error.
    """

    def __init__(self, task_id: str):
        self._task_id = task_id
        self._at: deque[int] = deque(maxlen=RESTARTS)  # episodes started by then, of each

    def add(self, started: int, cause: str) -> None:
        """Count one, after so many episodes were started in all.

        Raises:
            BrokenEnvironmentError: it is one too many.
        """
        if len(self._at) == self._at.maxlen and self._at[0] > started - WITHIN:
            raise BrokenEnvironmentError(
                f"{self._task_id}: the environment broke {len(self._at) + 1} times within {WITHIN} episodes, "
                f"the last time so: {cause}"
            )
        self._at.append(started)
