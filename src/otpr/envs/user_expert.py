"""Users' experts: any `module:Class`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from otpr.envs.task_env import TaskEnv
from otpr.envs.user_env import GymSimulator, load_object
from otpr.errors import OtprError


class UserExpert:
    """The user's expert: an object with `act(observation)` and optionally `reset()`.

    In `gym/ID` and `module:factory` it sees the environment's own observation and answers in the
    environment's own action bounds; in a named task it sees the flat observation and answers in [-1, 1].

    Args:
        name: `"module:Class"`; the class is instantiated without arguments.
        env: the environment it acts in.

    Raises:
        OtprError: the class cannot be loaded or instantiated, or has no `act`.
    """

    def __init__(self, name: str, env: TaskEnv):
        maker = load_object(name, "expert")
        try:
            self._expert = maker()
        except Exception as error:  # user code may raise anything
            raise OtprError(
                f"The expert {name!r} cannot be made ({type(error).__name__}: {error})."
            ) from error
        if not callable(getattr(self._expert, "act", None)):
            raise OtprError(f"The expert {name!r} has no method act(observation).")
        self._name = name
        self._env = env

    def reset(self) -> None:
        """Begin an episode."""
        if hasattr(self._expert, "reset"):
            self._expert.reset()

    def act(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """The user's action, mapped into [-1, 1].

        Raises:
            OtprError: the expert raises, or its action has a wrong shape or is not finite.
        """
        simulator = self._env.simulator
        own = isinstance(simulator, GymSimulator)
        try:
            answer = np.asarray(
                self._expert.act(simulator.raw_observation if own else observation), np.float64
            )
        except Exception as error:  # user code may raise anything
            raise OtprError(f"The expert {self._name!r} failed ({type(error).__name__}: {error}).") from error
        if answer.shape != self._env.action_space.shape or not np.isfinite(answer).all():
            raise OtprError(
                f"The expert {self._name!r} answered {answer}; expected {self._env.action_space.shape} "
                "finite numbers."
            )
        return simulator.to_unit(answer) if own else np.clip(answer, -1.0, 1.0).astype(np.float32)
