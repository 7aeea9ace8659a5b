"""Environments stepped in lockstep by action chunks, in this process or in simulator processes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.envs.breakages import Breakages
from otpr.envs.env_group import ChunkStep, EnvGroup, Group
from otpr.envs.env_process import EnvProcess
from otpr.envs.registry import task_spec
from otpr.envs.served import BrokenEnvironmentError
from otpr.envs.setup import Setup
from otpr.spec import zeros


class ChunkedVectorEnv:
    """`n` environments of one task, stepped in lockstep by `h` actions at once, without automatic resets.

    The actions of a decision are executed in the environment's process, so that processes communicate once
    per decision instead of once per step. The environments are distributed over as many processes as there
    are cores, because more would only cost memory. Results do not depend on `processes`. Close the object
    when done, or use it in a `with` statement.

    If an environment in a process raises, hangs, dies or returns a wrong shape, the episodes of that process
    end: `broken` names their slots, the others continue, and a new process replaces it.
    `BrokenEnvironmentError` is raised if this happens too often (`Breakages`), or immediately if no action
    was ever executed and no other process works, which indicates a programming error. With `processes=False`,
    exceptions of an environment propagate.

    Args:
        task: a name for `task_spec`, or a setup.
        num_envs: number of environments, n >= 1.
        execute: actions executed for each decision, h >= 1.
        processes: True: spread over simulator processes (POSIX only); False: all in this process.
        timeout: seconds that a process may take to execute h actions in its environments; it may take ten
            times as long to create and reset them.
        history: number of observations that a decision sees, >= 1; only these are rendered.

    Attributes:
        setup: the task's setup.
        spec: the task's spec.
        episode_limit: steps after which an episode is truncated.
        broken: the slots whose episode failed in the last `reset` or `step`, with the cause.

    Raises:
        OtprError: the task is unknown, its simulator is not installed, or it has no episode limit.
        ValueError: `num_envs`, `execute` or `history` is below 1.
    """

    def __init__(
        self,
        task: str | Setup,
        num_envs: int,
        execute: int,
        processes: bool,
        timeout: float = 60.0,
        history: int = 1,
    ):
        if min(num_envs, execute, history) < 1:
            raise ValueError(
                f"num_envs, execute and history must be at least 1, given {num_envs}, {execute} and {history}"
            )
        known = task_spec(task)
        self.setup = known.setup
        self.spec = known.spec
        self.episode_limit = known.required_limit()
        self.num_envs = num_envs
        self._history = history
        self.broken: dict[int, str] = {}
        self._actions_shape = (num_envs, execute, self.spec.action_dim)
        self._running = np.zeros(num_envs, np.bool_)
        self._started = 0  # episodes
        self._breakages = Breakages(known.setup.task)
        self._has_worked = False
        self._timeout = timeout if processes else None
        count = min(num_envs, available_cores()) if processes else 1
        # Distributed round-robin, so that idle slots at the end of the list do not idle one process.
        self._slots = [list(range(first, num_envs, count)) for first in range(count)]
        self._groups = [self._new_group(len(slots)) for slots in self._slots]

    def _new_group(self, num_envs: int) -> Group:
        arguments = (self.setup, num_envs, self._actions_shape[1], self._history)
        if self._timeout is None:
            return EnvGroup(*arguments)
        return EnvProcess(*arguments, timeout=self._timeout)

    @property
    def task_id(self) -> str:
        """The task's name."""
        return self.setup.task

    @property
    def running(self) -> NDArray[np.bool_]:
        """(n,) bool, the slots with an episode in progress."""
        return self._running.copy()

    def reset(self, seeds: Sequence[int | None]) -> dict[str, NDArray[Any]]:
        """Start an episode in every slot with a seed; slots with None stay idle.

        Args:
            seeds: n seeds, each in [0, 2**31) or None.

        Returns:
            The first observations by entry name, (n, *shape) of the entry's own type. The rows of idle slots
            and of those in `broken` are meaningless.

        Raises:
            BrokenEnvironmentError: processes had to be restarted too often; see the class.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} seeds, given {len(seeds)}")
        self._running = np.array([seed is not None for seed in seeds])
        self._started += int(self._running.sum())
        replies = self._ask("reset", [[seeds[slot] for slot in slots] for slots in self._slots])
        observations = zeros(self.spec.observation, self.num_envs)
        for slots, reply in zip(self._slots, replies, strict=True):
            if reply is not None:
                for name, entry in observations.items():
                    entry[slots] = reply[name]
        return observations

    def step(self, actions: NDArray[np.floating]) -> ChunkStep:
        """Execute up to h actions in every running environment, fewer if the episode ends.

        Args:
            actions: (n, h, action_dim), finite; values outside [-1, 1] are clipped. Rows of idle slots are
                ignored.

        Returns:
            The results of all slots; zeros for slots in `broken`, whose episodes are lost.

        Raises:
            ValueError: the shape is wrong, or an action of a running environment is not finite.
            BrokenEnvironmentError: processes had to be restarted too often; see the class.
        """
        if actions.shape != self._actions_shape:
            raise ValueError(f"Expected actions of shape {self._actions_shape}, given {actions.shape}")
        if not np.isfinite(actions[self._running]).all():
            raise ValueError("The actions hold NaN or infinity")
        actions = np.asarray(actions, np.float32)
        replies = self._ask("step", [actions[slots] for slots in self._slots])
        result = ChunkStep.empty(self.num_envs, self._actions_shape[1], self._history, self.spec)
        for slots, reply in zip(self._slots, replies, strict=True):
            if reply is not None:
                result.put(slots, reply)
        self._has_worked |= bool(result.steps.any())
        self._running &= ~(result.terminated | result.truncated)
        return result

    def _ask(self, method: str, arguments: list[Any]) -> list[Any]:
        """The replies of all groups; None for a group that failed and has not been reset since."""
        self.broken = {}
        # Do not wait for a group before its first reset: it may still be starting.
        asked = [method == "reset" or not group.fresh for group in self._groups]
        # All requests are sent before any reply is awaited, so that the groups work in parallel.
        for group, argument, wanted in zip(self._groups, arguments, asked, strict=True):
            if wanted:
                group.send(method, argument)
        replies: list[Any] = []
        causes: dict[int, BrokenEnvironmentError] = {}
        for number, (group, wanted) in enumerate(zip(self._groups, asked, strict=True)):
            reply = None
            if wanted:
                try:
                    reply = group.receive()
                except BrokenEnvironmentError as error:
                    causes[number] = error
            replies.append(reply)
        # After all pipes are read, because an error raised here must leave no unread reply.
        worked = any(
            reply is not None and (method == "reset" or bool(reply.steps.any())) for reply in replies
        )
        for number, error in causes.items():
            self._replace(number, error, worked)
        return replies

    def _replace(self, number: int, error: BrokenEnvironmentError, worked: bool) -> None:
        """Replace a failed process, or give up for the reasons that the class names."""
        if not (worked or self._has_worked):
            raise error
        self._breakages.add(self._started, str(error))
        self._groups[number].close()
        self._groups[number] = self._new_group(len(self._slots[number]))
        for slot in self._slots[number]:
            if self._running[slot]:
                self.broken[slot] = str(error)
                self._running[slot] = False

    def close(self) -> None:
        """Close the environments and end their processes; may be called repeatedly."""
        for group in self._groups:
            group.close()
        self._groups = []

    def __enter__(self) -> ChunkedVectorEnv:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def available_cores() -> int:
    """The number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
