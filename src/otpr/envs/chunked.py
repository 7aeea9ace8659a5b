"""Several environments stepped in lockstep by several actions at once, here or in simulator processes."""

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
    """`n` environments of one task, stepped in lockstep, `h` actions at once; nothing is reset automatically.

    The actions of a decision are executed where the environment lives, so that processes talk once a
    decision, not once a step. The environments are dealt out to as many processes as there are cores: more
    would only cost memory. Results do not depend on `processes`. Close it when done, or use it in a `with`
    statement.

    Where an environment in a process raises, hangs, dies or returns the wrong shape, the episodes of that
    process end there: `broken` names their slots, the others go on, and another process takes its place. That
    ends with `BrokenEnvironmentError` when it happens too often (`Breakages`); and at once where no action
    was ever executed and no process beside it works: that is a mistake, not an accident. In this process
    (`processes=False`) nothing can be contained: what an environment raises is raised.

    Args:
        task: a name that `task_spec` takes, or the task as it is set up.
        num_envs: how many environments, n >= 1.
        execute: actions executed for each decision, h >= 1.
        processes: True: spread over simulator processes (POSIX only); False: all in this process.
        timeout: seconds that a process may take to execute h actions in its environments, and ten times that
            to make and reset them.
        history: how many observations a decision sees, >= 1; images are looked at for no others.

    Attributes:
        setup: the task as it is set up.
        spec: what the task exchanges.
        episode_limit: steps after which an episode is truncated.
        broken: the slots whose episode broke in the last `reset` or `step`, each with the cause.

    Raises:
        OtprError: the task is unknown, its simulator is not installed, or nothing limits its episodes.
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
        # Dealt out like cards, so that slots left idle at the end of the list do not empty one process.
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
        """(n,) bool: which slots have an episode in progress."""
        return self._running.copy()

    def reset(self, seeds: Sequence[int | None]) -> dict[str, NDArray[Any]]:
        """Start an episode in every slot that is given a seed; a slot given None stays idle.

        Args:
            seeds: n of them, each in [0, 2**31) or None.

        Returns:
            The first observations by entry name, (n, *shape) of the entry's own type; the row of an idle
            slot, or of one that is now in `broken`, means nothing.

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
        """Execute h actions in every running environment, or as many as there are until the episode ends.

        Args:
            actions: (n, h, action_dim), finite; values outside [-1, 1] are clipped. Rows of slots that are
                not running are ignored.

        Returns:
            What they did; nothing for a slot that is now in `broken`, whose episode is lost.

        Raises:
            ValueError: the shape is another one, or an action of a running environment is not finite.
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
        """The replies of all groups; None of one that broke, or has yet to be reset after it did."""
        self.broken = {}
        # Before its first reset there is nothing to step, and perhaps nothing made: do not wait for that.
        asked = [method == "reset" or not group.fresh for group in self._groups]
        # All are asked before any is waited for: that is what makes them work at the same time.
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
        # Only now that every pipe is read: an error raised here must leave no reply behind.
        worked = any(
            reply is not None and (method == "reset" or bool(reply.steps.any())) for reply in replies
        )
        for number, error in causes.items():
            self._replace(number, error, worked)
        return replies

    def _replace(self, number: int, error: BrokenEnvironmentError, worked: bool) -> None:
        """Start another process for the one that broke; or give up, for the reasons that the class names."""
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
        """Close the environments and end their processes; harmless when done twice."""
        for group in self._groups:
            group.close()
        self._groups = []

    def __enter__(self) -> ChunkedVectorEnv:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
