"""Strategies that choose expert chunks as keypoints (docs/keypoints.md compares them)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from otpr.data.store import EpisodeStore, episode_starts

KeypointStrategy = Literal["all", "every-kth", "change-points", "diverse", "top-q"]
"""Names of the strategies; see `keypoint_rows`."""

_WINDOW = 5
"""Number of steps over which noisy actions and speeds are averaged before changes are detected."""


def keypoint_rows(strategy: KeypointStrategy, store: EpisodeStore, *, count: int) -> NDArray[np.int32]:
    """The rows of a store of demonstrations at which candidate keypoint chunks begin.

    - `all`: every chunk.
    - `every-kth`: one chunk per chunk length from an episode's start, so that keypoints do not overlap.
    - `change-points`: where the gripper's command (the last entry of the action, by convention) crosses half
      its range, where the motion pauses (a local minimum of the features' speed, below half the episode's
      median), and at an episode's first and last step.
    - `diverse`: `count` steps with distant observations; each is the farthest from those already chosen
      (Gonzalez 1985, "Clustering to minimize the maximum intercluster distance").
    - `top-q`: every chunk; at each draw the critic selects the keypoints among them.

    Args:
        strategy: the strategy's name.
        store: a store that holds only demonstrations.
        count: number of keypoints for `diverse`, at most the number of steps.

    Returns:
        Row numbers in increasing order; at least one.
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
        # over all observations, including an episode's last
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
    """Moving average over `_WINDOW` steps, with the ends repeated."""
    half = _WINDOW // 2
    return np.convolve(np.pad(series, half, mode="edge"), np.full(_WINDOW, 1 / _WINDOW), mode="valid")


def _unit_scale(observations: NDArray[np.floating]) -> NDArray[np.floating]:
    return (observations - observations.mean(axis=0)) / np.maximum(observations.std(axis=0), 1e-6)


def _farthest_points(points: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    chosen = np.zeros(count, np.int64)  # the first point, then the farthest from all chosen points
    distance = np.full(len(points), np.inf)
    for i in range(1, count):
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[i - 1]], axis=1))
        chosen[i] = int(np.argmax(distance))
    return chosen
