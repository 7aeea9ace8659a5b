"""Several environments stepped in lockstep by whole action chunks, here or in a few simulator processes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.envs.env_process import BrokenEnvironmentError, EnvProcess
from otpr.envs.registry import make_env, task_spec


@dataclass(frozen=True)
class ChunkStep:
    """What `n` environments did with one chunk of `h` actions each.

    Attributes:
        observations: (n, h, observation_dim) float32, after each executed step. Beyond the last executed step
            the last observation is repeated, so that `observations[:, -1]` is always the present one (zeros
            for a slot that has never been reset).
        rewards: (n, h) float32, 0 beyond the last executed step.
        steps: (n,) int32, how many actions were executed: fewer than h where the episode ended, 0 where none
            was running.
        terminated: (n,) bool, the episode ended in this chunk in a terminal state.
        truncated: (n,) bool, the episode ended in this chunk by its time limit.
        success: (n,) bool, the task was solved in this chunk.
    """

    observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    steps: NDArray[np.int32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]

    @staticmethod
    def empty(num_envs: int, chunk_length: int, observation_dim: int) -> ChunkStep:
        """One of zeros, to be filled in."""
        return ChunkStep(
            observations=np.zeros((num_envs, chunk_length, observation_dim), np.float32),
            rewards=np.zeros((num_envs, chunk_length), np.float32),
            steps=np.zeros(num_envs, np.int32),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
            success=np.zeros(num_envs, np.bool_),
        )


class EnvGroup:
    """Environments of one task that live in this process and are stepped one after the other."""

    def __init__(self, task_id: str, num_envs: int, chunk_length: int):
        self._envs = [make_env(task_id) for _ in range(num_envs)]
        self._chunk_length = chunk_length
        self._running = [False] * num_envs
        self._observations = np.zeros((num_envs, task_spec(task_id).observation_dim), np.float32)
        self._reply: Any = None

    def send(self, method: str, argument: Any) -> None:
        """Do `method` ("reset" or "step") now; `receive` returns its result."""
        self._reply = getattr(self, method)(argument)

    def receive(self) -> Any:
        """The result of the last `send`."""
        return self._reply

    def reset(self, seeds: Sequence[int | None]) -> NDArray[np.float32]:
        """See `ChunkedVectorEnv.reset`."""
        for slot, seed in enumerate(seeds):
            self._running[slot] = seed is not None
            if seed is not None:
                self._observations[slot], _ = self._envs[slot].reset(seed=seed)
        return self._observations.copy()

    def step(self, chunks: NDArray[np.float32]) -> ChunkStep:
        """See `ChunkedVectorEnv.step`."""
        result = ChunkStep.empty(len(self._envs), self._chunk_length, self._observations.shape[1])
        for slot, env in enumerate(self._envs):
            executed = 0
            while self._running[slot] and executed < self._chunk_length:
                observation, reward, terminated, truncated, info = env.step(chunks[slot, executed])
                result.observations[slot, executed] = observation
                result.rewards[slot, executed] = reward
                result.terminated[slot] = terminated
                result.truncated[slot] = truncated
                result.success[slot] |= info["success"]
                self._running[slot] = not (terminated or truncated)
                executed += 1
            if executed > 0:
                self._observations[slot] = result.observations[slot, executed - 1]
            result.observations[slot, executed:] = self._observations[slot]
            result.steps[slot] = executed
        return result

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()


RESTARTS = 10
"""How many simulator processes are started anew ..."""

WITHIN = 100
"""... within so many episodes, before the environment counts as broken for good."""


class ChunkedVectorEnv:
    """`n` environments of one task, stepped in lockstep by action chunks; nothing is reset automatically.

    A chunk is executed where the environment lives, so that processes talk once a chunk, not once a step. The
    environments are dealt out to as many processes as there are cores: more would only cost memory. Results
    do not depend on `processes`. Close it when done, or use it in a `with` statement.

    Where an environment in a process raises, hangs, dies or returns the wrong shape, the episodes of that
    process end there: `broken` names their slots, the others go on, and another process takes its place. That
    ends with `BrokenEnvironmentError` when it would be the restart after `RESTARTS` within the last `WITHIN`
    episodes started; and at once where no chunk was ever executed and no process beside it works: that is a
    mistake, not an accident. In this process (`processes=False`) nothing can be contained: what an
    environment raises is raised.

    Args:
        task_id: a name that `task_spec` takes.
        num_envs: how many environments, n >= 1.
        chunk_length: actions in a chunk, h >= 1.
        processes: True: spread over simulator processes (POSIX only); False: all in this process.
        timeout: seconds that a process may take for a chunk in its environments, and ten times that to make
            and reset them.

    Raises:
        OtprError: the task is unknown or its simulator is not installed.
        ValueError: `num_envs` or `chunk_length` is below 1.
    """

    def __init__(
        self, task_id: str, num_envs: int, chunk_length: int, processes: bool, timeout: float = 60.0
    ):
        if num_envs < 1 or chunk_length < 1:
            raise ValueError(
                f"num_envs and chunk_length must be at least 1, given {num_envs} and {chunk_length}"
            )
        spec = task_spec(task_id)
        self.task_id = task_id
        self.num_envs = num_envs
        self.broken: dict[int, str] = {}
        """The slots whose episode broke in the last `reset` or `step`, each with the cause."""
        self.observation_dim = spec.observation_dim
        self._chunk_shape = (num_envs, chunk_length, spec.action_dim)
        self._running = np.zeros(num_envs, np.bool_)
        self._started = 0  # episodes
        self._restarted_at: deque[int] = deque(maxlen=RESTARTS)  # episodes started by then, of each restart
        self._has_worked = False
        self._timeout = timeout if processes else None
        count = min(num_envs, _available_cores()) if processes else 1
        # Dealt out like cards, so that slots left idle at the end of the list do not empty one process.
        self._slots = [list(range(first, num_envs, count)) for first in range(count)]
        self._groups = [self._new_group(len(slots)) for slots in self._slots]

    def _new_group(self, num_envs: int) -> EnvGroup | EnvProcess:
        chunk_length = self._chunk_shape[1]
        if self._timeout is None:
            return EnvGroup(self.task_id, num_envs, chunk_length)
        return EnvProcess(self.task_id, num_envs, chunk_length, self._timeout)

    @property
    def running(self) -> NDArray[np.bool_]:
        """(n,) bool: which slots have an episode in progress."""
        return self._running.copy()

    def reset(self, seeds: Sequence[int | None]) -> NDArray[np.float32]:
        """Start an episode in every slot that is given a seed; a slot given None stays idle.

        Args:
            seeds: n of them, each in [0, 2**31) or None.

        Returns:
            The first observations, (n, observation_dim) float32; the row of an idle slot, or of one that is
            now in `broken`, means nothing.

        Raises:
            BrokenEnvironmentError: processes had to be restarted too often; see the class.
        """
        if len(seeds) != self.num_envs:
            raise ValueError(f"Expected {self.num_envs} seeds, given {len(seeds)}")
        self._running = np.array([seed is not None for seed in seeds])
        self._started += int(self._running.sum())
        replies = self._ask("reset", [[seeds[slot] for slot in slots] for slots in self._slots])
        observations = np.zeros((self.num_envs, self.observation_dim), np.float32)
        for slots, reply in zip(self._slots, replies, strict=True):
            if reply is not None:
                observations[slots] = reply
        return observations

    def step(self, chunks: NDArray[np.floating]) -> ChunkStep:
        """Execute one chunk in every running environment, until its end or the episode's.

        Args:
            chunks: (n, h, action_dim), finite; values outside [-1, 1] are clipped. Rows of slots that are not
                running are ignored.

        Returns:
            What they did; nothing for a slot that is now in `broken`, whose episode is lost.

        Raises:
            ValueError: the shape is another one, or the chunk of a running environment is not finite.
            BrokenEnvironmentError: processes had to be restarted too often; see the class.
        """
        if chunks.shape != self._chunk_shape:
            raise ValueError(f"Expected chunks of shape {self._chunk_shape}, given {chunks.shape}")
        if not np.isfinite(chunks[self._running]).all():
            raise ValueError("The action chunks hold NaN or infinity")
        chunks = np.asarray(chunks, np.float32)
        replies = self._ask("step", [chunks[slots] for slots in self._slots])
        result = ChunkStep.empty(self.num_envs, self._chunk_shape[1], self.observation_dim)
        for slots, reply in zip(self._slots, replies, strict=True):
            if reply is not None:
                for field in fields(ChunkStep):
                    getattr(result, field.name)[slots] = getattr(reply, field.name)
        self._has_worked |= bool(result.steps.any())
        self._running &= ~(result.terminated | result.truncated)
        return result

    def _ask(self, method: str, arguments: list[Any]) -> list[Any]:
        """The replies of all groups; None of one that broke, or has yet to be reset after it did."""
        self.broken = {}
        # Before its first reset there is nothing to step, and perhaps nothing made: do not wait for that.
        asked = [
            method == "reset" or not (isinstance(group, EnvProcess) and group.fresh) for group in self._groups
        ]
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
        if len(self._restarted_at) == RESTARTS and self._restarted_at[0] > self._started - WITHIN:
            raise BrokenEnvironmentError(
                f"{self.task_id}: the environment broke {RESTARTS + 1} times within {WITHIN} episodes, "
                f"the last time so: {error}"
            ) from error
        self._restarted_at.append(self._started)
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


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
