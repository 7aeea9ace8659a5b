"""Camera frames of episodes that a run collected."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from otpr.data.episodes import Episode
from otpr.data.experience_files import is_experience, read_about, read_ends

FRAMES = 8
"""Number of frames of an episode that are shown, from the first to the last."""


class Strip(NamedTuple):
    """Frames of one camera side by side."""

    camera: str
    when: str  # which episode it is
    source: str  # a PNG as a data URL


def strips(run: Path) -> Iterator[Strip]:
    """The first and the last episode of each camera; empty for a run without images.

    Raises:
        OtprError: the run's experience is damaged.
    """
    folder = run / "experience"
    if not is_experience(folder) or not read_about(folder).spec.images:
        return
    first, last = read_ends(folder)
    shown = [("the first episode", first[0])] if first else []
    if last and last[-1].seed != first[0].seed:
        shown.append(("the last episode", last[-1]))
    for when, episode in shown:
        outcome = "success" if episode.success else "failure"
        for camera in read_about(folder).spec.images:
            yield Strip(camera, f"{when} of the run, {outcome}", _png(episode, camera))


def _png(episode: Episode, camera: str) -> str:
    frames = episode.observations[camera]
    chosen = np.unique(np.linspace(0, len(frames) - 1, FRAMES).round().astype(int))
    picture = np.concatenate([frames[i] for i in chosen], axis=1)
    if picture.shape[-1] == 1:
        picture = picture[..., 0]
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
