"""The environment as LeRobot takes it; `peg_task.py` beside this folder has it as otpr does."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from numpy.typing import NDArray
from peg_task import HAND, KEPT, LIMIT, PegTask

from otpr.envs.cameras import Camera, Eyes

ACTION = 4
REST = len(KEPT) - HAND
FILMED = Camera("corner2", 128, 128)


class Peg(gymnasium.Env[dict[str, NDArray[np.float32]], NDArray[np.float32]]):
    """Observations under the names that LeRobot knows, and whether the peg is in as `is_success`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - as gymnasium declares it

    def __init__(self, render_mode: str | None = None):
        self._task = PegTask()
        # LeRobot's evaluation films ten episodes at every step: without shadows that takes a thirtieth
        self._eyes = Eyes(self._task.task.simulator.scene, [FILMED]) if render_mode else None
        self.render_mode = render_mode
        self.action_space = self._task.action_space
        self.observation_space = Dict(
            agent_pos=Box(-np.inf, np.inf, (HAND,), np.float32),
            environment_state=Box(-np.inf, np.inf, (REST,), np.float32),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """See `gymnasium.Env.reset`; without a seed, a random one."""
        super().reset(seed=seed)
        return _named(self._task.reset(seed=seed)[0]), {"is_success": False}

    def step(self, action: NDArray[np.floating]) -> Any:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self._task.step(action)
        return _named(observation), reward, terminated, truncated, {"is_success": bool(info["success"])}

    def render(self) -> Any:
        """See `gymnasium.Env.render`."""
        return None if self._eyes is None else self._eyes.look()[FILMED.name]

    def close(self) -> None:
        """See `gymnasium.Env.close`."""
        if self._eyes is not None:
            self._eyes.close()
        self._task.close()


def _named(state: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {"agent_pos": state[:HAND], "environment_state": state[HAND:]}


@EnvConfig.register_subclass("peg")
@dataclasses.dataclass
class PegConfig(EnvConfig):
    """What LeRobot needs to know of it."""

    task: str | None = "PegInsertSide-v0"
    fps: int = 80
    episode_length: int = LIMIT
    features: dict[str, PolicyFeature] = dataclasses.field(
        default_factory=lambda: {
            "action": PolicyFeature(FeatureType.ACTION, (ACTION,)),
            "agent_pos": PolicyFeature(FeatureType.STATE, (HAND,)),
            "environment_state": PolicyFeature(FeatureType.ENV, (REST,)),
        }
    )
    features_map: dict[str, str] = dataclasses.field(
        default_factory=lambda: {
            "action": "action",
            "agent_pos": "observation.state",
            "environment_state": "observation.environment_state",
        }
    )

    @property
    def package_name(self) -> str:
        """What LeRobot imports."""
        return "lerobot_peg"

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Beside its name in gymnasium."""
        return {"render_mode": "rgb_array", "max_episode_steps": self.episode_length}


gymnasium.register(id="lerobot_peg/PegInsertSide-v0", entry_point=Peg)
