"""What the frames of a camera show: how many are black, of one colour, or as the one before."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.frames import BLACK, in_blocks

FRAMES = 8
"""Frames of an episode that are kept for the picture, evenly spaced."""
_EPISODES = 3
_EVERY = 61
_LARGEST = 128
"""Pixels of a kept frame, each way."""


class Look:
    """The frames of one camera, as far as they were read.

    Attributes:
        shape: of a frame: (height, width, channels).
        frames: how many there are.
        black: how many have no number above `otpr.data.frames.BLACK`.
        plain: how many of the others are of one colour, up to as much.
        repeated: how many are, byte for byte, the frame before them in their episode.
        strips: of the first few episodes some frames each, (frames, height, width, channels); larger ones
            with every so many pixels.
    """

    def __init__(self, shape: tuple[int, ...]):
        self.shape = shape
        self.frames = self.black = self.plain = self.repeated = 0
        self.strips: list[NDArray[np.uint8]] = []

    def add(self, frames: NDArray[np.uint8]) -> bool:
        """Take in the frames of an episode, (n, *shape).

        Returns:
            Whether all of them are black.
        """
        before: NDArray[np.uint8] | None = None
        black = 0
        for block in in_blocks(frames, 0, len(frames)):
            pixels = block.reshape(len(block), -1, self.shape[-1])
            thin = pixels[:, ::_EVERY]  # mostly, they tell that a frame is neither plain nor the one before
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
        """The numbers in JSON's types; of frames shares, None where there are none."""

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
