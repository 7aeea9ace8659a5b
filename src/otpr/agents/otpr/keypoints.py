"""Which expert chunks are keypoints of the masked transport (docs/keypoints.md compares the strategies)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from otpr.data.episodes import Episode

KeypointStrategy = Literal["all", "every-kth", "change-points", "diverse", "top-q"]
"""Names of the strategies; see `keypoint_rows`."""

_WINDOW = 5
"""Steps over which noisy actions and speeds are averaged before changes are looked for."""


def keypoint_rows(
    strategy: KeypointStrategy, episodes: Sequence[Episode], *, chunk_length: int, count: int
) -> NDArray[np.int64]:
    """The demonstrated chunks that may become keypoints, as numbers of the steps where they start.

    - `all`: every chunk.
    - `every-kth`: every h-th step of an episode, so that keypoints of an episode do not overlap.
    - `change-points`: where the gripper's command (the last entry of the action, by convention) crosses half
      its range, where the motion pauses (a local minimum of the observation's speed, below half the
      episode's median), and the beginning and the last step of an episode.
    - `diverse`: `count` steps whose observations lie far apart: each is the farthest from those chosen before
      (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").
    - `top-q`: every chunk; which of them are keypoints is decided anew at each draw, by the critic.

    Args:
        strategy: its name.
        episodes: the demonstrations, in the order of their transitions.
        chunk_length: h, actions in a chunk.
        count: how many keypoints `diverse` chooses, at most the number of steps.

    Returns:
        Increasing numbers into the concatenated steps of all episodes; at least one.
    """
    starts = np.cumsum([0, *(len(episode) for episode in episodes)])
    if strategy == "diverse":
        observations = np.concatenate([episode.observations[:-1] for episode in episodes])
        return np.sort(_farthest_points(_unit_scale(observations), min(count, len(observations))))
    if strategy == "every-kth":
        return np.concatenate(
            [start + np.arange(0, len(episode), chunk_length) for start, episode in _pairs(starts, episodes)]
        )
    if strategy == "change-points":
        scale = np.concatenate([episode.observations for episode in episodes]).std(axis=0)
        return np.concatenate(
            [start + _change_points(episode, scale) for start, episode in _pairs(starts, episodes)]
        )
    return np.arange(starts[-1])


def _pairs(starts: NDArray[np.int64], episodes: Sequence[Episode]) -> list[tuple[int, Episode]]:
    return list(zip(starts[:-1].tolist(), episodes, strict=True))


def _change_points(episode: Episode, scale: NDArray[np.floating]) -> NDArray[np.int64]:
    steps = len(episode)
    gripper = _smooth(episode.actions[:, -1])
    middle = (gripper.max() + gripper.min()) / 2
    closes = np.flatnonzero(np.diff(gripper > middle)) + 1 if np.ptp(gripper) > 0.5 else np.zeros(0, int)
    speed = _smooth(np.linalg.norm(np.diff(episode.observations, axis=0) / np.maximum(scale, 1e-6), axis=1))
    inner = np.arange(1, steps - 1)
    pauses = inner[
        (speed[1:-1] <= speed[:-2]) & (speed[1:-1] < speed[2:]) & (speed[1:-1] < 0.5 * np.median(speed))
    ]
    return np.unique(np.concatenate([[0, steps - 1], closes, pauses])).astype(np.int64)


def _smooth(series: NDArray[np.floating]) -> NDArray[np.floating]:
    """Moving average over `_WINDOW` steps, the ends repeated."""
    half = _WINDOW // 2
    return np.convolve(np.pad(series, half, mode="edge"), np.full(_WINDOW, 1 / _WINDOW), mode="valid")


def _unit_scale(observations: NDArray[np.floating]) -> NDArray[np.floating]:
    return (observations - observations.mean(axis=0)) / np.maximum(observations.std(axis=0), 1e-6)


def _farthest_points(points: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    chosen = np.zeros(count, np.int64)  # the first point, then the farthest from all chosen
    distance = np.full(len(points), np.inf)
    for i in range(1, count):
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[i - 1]], axis=1))
        chosen[i] = int(np.argmax(distance))
    return chosen
