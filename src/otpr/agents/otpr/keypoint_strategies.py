"""Which expert chunks are keypoints of the masked transport (docs/keypoints.md compares the strategies)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from otpr.data.store import EpisodeStore, episode_starts

KeypointStrategy = Literal["all", "every-kth", "change-points", "diverse", "top-q"]
"""Names of the strategies; see `keypoint_rows`."""

_WINDOW = 5
"""Steps over which noisy actions and speeds are averaged before changes are looked for."""


def keypoint_rows(strategy: KeypointStrategy, store: EpisodeStore, *, count: int) -> NDArray[np.int32]:
    """The rows of demonstrations in a store at which chunks begin that may become keypoints.

    - `all`: every chunk.
    - `every-kth`: every chunk length from an episode's first, so that keypoints of an episode do not overlap.
    - `change-points`: where the gripper's command (the last entry of the action, by convention) crosses half
      its range, where the motion pauses (a local minimum of the features' speed, below half the episode's
      median), and the beginning and the last step of an episode.
    - `diverse`: `count` steps whose observations lie far apart: each is the farthest from those chosen before
      (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").
    - `top-q`: every chunk; which of them are keypoints is decided anew at each draw, by the critic.

    Args:
        strategy: its name.
        store: holds the demonstrations and nothing else.
        count: how many keypoints `diverse` chooses, at most the number of steps.

    Returns:
        Increasing row numbers; at least one.
    """
    episodes = episode_starts(store)
    features, actions = np.asarray(store.features), np.asarray(store.actions)
    every = np.concatenate([np.arange(first, last, dtype=np.int32) for first, last in episodes])
    if strategy == "diverse":
        far = _farthest_points(_unit_scale(features[every]), min(count, len(every)))
        return np.sort(every[far])
    if strategy == "every-kth":
        h = store.spec.execute
        return np.concatenate([np.arange(first, last, h, dtype=np.int32) for first, last in episodes])
    if strategy == "change-points":
        # over all observations, an episode's last included
        scale = np.concatenate([features[first : last + 1] for first, last in episodes]).std(axis=0)
        found = [
            first + _change_points(features[first : last + 1], actions[first:last], scale)
            for first, last in episodes
        ]
        return np.concatenate(found).astype(np.int32)
    return every


def _change_points(
    features: NDArray[np.floating], actions: NDArray[np.floating], scale: NDArray[np.floating]
) -> NDArray[np.int64]:
    steps = len(actions)
    gripper = _smooth(actions[:, -1])
    middle = (gripper.max() + gripper.min()) / 2
    closes = np.flatnonzero(np.diff(gripper > middle)) + 1 if np.ptp(gripper) > 0.5 else np.zeros(0, int)
    speed = _smooth(np.linalg.norm(np.diff(features, axis=0) / np.maximum(scale, 1e-6), axis=1))
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
