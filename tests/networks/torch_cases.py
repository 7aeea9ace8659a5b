"""What the networks are compared with PyTorch on; `fixtures/make_torch.py` computes PyTorch's side of it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray


def formula(name: str, shape: tuple[int, ...], scale: float = 1.0) -> NDArray[np.float32]:
    """Numbers in [-scale, scale) that depend on the name and their index alone, so that none are stored."""
    start = sum(ord(letter) * 31**i for i, letter in enumerate(name)) % 2**32
    index = np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(start)
    mixed = index * np.uint64(2654435761) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    mixed ^= mixed >> np.uint64(13)
    return (scale * (mixed / 2**31 - 1)).astype(np.float32).reshape(shape)


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution: (n, *sizes, channels[0]) with a window and a stride, padded alike on both sides.

    With one size it is that of a plan, with two that of an image.
    """

    name: str
    samples: int
    sizes: tuple[int, ...]
    window: tuple[int, ...]
    channels: tuple[int, int]
    stride: int = 1
    padding: int = 0
    transposed: bool = False

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Input and kernel, channels last."""
        shape = (self.samples, *self.sizes, self.channels[0])
        return formula(f"{self.name} x", shape), formula(f"{self.name} k", (*self.window, *self.channels))


CASES = (
    Case("line", 3, (9,), (3,), (4, 5), 1, 1),
    Case("line, stride 2", 3, (9,), (3,), (4, 5), 2, 1),
    Case("even line, stride 2", 3, (8,), (3,), (4, 5), 2, 1),
    Case("window of 5", 3, (16,), (5,), (4, 5), 1, 2),
    Case("window longer than the line", 3, (4,), (5,), (4, 5), 1, 2),
    Case("window much longer than the line", 3, (2,), (5,), (4, 5), 2, 2),
    Case("more weights than numbers", 2, (4,), (3,), (16, 16), 2, 1),
    Case("places left over", 3, (8,), (3,), (4, 5), 2, 0),
    Case("up", 3, (4,), (4,), (5, 3), 2, 1, transposed=True),
    Case("up from 2", 3, (2,), (4,), (5, 3), 2, 1, transposed=True),
    Case("image", 3, (8, 7), (3, 3), (3, 5), 1, 1),
    Case("image, stride 2", 3, (8, 7), (3, 3), (3, 5), 2, 1),
    Case("image of one pixel", 3, (1, 1), (3, 3), (3, 5), 2, 1),
    Case("more weights than pixels", 1, (3, 4), (3, 3), (12, 16), 1, 1),
    Case("more weights than pixels, stride 2", 1, (4, 5), (3, 3), (12, 16), 2, 1),
    Case("stem", 2, (15, 14), (7, 7), (3, 4), 2, 3),
    Case("patches", 3, (8, 12), (4, 4), (3, 5), 4, 0),
    Case("patches and a rest", 3, (9, 14), (4, 4), (3, 5), 4, 0),
    Case("single pixels", 3, (5, 4), (1, 1), (3, 5), 1, 0),
    Case("single pixels, stride 2", 3, (5, 4), (1, 1), (3, 5), 2, 0),
)

GROUP_NORM = ((3, 5, 4, 12), 3)
"""Shape and groups; the numbers have an offset of 20 times their spread."""

MAX_POOLS = (((2, 9, 8, 3), 3, 2, 1), ((2, 6, 7, 3), 2, 2, 0))
"""Shape, window, stride, padding; the numbers are rounded, so that some are equal."""

SOFTMAX = (2, 5, 7, 3)
"""Shape of what the spatial softmax is taken of."""

IMAGES = (2, 84, 84, 3)
"""Shape of the images of the whole encoder; the crop is odd, so that its middle is between two pixels."""
CROP = (75, 76)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images() -> NDArray[np.uint8]:
    """Images with bright squares in different places."""
    pixels = (formula("images", IMAGES, 40) + 60).astype(np.uint8)
    pixels[0, 20:40, 50:66] = 230
    pixels[1, 55:70, 12:40] = (250, 20, 120)
    return pixels


def encoder_weight(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """A weight of the encoder by its name and shape in PyTorch; activations keep their scale."""
    if len(shape) == 1:  # scales about 1 of the norms, and all kinds of shifts
        scale = name.startswith("backbone") and name.endswith("weight")
        return formula(name, shape, 0.2) + np.float32(scale)
    fan = math.prod(shape[1:])
    return formula(name, shape, math.sqrt(6 / fan) * (6 if name == "pool.nets.weight" else 1))
