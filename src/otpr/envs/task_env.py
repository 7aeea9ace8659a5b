"""The common interface of all tasks: observations of a spec, actions in [-1, 1], success and truncation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from otpr.envs.cameras import Eyes
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Spec

Observation = NDArray[Any] | Mapping[str, NDArray[Any]]
"""An observation of a simulator: an array if it is one vector, otherwise arrays by entry name."""

_RENDER_FPS = 30
"""Frames per second in videos of tasks with an unknown control rate."""


class Outcome(NamedTuple):
    """The result of one step of a simulator."""

    observation: Observation
    reward: float
    success: bool | None  # the task is solved now; None: unknown, which it may not be at the end
    terminated: bool  # the episode has reached a terminal state
    truncated: bool = False  # the simulator itself cuts the episode off here


def sparse(observation: Observation, solved: bool) -> Outcome:
    """The outcome of most tasks: 1.0 on the step that solves the task and ends the episode, otherwise 0.0."""
    return Outcome(observation, float(solved), solved, terminated=solved)


class Simulator(Protocol):
    """The interface of a simulator, which `TaskEnv` turns into an environment."""

    def reset(self, seed: int) -> Observation:
        """Start an episode and return its first observation.

        The seed, in [0, 2**31), must fix the whole initial condition: the same seed gives the same trajectory
        under the same actions, in any process and whatever was run before.
        """
        ...

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """Execute an action, (action_dim,), finite and in [-1, 1]."""
        ...

    def render(self) -> NDArray[np.uint8]:
        """The current picture, (height, width, 3), upright."""
        ...

    # A simulator with cameras for policies also has `scene() -> Scene` (`otpr.envs.cameras`).

    def close(self) -> None:
        """Free the simulator's resources."""
        ...


class TaskEnv(gymnasium.Env[Any, NDArray[np.float32]]):
    """A simulator as a Gymnasium environment with a time limit; see `otpr.envs.make_env` for guarantees.

    Args:
        simulator: the simulator; `simulator` is also the attribute by which an expert reaches it.
        task_id: the task's name, for errors.
        spec: the task's spec. An observation with a single vector entry is an array, any other a dictionary
            of arrays by entry name.
        episode_limit: steps after which an episode is truncated, at least 1.
        render_mode: None or `"rgb_array"`.
        columns: the numbers of the simulator's vector in the entry "state"; None: all.
        eyes: renders the image entries; None: the simulator returns all entries itself.
        shifted: the simulator wrapped by shifts, which is then stepped; None: there are no shifts.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012, as Gymnasium declares it

    def __init__(
        self,
        simulator: Simulator,
        *,
        task_id: str,
        spec: Spec,
        episode_limit: int,
        render_mode: str | None = None,
        columns: Sequence[int] | None = None,
        eyes: Eyes | None = None,
        shifted: Simulator | None = None,
    ):
        self.simulator = simulator
        self._acting = shifted or simulator
        fps = max(1, round(spec.control_rate or _RENDER_FPS))
        self.metadata = {**self.metadata, "render_fps": fps}
        self.render_mode = render_mode
        self.observation_space = observation_space(spec)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32)
        self._task_id = task_id
        self._spec = spec
        self._episode_limit = episode_limit
        self._steps_left = 0
        self._columns = None if columns is None else list(columns)
        self._eyes = eyes
        self._told: Observation | None = None

    @property
    def whole_observation(self) -> Any:
        """The simulator's full last observation, which experts see; the observation may be a part of it.

        A vector is in float32.
        """
        told = self._told
        return told.astype(np.float32) if isinstance(told, np.ndarray) else told

    @property
    def steps_left(self) -> int:
        """Steps until the current episode is truncated; 0 if none is running."""
        return self._steps_left

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode; without a seed, one is drawn from the stream of the last seed."""
        super().reset(seed=seed)
        if seed is None:
            seed = int(self.np_random.integers(2**31))
        observation = self._checked(self._acting.reset(seed), look=True)
        self._steps_left = self._episode_limit
        return observation, {"success": False}

    def step(
        self, action: NDArray[np.float32], look: bool = True
    ) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Execute one step. `truncated` is never True together with `terminated`.

        Args:
            action: the action, (action_dim,).
            look: whether to render images, which is more expensive than simulating. The last step of an
                episode always has them.

        Raises:
            ResetNeeded: the episode is over, or none was started.
            ValueError: the action is not finite.
            OtprError: the observation does not fit the task's spec, or the episode ends with unknown success.
        """
        if self._steps_left == 0:
            raise ResetNeeded("No episode is running: call reset() first")
        if not np.isfinite(action).all():
            raise ValueError(f"The action must be finite, given {action}")
        outcome = self._acting.step(np.clip(action, -1.0, 1.0))
        self._steps_left = 0 if outcome.terminated or outcome.truncated else self._steps_left - 1
        observation = self._checked(outcome.observation, look=look or self._steps_left == 0)
        truncated = not outcome.terminated and self._steps_left == 0
        if outcome.success is None and self._steps_left == 0:
            raise OtprError(
                f"{self._task_id}: the info of an episode's last step has neither 'success' nor "
                "'is_success', so nothing tells success from failure. Give one of them on every step, in a "
                "wrapper's step()."
            )
        success = bool(outcome.success)
        return observation, float(outcome.reward), bool(outcome.terminated), truncated, {"success": success}

    def _checked(self, observation: Observation, *, look: bool) -> Any:
        """The observation in the types of the spec, as an array or a dictionary.

        Raises:
            OtprError: an entry is missing or surplus, or has another shape; or an image is not `uint8`.
        """
        only = self._spec.only_vector
        self._told = observation
        if not isinstance(observation, Mapping):
            vector = observation if self._columns is None else observation[self._columns]
            if only is not None:
                return self._entry(only, vector)
            observation = {STATE: vector} if STATE in self._spec.observation else {}
        images = [name for name, entry in self._spec.observation.items() if entry.kind == "image"]
        if not look:
            observation = {name: array for name, array in observation.items() if name not in images}
        elif self._eyes is not None:
            observation = {**observation, **self._eyes.look()}
        expected = [name for name in self._spec.observation if look or name not in images]
        if sorted(observation) != expected:
            raise OtprError(
                f"{self._task_id}: an observation has the entries {sorted(observation)}, expected "
                f"{expected}. The environment must keep to its observation space."
            )
        return {name: self._entry(name, observation[name]) for name in expected}

    def _entry(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        entry = self._spec.observation[name]
        image = entry.kind == "image"
        if array.shape != entry.shape or (image and array.dtype != np.uint8):
            which = "an observation" if self._spec.only_vector else f"the observation entry {name!r}"
            found, wanted = (f" of {of.dtype}" if image else "" for of in (array, entry))
            raise OtprError(
                f"{self._task_id}: {which} has shape {array.shape}{found}, expected {entry.shape}{wanted}. "
                "The environment must keep to its observation space."
            )
        return array.astype(entry.dtype)

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The current picture, uint8, shape (height, width, 3), upright."""
        return self.simulator.render()

    def close(self) -> None:
        """Free the resources of the simulator and its cameras."""
        if self._eyes is not None:
            self._eyes.close()
        self._acting.close()


def by_name(spec: Spec, observation: Observation) -> Mapping[str, NDArray[Any]]:
    """Convert an observation from `TaskEnv` to arrays by entry name."""
    only = spec.only_vector
    if only is None:
        assert isinstance(observation, Mapping), "several entries come by name"
        return observation
    assert not isinstance(observation, Mapping), "one vector entry comes as an array"
    return {only: observation}


def observation_space(spec: Spec) -> gymnasium.Space[Any]:
    """The observation space of a spec: a Box for a single vector entry, otherwise a Dict of Boxes."""
    boxes = {name: _box(entry) for name, entry in spec.observation.items()}
    return boxes[spec.only_vector] if spec.only_vector else gymnasium.spaces.Dict(boxes)


def _box(entry: Entry) -> gymnasium.Space[Any]:
    if entry.kind == "image":
        return gymnasium.spaces.Box(0, 255, entry.shape, np.uint8)
    return gymnasium.spaces.Box(-np.inf, np.inf, entry.shape, np.dtype(entry.dtype).type)
