"""Statistics of camera frames: how many are black, of one colour, or repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.frames import BLACK, in_blocks

FRAMES = 8
"""Number of evenly spaced frames of an episode that are kept for the picture."""
_EPISODES = 3
_EVERY = 61
_LARGEST = 128
"""Largest height and width of a kept frame, in pixels."""


class Look:
    """Statistics of one camera's frames.

    Attributes:
        shape: shape of a frame: (height, width, channels).
        frames: number of frames.
        black: number of frames with no value above `otpr.data.frames.BLACK`.
        plain: number of the others with one colour, within the same tolerance.
        repeated: number of frames that equal the previous frame of their episode, byte for byte.
        strips: some frames of each of the first few episodes, (frames, height, width, channels), subsampled
            if large.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self.frames = self.black = self.plain = self.repeated = 0
        self.strips: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8]) -> bool:
        """Add the frames of an episode, (n, *shape).

        Returns:
            Whether all of them are black.
        """
        before: NDArray[np.uint8] | None = None
        black = 0
        for block in in_blocks(frames, 0, len(frames)):
            pixels = block.reshape(len(block), -1, self.shape[-1])
            thin = pixels[:, ::_EVERY]  # a cheap test that usually rules out plain and repeated frames
            for i in np.flatnonzero((np.ptp(thin, axis=1) <= BLACK).all(axis=1)):
                dark = int(pixels[i].max()) <= BLACK
                black += dark
                spread = max(int(np.ptp(pixels[i, :, c])) for c in range(self.shape[-1]))
                self.plain += not dark and spread <= BLACK
            if before is not None:
                self.repeated += bool((pixels[0] == before).all())
            for i in np.flatnonzero((thin[1:] == thin[:-1]).all(axis=(1, 2))):
                self.repeated += bool((pixels[i + 1] == pixels[i]).all())
            before = pixels[-1]
        self.frames += len(frames)
        self.black += black
        if len(frames) and len(self.strips) < _EPISODES:
            every = -(-max(self.shape[:2]) // _LARGEST)
            chosen = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
            self.strips.append(np.stack([frames[i, ::every, ::every] for i in chosen]))
        return black == len(frames) > 0

    def as_dict(self, name: str) -> dict[str, Any]:
        """The numbers as a JSON document, with shares of the frames; None if there are no frames."""

        def share(count: int) -> float | None:
            return count / self.frames if self.frames else None

        return {
            "name": name,
            "shape": list(self.shape),
            "frames": self.frames,
            "black": share(self.black),
            "one_colour": share(self.plain),
            "repeated": share(self.repeated),
        }
