"""Environments of one task, stepped one after the other by whole sequences of actions; and what they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.envs.registry import make_env, task_spec
from otpr.envs.task_env import by_name
from otpr.spec import Spec, zeros


@dataclass(frozen=True)
class ChunkStep:
    """What `n` environments did with `h` actions each.

    Attributes:
        observations: by entry name, (n, h, *shape) of the entry's own type, after each executed step. Beyond
            the last executed step the last observation is repeated, so that `[:, -1]` of an entry is always
            the present one (zeros for a slot that has never been reset).
        rewards: (n, h) float32, 0 beyond the last executed step.
        steps: (n,) int32, how many actions were executed: fewer than h where the episode ended, 0 where none
            was running.
        terminated: (n,) bool, the episode ended in these steps in a terminal state.
        truncated: (n,) bool, the episode ended in these steps by its time limit.
        success: (n,) bool, the task was solved in these steps.
    """

    observations: dict[str, NDArray[Any]]
    rewards: NDArray[np.float32]
    steps: NDArray[np.int32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]

    @staticmethod
    def empty(num_envs: int, execute: int, spec: Spec) -> ChunkStep:
        """One of zeros, to be filled in."""
        return ChunkStep(
            observations=zeros(spec, num_envs, execute),
            rewards=np.zeros((num_envs, execute), np.float32),
            steps=np.zeros(num_envs, np.int32),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
            success=np.zeros(num_envs, np.bool_),
        )

    def put(self, slots: Sequence[int], part: ChunkStep) -> None:
        """Fill in the rows of some slots, in place, by what those environments did."""
        for name, entry in part.observations.items():
            self.observations[name][slots] = entry
        for name in ("rewards", "steps", "terminated", "truncated", "success"):
            getattr(self, name)[slots] = getattr(part, name)


class Group(Protocol):
    """Environments that are asked together: those of this process, or of another one."""

    @property
    def fresh(self) -> bool:
        """Whether they have answered nothing yet, and may still be in the making."""
        ...

    def send(self, method: str, argument: Any) -> None:
        """Ask for a method of `EnvGroup`, "reset" or "step"."""
        ...

    def receive(self) -> Any:
        """The result of the last `send`."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class EnvGroup:
    """Environments of one task that live in this process and are stepped one after the other."""

    fresh = False
    """They are made with the group, and may be stepped at once."""

    def __init__(self, task_id: str, num_envs: int, execute: int, episode_limit: int | None):
        self._spec = task_spec(task_id).spec
        self._envs = [make_env(task_id, episode_limit=episode_limit) for _ in range(num_envs)]
        self._execute = execute
        self._running = [False] * num_envs
        self._observations = zeros(self._spec, num_envs)
        self._reply: Any = None

    def send(self, method: str, argument: Any) -> None:
        """Do `method` ("reset" or "step") now; `receive` returns its result."""
        self._reply = getattr(self, method)(argument)

    def receive(self) -> Any:
        """The result of the last `send`."""
        return self._reply

    def reset(self, seeds: Sequence[int | None]) -> dict[str, NDArray[Any]]:
        """See `ChunkedVectorEnv.reset`."""
        for slot, seed in enumerate(seeds):
            self._running[slot] = seed is not None
            if seed is not None:
                observation, _ = self._envs[slot].reset(seed=seed)
                for name, array in by_name(self._spec, observation).items():
                    self._observations[name][slot] = array
        return {name: entry.copy() for name, entry in self._observations.items()}

    def step(self, actions: NDArray[np.float32]) -> ChunkStep:
        """See `ChunkedVectorEnv.step`."""
        result = ChunkStep.empty(len(self._envs), self._execute, self._spec)
        for slot, env in enumerate(self._envs):
            executed = 0
            while self._running[slot] and executed < self._execute:
                observation, reward, terminated, truncated, info = env.step(actions[slot, executed])
                for name, array in by_name(self._spec, observation).items():
                    result.observations[name][slot, executed] = array
                result.rewards[slot, executed] = reward
                result.terminated[slot] = terminated
                result.truncated[slot] = truncated
                result.success[slot] |= info["success"]
                self._running[slot] = not (terminated or truncated)
                executed += 1
            for name, last in self._observations.items():
                if executed > 0:
                    last[slot] = result.observations[name][slot, executed - 1]
                result.observations[name][slot, executed:] = last[slot]
            result.steps[slot] = executed
        return result

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
