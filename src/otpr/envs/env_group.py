"""Environments of one task that are stepped in turn by sequences of actions, and the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.envs.registry import make_env, task_spec
from otpr.envs.setup import Setup
from otpr.envs.task_env import by_name
from otpr.spec import Spec, zeros


@dataclass(frozen=True)
class ChunkStep:
    """The results of `h` actions in each of `n` environments.

    Attributes:
        observations: vectors by entry name, (n, h, *shape) of the entry's own type, after each executed step.
            The last observation is repeated after the last executed step, so that `[:, -1]` is always the
            current one (zeros for a slot that was never reset).
        images: by entry name, (n, w, height, width, channels) uint8, after the steps in `looked`, in order,
            padded with zeros; w is their largest possible number.
        looked: (n, h) bool, the steps with images: those that the next decision sees, and an episode's last.
        rewards: (n, h) float32, 0 beyond the last executed step.
        steps: (n,) int32, number of executed actions: fewer than h if the episode ended, 0 for idle slots.
        terminated: (n,) bool, the episode ended in these steps in a terminal state.
        truncated: (n,) bool, the episode ended in these steps by its time limit.
        success: (n,) bool, the task was solved in these steps.
    """

    observations: dict[str, NDArray[Any]]
    images: dict[str, NDArray[np.uint8]]
    looked: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    steps: NDArray[np.int32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    success: NDArray[np.bool_]

    @staticmethod
    def empty(num_envs: int, execute: int, history: int, spec: Spec) -> ChunkStep:
        """A result of zeros, to be filled in."""
        return ChunkStep(
            observations=zeros(spec.vectors, num_envs, execute),
            images=zeros(spec.images, num_envs, min(execute, history)),
            looked=np.zeros((num_envs, execute), np.bool_),
            rewards=np.zeros((num_envs, execute), np.float32),
            steps=np.zeros(num_envs, np.int32),
            terminated=np.zeros(num_envs, np.bool_),
            truncated=np.zeros(num_envs, np.bool_),
            success=np.zeros(num_envs, np.bool_),
        )

    def put(self, slots: Sequence[int], part: ChunkStep) -> None:
        """Fill in the rows of some slots in place."""
        for mine, theirs in ((self.observations, part.observations), (self.images, part.images)):
            for name, entry in theirs.items():
                mine[name][slots] = entry
        for name in ("looked", "rewards", "steps", "terminated", "truncated", "success"):
            getattr(self, name)[slots] = getattr(part, name)


class Group(Protocol):
    """The interface of a group of environments, in this process or another."""

    @property
    def fresh(self) -> bool:
        """Whether the group has not answered yet and may still be starting."""
        ...

    def send(self, method: str, argument: Any, /) -> None:
        """Request a method of `EnvGroup`, "reset" or "step"."""
        ...

    def receive(self) -> Any:
        """The result of the last `send`."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class EnvGroup:
    """Environments of one task in this process, stepped in turn.

    Args:
        setup: the task.
        num_envs: number of environments.
        execute: number of actions executed at once.
        history: number of observations that a decision sees; only these are rendered.
    """

    fresh = False
    """Environments are created with the group, so it is never starting."""

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int):
        self._spec = task_spec(setup).spec
        self._envs = [make_env(setup) for _ in range(num_envs)]
        self._execute, self._history = execute, history
        self._running = [False] * num_envs
        self._vectors = zeros(self._spec.vectors, num_envs)
        self._reply: Any = None

    def send(self, method: str, argument: Any) -> None:
        """Execute `method` ("reset" or "step") immediately; `receive` returns its result."""
        self._reply = getattr(self, method)(argument)

    def receive(self) -> Any:
        """The result of the last `send`."""
        return self._reply

    def reset(self, seeds: Sequence[int | None]) -> dict[str, NDArray[Any]]:
        """See `ChunkedVectorEnv.reset`."""
        first = zeros(self._spec.observation, len(self._envs))
        for slot, seed in enumerate(seeds):
            self._running[slot] = seed is not None
            if seed is not None:
                observation, _ = self._envs[slot].reset(seed=seed)
                for name, array in by_name(self._spec, observation).items():
                    first[name][slot] = array
                for name, last in self._vectors.items():
                    last[slot] = first[name][slot]
        return first

    def step(self, actions: NDArray[np.float32]) -> ChunkStep:
        """See `ChunkedVectorEnv.step`."""
        result = ChunkStep.empty(len(self._envs), self._execute, self._history, self._spec)
        for slot in range(len(self._envs)):
            if self._running[slot]:
                self._step_one(slot, actions[slot], result)
            for name, last in self._vectors.items():
                executed = int(result.steps[slot])
                if executed > 0:
                    last[slot] = result.observations[name][slot, executed - 1]
                result.observations[name][slot, executed:] = last[slot]
        return result

    def _step_one(self, slot: int, actions: NDArray[np.float32], result: ChunkStep) -> None:
        """Execute the actions of one environment and fill in its rows of the result."""
        env, executed, looks = self._envs[slot], 0, 0
        # the steps that the next decision sees, or the state at the time limit
        first_look = min(self._execute, env.steps_left) - self._history
        while self._running[slot] and executed < self._execute:
            answer = env.step(actions[executed], look=executed >= first_look)
            observation, reward, terminated, truncated, info = answer
            seen = by_name(self._spec, observation)
            for name, array in seen.items():
                if name in result.images:
                    result.images[name][slot, looks] = array
                    result.looked[slot, executed] = True
                else:
                    result.observations[name][slot, executed] = array
            looks += bool(result.looked[slot, executed])
            result.rewards[slot, executed] = reward
            result.terminated[slot] = terminated
            result.truncated[slot] = truncated
            result.success[slot] |= info["success"]
            self._running[slot] = not (terminated or truncated)
            executed += 1
        result.steps[slot] = executed

    def close(self) -> None:
        """Close the environments."""
        for env in self._envs:
            env.close()
