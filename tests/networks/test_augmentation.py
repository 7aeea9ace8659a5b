from __future__ import annotations

import jax
import numpy as np
import pytest

from otpr.networks.augmentation import random_crop, random_shift

IMAGES = np.random.default_rng(0).integers(0, 256, (400, 7, 9, 3), dtype=np.uint8)
shift, crop = (jax.jit(function, static_argnums=1) for function in (random_shift, random_crop))


def windows(image: np.ndarray, size: tuple[int, int]) -> dict[tuple[int, int], bytes]:
    """All windows of that size in an image, by where they start."""
    rows, columns = image.shape[0] - size[0] + 1, image.shape[1] - size[1] + 1
    starts = [(i, j) for i in range(rows) for j in range(columns)]
    return {(i, j): image[i : i + size[0], j : j + size[1]].tobytes() for i, j in starts}


def found(before: np.ndarray, after: np.ndarray) -> list[tuple[int, int]]:
    """Where each image after is a window of the one before."""
    starts: list[tuple[int, int]] = []
    for old, new in zip(before, after, strict=True):
        (start,) = (s for s, window in windows(old, new.shape[:2]).items() if window == new.tobytes())
        starts.append(start)
    return starts


@pytest.mark.parametrize("pad", [1, 3])
def test_a_shifted_image_is_a_window_of_the_image_with_its_edges_repeated(pad: int) -> None:
    after = np.asarray(shift(IMAGES, pad, jax.random.key(0)))
    assert after.dtype == np.uint8 and after.shape == IMAGES.shape
    padded = np.pad(IMAGES, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="edge")
    counts = np.zeros((2 * pad + 1,) * 2)
    for start in found(padded, after):
        counts[start] += 1
    # uniform: of the 400 starts within five standard deviations as many at each place
    mean = counts.mean()
    assert (np.abs(counts - mean) < 5 * np.sqrt(mean)).all() and counts.sum() == 400


def test_a_crop_is_a_window_at_every_place() -> None:
    after = np.asarray(crop(IMAGES, (6, 7), jax.random.key(1)))
    assert after.dtype == np.uint8
    assert set(found(IMAGES, after)) == {(i, j) for i in range(2) for j in range(3)}
    np.testing.assert_array_equal(crop(IMAGES, (7, 9), jax.random.key(1)), IMAGES)


@pytest.mark.parametrize("function", [lambda x, key: shift(x, 2, key), lambda x, key: crop(x, (5, 5), key)])
def test_frames_of_a_group_move_together(function) -> None:
    grouped = np.stack([IMAGES[:50], IMAGES[:50], 255 - IMAGES[:50]], axis=1)
    after = np.asarray(function(grouped, jax.random.key(2)))
    assert after.shape[:2] == (50, 3)
    np.testing.assert_array_equal(after[:, 0], after[:, 1])
    np.testing.assert_array_equal(after[:, 0], 255 - after[:, 2])


def test_no_shift_is_the_image_and_keys_differ() -> None:
    np.testing.assert_array_equal(shift(IMAGES, 0, jax.random.key(0)), IMAGES)
    one, same, other = (np.asarray(shift(IMAGES, 2, jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
