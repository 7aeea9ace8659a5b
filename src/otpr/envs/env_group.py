"""Environments of one task, stepped one after the other by whole sequences of actions; and what they did."""

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
    """What `n` environments did with `h` actions each.

    Attributes:
        observations: vectors by entry name, (n, h, *shape) of the entry's own type, after each executed step.
            Beyond the last executed step the last observation is repeated, so that `[:, -1]` of an entry is
            always the present one (zeros for a slot that has never been reset).
        images: by entry name, (n, w, height, width, channels) uint8, after those steps that are in `looked`,
            in their order, beyond them zeros; w is how many of them there can be.
        looked: (n, h) bool, after which steps the images were looked at: those that the next decision sees,
            and the last of an episode.
        rewards: (n, h) float32, 0 beyond the last executed step.
        steps: (n,) int32, how many actions were executed: fewer than h where the episode ended, 0 where none
            was running.
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
        """One of zeros, to be filled in."""
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
        """Fill in the rows of some slots, in place, by what those environments did."""
        for mine, theirs in ((self.observations, part.observations), (self.images, part.images)):
            for name, entry in theirs.items():
                mine[name][slots] = entry
        for name in ("looked", "rewards", "steps", "terminated", "truncated", "success"):
            getattr(self, name)[slots] = getattr(part, name)


class Group(Protocol):
    """Environments that are asked together: those of this process, or of another one."""

    @property
    def fresh(self) -> bool:
        """Whether they have answered nothing yet, and may still be in the making."""
        ...

    def send(self, method: str, argument: Any, /) -> None:
        """Ask for a method of `EnvGroup`, "reset" or "step"."""
        ...

    def receive(self) -> Any:
        """The result of the last `send`."""
        ...

    def close(self) -> None:
        """Close the environments."""
        ...


class EnvGroup:
    """Environments of one task that live in this process and are stepped one after the other.

    Args:
        setup: the task.
        num_envs: how many environments.
        execute: how many actions are executed at once.
        history: how many observations a decision sees; images are looked at for no others.
    """

    fresh = False
    """They are made with the group, and may be stepped at once."""

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int):
        self._spec = task_spec(setup).spec
        self._envs = [make_env(setup) for _ in range(num_envs)]
        self._execute, self._history = execute, history
        self._running = [False] * num_envs
        self._vectors = zeros(self._spec.vectors, num_envs)
        self._reply: Any = None

    def send(self, method: str, argument: Any) -> None:
        """Do `method` ("reset" or "step") now; `receive` returns its result."""
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
        """Execute the actions of one environment, and enter what they did into its rows of the result."""
        env, executed, looks = self._envs[slot], 0, 0
        # the steps whose images the next decision sees, or the state at the time limit
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
