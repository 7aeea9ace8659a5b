"""Work carried out as Ray tasks. Ray places them and retries those whose machine dies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from otpr.cluster import import_path
from otpr.envs.env_process import threads

ATTEMPTS = 2
"""Number of restarts without progress of a task whose process or machine died."""

_LOOK = 0.2  # seconds between two checks for a stop


def task_options(cpus: float, gpus: float, fresh: bool) -> dict[str, Any]:
    """Ray's options for a task."""
    env = {**import_path(), **threads(max(1, math.floor(cpus)))}
    if not gpus:
        env["JAX_PLATFORMS"] = "cpu"
    elif gpus < 1:  # several share one, and JAX would allocate three quarters of it each
        env["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 * gpus:.3f}"
    return {
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_retries": ATTEMPTS,
        "runtime_env": {"env_vars": env},
        **({"max_calls": 1} if fresh else {}),
    }


class Failure(NamedTuple):
    """Why a task returned nothing."""

    why: str
    died: bool  # whether its process or machine died


class Tasks:
    """Pending Ray tasks, each for an item."""

    def __init__(self, ray: Any, options: dict[str, Any]):
        self._ray, self._options = ray, options
        self._items: dict[Any, Any] = {}

    def submit(self, item: Any, work: Callable[..., Any], *arguments: Any) -> None:
        """Submit a task."""
        self._items[self._ray.remote(**self._options)(work).remote(*arguments)] = item

    def ended(self, is_over: Callable[[], bool], grace: float) -> Iterator[tuple[Any, Any]]:
        """Yield the items of tasks as they end, including tasks submitted meanwhile, with their results.

        In place of a result there is a `Failure`, or None for a task that was stopped.

        When `is_over` is true, the remaining tasks are asked to stop, and are ended after the grace period.
        """
        asked = math.inf
        while self._items:
            ready, _ = self._ray.wait(list(self._items), num_returns=1, timeout=_LOOK)
            for reference in ready:
                yield self._items.pop(reference), self._came(reference)
            if is_over() and math.isinf(asked):
                asked = time.monotonic()
                for reference in self._items:
                    self._ray.cancel(reference, force=False)
            if time.monotonic() - asked > grace:
                yield from [(item, None) for item in self.end()]

    def _came(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.TaskCancelledError:
            return None
        except errors.RayTaskError as error:
            # without folders and addresses from Ray's message, because results are kept in the repository
            return Failure(f"{type(error.cause).__name__}: {error.cause}", died=False)
        except errors.RayError as error:
            why = f"the process or its machine died {ATTEMPTS + 1} times ({type(error).__name__})"
            return Failure(why, died=True)

    def end(self) -> list[Any]:
        """End the remaining tasks, which can continue from their last checkpoints, and return their items."""
        for reference in self._items:
            self._ray.cancel(reference, force=True)
        items = list(self._items.values())
        self._items.clear()
        return items
