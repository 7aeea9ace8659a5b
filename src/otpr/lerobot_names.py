"""LeRobot's names for the parts of an observation, and their names in otpr."""

from __future__ import annotations

STATE_PARTS = ("observation.state", "observation.environment_state")
"""The features that form the observation entry "state", in this order."""


def image_entry(key: str) -> str:
    """The observation entry's name for an image feature: the feature's name without `observation.images.`."""
    return key.removeprefix("observation.").removeprefix("images.")
