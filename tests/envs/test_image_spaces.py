"""Which arrays are images, and in which order their axes are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from otpr.envs.image_spaces import image_of, is_image
from otpr.errors import OtprError

BYTES = np.dtype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "axes", "upright"),
    [
        ((48, 64, 3), (0, 1, 2), (48, 64, 3)),
        ((3, 48, 64), (1, 2, 0), (48, 64, 3)),
        ((1, 48, 64), (1, 2, 0), (48, 64, 1)),
        ((48, 64, 4), (0, 1, 2), (48, 64, 4)),
    ],
)
def test_the_channels_are_put_last(
    shape: tuple[int, ...], axes: tuple[int, ...], upright: tuple[int, ...]
) -> None:
    image = image_of(shape, BYTES, "it")
    frames = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    assert image.entry.shape == upright
    np.testing.assert_array_equal(image.upright(frames[0]), frames[0].transpose(axes), strict=True)
    np.testing.assert_array_equal(image.upright(frames)[1], frames[1].transpose(axes), strict=True)


def test_an_image_without_channels_has_one() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (48, 64), np.uint8)
    np.testing.assert_array_equal(
        image_of((48, 64), BYTES, "it").upright(frame), frame[:, :, None], strict=True
    )


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((48, 64, 3), np.float32, "it is an image of float32; images must be uint8, from 0 to 255"),
        ((48, 64, 2), np.uint8, "it has shape (48, 64, 2), and no end is 1, 3 or 4"),
        ((3, 64, 3), np.uint8, "it has shape (3, 64, 3), and both ends could be the channels"),
        (
            (4, 48, 64, 3),
            np.uint8,
            "it has shape (4, 48, 64, 3), several images at once; give the present one",
        ),
    ],
)
def test_what_cannot_be_told_is_refused(shape: tuple[int, ...], dtype: type, message: str) -> None:
    with pytest.raises(OtprError, match=re.escape(message)):
        image_of(shape, np.dtype(dtype), "it")


def test_which_spaces_hold_images() -> None:
    images = [Box(0, 255, (8, 8), np.uint8), Box(0, 255, (8, 8, 3), np.uint8), Box(0, 1, (8, 8, 3))]
    others = [Box(0, 255, (8,), np.uint8), Box(-1, 1, (8, 8)), Discrete(3)]
    assert [is_image(space) for space in (*images, *others)] == [True] * 3 + [False] * 3
