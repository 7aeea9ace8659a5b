"""A simulator wrapped by shifts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otpr.envs.shifts import RANDOM, SHIFTS, Shift
from otpr.envs.shifts.effects import ActionNoise, Effect, Gain, Latency, Place
from otpr.envs.shifts.looks import CameraMoved, Light, Texture
from otpr.envs.shifts.physics import Friction, Mass, Push
from otpr.envs.shifts.sensors import SensorNoise, SensorOffset
from otpr.envs.shifts.starts import ObjectStart, RobotStart
from otpr.envs.task_env import Observation, Outcome
from otpr.errors import OtprError

EFFECTS: dict[str, type[Effect]] = {
    "robot-start": RobotStart,
    "object-start": ObjectStart,
    "push": Push,
    "action-noise": ActionNoise,
    "gain": Gain,
    "latency": Latency,
    "sensor-noise": SensorNoise,
    "sensor-offset": SensorOffset,
    "friction": Friction,
    "mass": Mass,
    "camera": CameraMoved,
    "light": Light,
    "texture": Texture,
}
"""The effect of each shift."""


def possible(place: Place, *, images: bool) -> list[str]:
    """The shifts that a task supports; those of images only with `images`."""
    names: list[str] = []
    for name, definition in SHIFTS.items():
        if definition.images and not images:
            continue
        try:
            EFFECTS[name](place, definition.amounts[0])
        except OtprError:
            continue
        names.append(name)
    return names


class Shifted:
    """A `Simulator` that wraps another one and applies shifts.

    The random numbers of an episode only depend on its seed and on the names of the shifts. An episode and
    its unshifted counterpart therefore start alike, and levels of one shift only differ in their amount.

    Args:
        place: the simulator and facts about its task.
        shifts: the shifts, which act in the order of `SHIFTS`.
        images: whether camera images are observed.

    Raises:
        OtprError: the task does not support a shift.
    """

    def __init__(self, place: Place, shifts: Sequence[Shift], *, images: bool):
        self._simulator = place.simulator
        self._drawn: dict[str, list[Effect]] = {}  # the effects that "random" draws from, by level
        self._fixed: list[tuple[str, Effect]] = []
        order = list(SHIFTS)
        for shift in sorted(shifts, key=lambda one: order.index(one.name) if one.name in order else 0):
            if shift.name == RANDOM:
                for name in possible(place, images=images):
                    amounts = SHIFTS[name].amounts[: shift.level]
                    self._drawn[name] = [EFFECTS[name](place, amount) for amount in amounts]
            elif SHIFTS[shift.name].images and not images:
                raise OtprError(
                    f"{place.task}: no camera is looked through, so {shift} would change nothing."
                )
            else:
                self._fixed.append((shift.name, EFFECTS[shift.name](place, shift.amount)))
        self._now: list[Effect] = []

    def reset(self, seed: int) -> Observation:
        """See `Simulator.reset`."""
        self._end()
        now = self._fixed + self._draw(seed)
        self._now = [effect for _, effect in now]
        for name, effect in now:
            effect.begin(_generator(seed, name))
        observation = self._simulator.reset(seed)
        for effect in self._now:
            observation = effect.started(observation)
        return self._seen(observation)

    def _draw(self, seed: int) -> list[tuple[str, Effect]]:
        """The effects of an episode of "random": none, or one shift at one level, all equally likely."""
        rng, names = _generator(seed, RANDOM), sorted(self._drawn)
        which = int(rng.integers(len(names) + 1)) if names else 0
        if which == 0:
            return []
        levels = self._drawn[names[which - 1]]
        return [(names[which - 1], levels[int(rng.integers(len(levels)))])]

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        for effect in self._now:
            action = effect.act(action)
        outcome = self._simulator.step(action)
        return outcome._replace(observation=self._seen(outcome.observation))

    def _seen(self, observation: Observation) -> Observation:
        for effect in self._now:
            observation = effect.see(observation)
        return observation

    def _end(self) -> None:
        for effect in reversed(self._now):
            effect.end()
        self._now = []

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        return self._simulator.render()

    def close(self) -> None:
        """See `Simulator.close`. The simulator's model is restored first."""
        self._end()
        self._simulator.close()


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
