"""Common parts of the suites of gymnasium-robotics: a silent import, flat observations, small pictures."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from farama_notifications import notifications
from numpy.typing import NDArray

from otpr.envs.cameras import Scene

_PICTURE_SIZE = 256


def environment_class(name: str) -> Any:
    """A class of the package by `MODULE:CLASS`, the module relative to `gymnasium_robotics.envs`."""
    # At import the package prints that the dense rewards of Adroit have changed, which are not used here. It
    # looks the text up by its version and prints nothing if there is none.
    notifications.pop("gymnasium_robotics", None)
    module, _, class_name = name.partition(":")
    return getattr(importlib.import_module(f"gymnasium_robotics.envs.{module}"), class_name)


class RoboticsSimulator:
    """An environment of the package as a `Simulator`; a subclass adds `step`.

    The package's classes are instantiated directly, because `TaskEnv` replaces the wrappers of
    `gymnasium.make` (time limit, checks, order of calls).

    Args:
        name: the class, as `environment_class` takes it.
        observation_keys: the entries of the observation that are concatenated; empty: it is flat already.
        render_mode: None or `"rgb_array"`.
        keywords: further arguments of the class.
    """

    def __init__(
        self, name: str, observation_keys: tuple[str, ...], render_mode: str | None, **keywords: Any
    ):
        self.env: Any = environment_class(name)(
            render_mode=render_mode, width=_PICTURE_SIZE, height=_PICTURE_SIZE, **keywords
        )
        self._observation_keys = observation_keys

    def flat(self, observation: Any) -> NDArray[np.floating]:
        """The concatenated entries of an observation."""
        if not self._observation_keys:
            return observation
        return np.concatenate([observation[key] for key in self._observation_keys])

    def reset(self, seed: int) -> NDArray[np.floating]:
        """See `Simulator.reset`."""
        return self.flat(self.env.reset(seed=seed)[0])

    def scene(self) -> Scene:
        """What cameras see."""
        return Scene(self.env.model, self.env.data)

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        return self.env.render()

    def close(self) -> None:
        """See `Simulator.close`."""
        self.env.close()
