"""Image augmentation for training: random shifts and crops.

Both take groups of frames, such as the frames that one decision sees, and treat all frames of a group alike.
They work on `uint8`; a batch of 128 images of 64 x 64 pixels takes about a millisecond on a CPU.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, UInt8


def random_shift(
    images: UInt8[Array, "n *frames h w c"], pad: int, key: PRNGKeyArray
) -> UInt8[Array, "n *frames h w c"]:
    """Shift images by up to `pad` pixels along each axis; uncovered pixels repeat the nearest edge.

    Source: Kostrikov et al., "Image augmentation is all you need", 2021 (DrQ).

    Args:
        images: n groups of frames; the frames of a group are shifted alike.
        pad: the largest shift in pixels; both shifts are uniform in {-pad, ..., pad}.
        key: draws the shifts.
    """
    starts = jax.random.randint(key, (images.shape[0], 2), -pad, pad + 1)
    return _windows(images, starts, (images.shape[-3], images.shape[-2]))


def random_crop(
    images: UInt8[Array, "n *frames h w c"], size: tuple[int, int], key: PRNGKeyArray
) -> UInt8[Array, "n *frames rows columns c"]:
    """Crop a window from each group of frames at a uniformly random position.

    Args:
        images: n groups of frames; the frames of a group are cropped alike.
        size: rows and columns of the window, at most those of the images.
        key: draws the positions.
    """
    free = jnp.array([images.shape[-3] - size[0], images.shape[-2] - size[1]])
    starts = jax.random.randint(key, (images.shape[0], 2), 0, free + 1)
    return _windows(images, starts, size)


def _windows(images: Array, starts: Array, size: tuple[int, int]) -> Array:
    """The window of each group from the given start; pixels outside the image repeat the nearest edge."""
    n, *frames, height, width, channels = images.shape
    grouped = images.reshape(n, math.prod(frames), height, width, channels)
    rows = jnp.clip(starts[:, :1] + jnp.arange(size[0]), 0, height - 1)
    columns = jnp.clip(starts[:, 1:] + jnp.arange(size[1]), 0, width - 1)
    group, frame = jnp.arange(n)[:, None, None, None], jnp.arange(grouped.shape[1])[:, None, None]
    cut = grouped[group, frame, rows[:, None, :, None], columns[:, None, None, :]]
    return cut.reshape(n, *frames, *size, channels)
