"""What LeRobot calls the parts of an observation, and what they are called here."""

from __future__ import annotations

STATE_PARTS = ("observation.state", "observation.environment_state")
"""The features that make the observation entry "state", in this order."""


def image_entry(key: str) -> str:
    """The name of the observation entry of a feature with images: without `observation.images.` before it."""
    return key.removeprefix("observation.").removeprefix("images.")
