"""Meta-World v3 (Yu et al., 2019; the Farama package): 50 manipulation tasks of a Sawyer arm in MuJoCo."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

_CAMERA = "corner2"
_PICTURE_SIZE = 256


class MetaWorldEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One Meta-World task with the goal in the observation, a sparse reward and seeded initial conditions.

    Observation, shape (39,): 18 numbers now (hand position in metres, gripper opening in [0, 1], positions in
    metres and quaternions of up to two objects), the same 18 one step before, the goal position in metres.
    Action, shape (4,): displacement of the hand's target along x, y, z (1.0 is one centimetre) and closing
    effort of the gripper. Actions outside [-1, 1] are clipped, as the simulator itself does.

    Args:
        name: the package's name for the task, e.g. `"peg-insert-side-v3"`.
        episode_limit: steps after which an episode is truncated; at most the package's own 500.
        render_mode: None or `"rgb_array"`.

    Raises:
        ValueError: `render_mode` is another one, or the limit is above the package's own.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012, Gymnasium's own declaration is not a ClassVar
        "render_modes": ["rgb_array"],
        "render_fps": 80,
    }

    def __init__(self, name: str, *, episode_limit: int, render_mode: str | None = None):
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', not {render_mode!r}")
        simulator: Any = ALL_V3_ENVIRONMENTS[name](
            render_mode=render_mode, camera_name=_CAMERA, width=_PICTURE_SIZE, height=_PICTURE_SIZE
        )
        if episode_limit > simulator.max_path_length:
            raise ValueError(
                f"episode_limit must be at most {simulator.max_path_length}, where Meta-World refuses to go "
                f"on; given {episode_limit}"
            )
        # As the package's "goal-observable" variants do, less their extra reset when made: show the goal
        # (dropping the cached observation bounds, which would clip it to zero) and draw initial conditions
        # from the environment's own generator. The package's `reset(seed=k)` ignores k, `seed(k)` does not.
        simulator._partially_observable = False
        del simulator.sawyer_observation_space
        simulator._set_task_called = True
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        self._simulator = simulator
        self._episode_limit = episode_limit
        self._steps_left = 0
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; without a seed, from the next initial condition of the last seed's stream."""
        super().reset(seed=seed)
        if seed is not None:
            self._simulator.seed(seed)
        observation, _ = self._simulator.reset()
        self._steps_left = self._episode_limit
        return observation.astype(np.float32), {"success": False}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Step once. `truncated` is only ever True where `terminated` is not.

        Raises:
            ResetNeeded: the episode is over, or none was started.
            ValueError: the action is not finite.
        """
        if self._steps_left == 0:
            raise ResetNeeded("No episode is running: call reset() first")
        if not np.isfinite(action).all():
            raise ValueError(f"The action must be finite, given {action}")
        # Meta-World's own reward is dense: only its success flag is used.
        observation, _, _, _, info = self._simulator.step(np.clip(action, -1.0, 1.0))
        success = bool(info["success"])
        self._steps_left = 0 if success else self._steps_left - 1
        truncated = not success and self._steps_left == 0
        return observation.astype(np.float32), float(success), success, truncated, {"success": success}

    def render(self) -> NDArray[np.uint8]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The picture now, uint8, shape (256, 256, 3), upright."""
        # The camera hangs upside down: turn the picture by half a turn.
        return np.ascontiguousarray(self._simulator.render()[::-1, ::-1])

    def close(self) -> None:
        """Free the rendering context, if there is one."""
        self._simulator.close()


class MetaWorldExpert:
    """The package's scripted policy for its task `name`, e.g. `"peg-insert-side-v3"`."""

    def __init__(self, name: str):
        self._policy: Any = ENV_POLICY_MAP[name]()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The scripted action, shape (4,), clipped to [-1, 1], for one observation, shape (39,)."""
        with warnings.catch_warnings():
            # It warns whenever its proportional controller saturates, which is most of the time.
            warnings.filterwarnings("ignore", message="Constant.s. may be too high")
            action = self._policy.get_action(observation)
        return np.clip(action, -1.0, 1.0).astype(np.float32)
