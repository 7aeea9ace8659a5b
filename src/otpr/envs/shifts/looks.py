"""Shifts of camera images."""

from __future__ import annotations

from typing import Any

import numpy as np

from otpr.envs.shifts.physics import OfModel


class CameraMoved(OfModel):
    """Displaces each camera by `amount` metres in a random direction, without rotating it."""

    names = ("cam_pos",)

    def change(self, model: Any) -> None:
        """See `OfModel.change`."""
        directions = self.rng.normal(size=model.cam_pos.shape)
        model.cam_pos[:] += self.amount * directions / np.linalg.norm(directions, axis=1, keepdims=True)


class Light(OfModel):
    """Multiplies all lights, including the viewer's headlight, by `amount`."""

    names = ("light_ambient", "light_diffuse", "light_specular")

    def change(self, model: Any) -> None:
        """See `OfModel.change`."""
        for name in self.names:
            getattr(model, name)[:] *= self.amount
        head = model.vis.headlight
        self._head = {part: getattr(head, part).copy() for part in ("ambient", "diffuse", "specular")}
        for part, value in self._head.items():
            getattr(head, part)[:] = value * self.amount

    def end(self) -> None:
        """See `Effect.end`."""
        if self._kept:
            for part, value in self._head.items():
                getattr(self._model.vis.headlight, part)[:] = value
        super().end()


class Texture(OfModel):
    """Tints each surface: moves its colour by the share `amount` towards a random one."""

    names = ("geom_rgba", "mat_rgba")

    def change(self, model: Any) -> None:
        """See `OfModel.change`."""
        for name in self.names:
            colours = getattr(model, name)
            drawn = self.rng.uniform(0.0, 1.0, (len(colours), 3))
            colours[:, :3] += self.amount * (drawn - colours[:, :3])
