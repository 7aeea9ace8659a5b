"""Meta-World v3 (Yu et al., 2019; the Farama package): 50 manipulation tasks of a Sawyer arm in MuJoCo.

Observation, shape (39,): 18 numbers now (hand position in metres, gripper opening in [0, 1], positions in
metres and quaternions of up to two objects), the same 18 one step before, the goal position in metres.
Action, shape (4,): displacement of the hand's target along x, y, z (1.0 is one centimetre) and closing
effort of the gripper.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.policies import ENV_POLICY_MAP
from numpy.typing import NDArray

from otpr.envs.cameras import Scene
from otpr.envs.task_env import Outcome, TaskEnv, sparse

_CAMERA = "corner2"
_PICTURE_SIZE = 256
_UPSIDE_DOWN = frozenset({"corner", "corner2", "corner3", "corner4"})


class MetaWorldSimulator:
    """One task with the goal in the observation; `name` is the package's, e.g. `"peg-insert-side-v3"`."""

    def __init__(self, name: str, render_mode: Any):
        simulator: Any = ALL_V3_ENVIRONMENTS[name](
            render_mode=render_mode, camera_name=_CAMERA, width=_PICTURE_SIZE, height=_PICTURE_SIZE
        )
        # As in the package's "goal-observable" variants, without their extra reset at creation: show the goal
        # (and drop the cached observation bounds, which would clip it to zero) and draw initial conditions
        # from the environment's own generator. The package's `reset(seed=k)` ignores k; `seed(k)` does not.
        simulator._partially_observable = False
        del simulator.sawyer_observation_space
        simulator._set_task_called = True
        simulator._freeze_rand_vec = False
        simulator.seeded_rand_vec = True
        self._simulator = simulator

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`."""
        self._simulator.seed(seed)
        return self._simulator.reset()[0]

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        # Meta-World's own reward is dense: only its success flag is used.
        observation, _, _, _, info = self._simulator.step(action)
        return sparse(observation, bool(info["success"]))

    @contextlib.contextmanager
    def widened(self, factor: float) -> Generator[None]:
        """See `otpr.envs.shifts.starts.Widened`; widens horizontal positions of objects and goals."""
        simulator = self._simulator
        usual = simulator._random_reset_space
        half = (usual.high - usual.low) / 2 * np.where(np.arange(len(usual.low)) % 3 == 2, 1.0, factor)
        centre = (usual.high + usual.low) / 2
        draw = simulator._get_state_rand_vec

        def outside() -> NDArray[np.float64]:
            while True:
                drawn = draw()
                if (drawn < usual.low).any() or (drawn > usual.high).any():
                    return drawn

        simulator._random_reset_space = Box(centre - half, centre + half, dtype=np.float64)
        simulator._get_state_rand_vec = outside
        try:
            yield
        finally:
            simulator._random_reset_space = usual
            del simulator._get_state_rand_vec

    def scene(self) -> Scene:
        """What cameras see."""
        return Scene(self._simulator.model, self._simulator.data, upside_down=_UPSIDE_DOWN)

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        # The camera is mounted upside down: rotate the picture by 180 degrees.
        return np.ascontiguousarray(self._simulator.render()[::-1, ::-1])

    def close(self) -> None:
        """See `Simulator.close`."""
        self._simulator.close()


class MetaWorldExpert:
    """The package's scripted policy for its task `name`, a function of the current observation."""

    def __init__(self, name: str):
        self._policy: Any = ENV_POLICY_MAP[name]()

    def reset(self) -> None:
        """Begin an episode."""

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The scripted action, shape (4,), clipped to [-1, 1], for one observation, shape (39,)."""
        with warnings.catch_warnings():
            # It warns whenever its proportional controller saturates, which is frequent.
            warnings.filterwarnings("ignore", message="Constant.s. may be too high")
            action = self._policy.get_action(observation)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


def make_simulator(name: str, render_mode: str | None) -> MetaWorldSimulator:
    """The simulator of the task `metaworld/NAME`."""
    return MetaWorldSimulator(name, render_mode)


def make_expert(name: str, env: TaskEnv) -> MetaWorldExpert:
    """The expert of the task `metaworld/NAME`."""
    return MetaWorldExpert(name)
