"""Comparison of a data set's numbers with those of its task by resets and replays, within a few seconds.

The descriptions of two sides can agree although their numbers do not, because not every unit is stated. If
the episodes have reset seeds, a few are replayed; otherwise their first observations are compared with those
of the task. Differences are only reported, because simulators differ between versions and environments may
have other initial states.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.seeds import evaluation_seed
from otpr.envs import TaskSpec, make_env, task_spec
from otpr.envs.task_env import TaskEnv, by_name
from otpr.errors import OtprError
from otpr.spec import Parts, Spec

SECONDS = 3.0
"""Time budget in seconds, for replays and again for resets; a started episode or reset is finished."""
_REPLAYS = 3
_RESETS = 20
_FEWEST = 8
_STARTS = 1000
# Tolerance relative to a number's range in an episode: contacts are chaotic and differ between machines.
_APART = 0.05
_SMALL = 1e-4
_NARROW = 0.02
_TOLD = 5


class Sample:
    """The part of a data set's episodes that the check needs; they may be added one by one."""

    def __init__(self) -> None:
        self._starts: list[NDArray[np.float64]] = []
        self._seeded: list[tuple[int, Episode]] = []
        self._longest = 1
        self._count = 0

    def add(self, episode: Episode) -> None:
        """Add an episode."""
        if len(self._starts) < _STARTS:
            self._starts.append(_flat(episode)[0].copy())  # not a view of all of it
        if episode.seed is not None and len(self._seeded) < _REPLAYS:
            self._seeded.append((self._count, episode))
        self._longest = max(self._longest, len(episode))
        self._count += 1

    def compared(self, task: TaskSpec, parts: Parts = ()) -> list[str]:
        """Reset and step the task's environment, and return the differences, one sentence each.

        Args:
            task: the episodes' task.
            parts: the parts of the observation, if known.
        """
        if not task.installed:
            return [f"not compared with resets of {task.id}: its simulator is not installed ({task.install})"]
        # frames are expensive and not compared
        setup = task.setup if task.setup.observe == "images" else replace(task.setup, cameras=())
        setup = replace(setup, episode_limit=max(self._longest, task.episode_limit or 1))
        try:
            spec = task_spec(setup).spec
            names = _names(spec, task.parts or parts)
            env = make_env(setup)
            try:
                told, starts_differ = self._replayed(env, spec, names)
                if starts_differ or not self._seeded:
                    told += self._started(env, spec, names)
            finally:
                env.close()
        except OtprError as error:
            return [f"not compared with resets of {task.id}: {error}"]
        return told

    def _replayed(self, env: TaskEnv, spec: Spec, names: list[str]) -> tuple[list[str], bool]:
        """Differences in replays of episodes with seeds, and whether the first observation differs."""
        told: list[str] = []
        deadline = time.monotonic() + SECONDS
        for index, episode in self._seeded:
            if time.monotonic() > deadline:
                break
            stored = _flat(episode)
            scale = _APART * np.ptp(stored, axis=0) + _SMALL
            observation, _ = env.reset(seed=episode.seed)
            if found := _first_gap(_now(spec, observation), stored[0], scale, names):
                told.append(f"reset with the seed of episode {index}, {episode.seed}: {found}")
                return told, True
            if found := self._stepped(env, spec, names, episode, scale, deadline):
                told.append(f"replay of episode {index} from its seed {found}")
        return told, False

    def _stepped(
        self,
        env: TaskEnv,
        spec: Spec,
        names: list[str],
        episode: Episode,
        scale: NDArray[np.float64],
        deadline: float,
    ) -> str:
        """The difference in the replay of an episode after its reset; empty if none is found in time."""
        stored, info = _flat(episode), {"success": False}
        for step, action in enumerate(episode.actions, start=1):
            if time.monotonic() > deadline:
                return ""
            # frames are not compared
            observation, _, terminated, truncated, info = env.step(action, False)
            if found := _first_gap(_now(spec, observation), stored[step], scale, names):
                return f"leaves the stored observations at step {step}: {found}"
            if (terminated or truncated) and step < len(episode):
                return f"ends at step {step}, the stored one at {len(episode)}"
        ends = ("without success", "with success")
        solved = bool(info["success"])
        return "" if solved == episode.success else f"ends {ends[solved]}, the stored {ends[episode.success]}"

    def _started(self, env: TaskEnv, spec: Spec, names: list[str]) -> list[str]:
        """Numbers of first observations whose range differs from that of the task's resets.

        A number differs if more than a quarter of the episodes start outside the range of the resets by more
        than a quarter of it, or if the episodes' range is less than a fiftieth of it.
        """
        resets: list[NDArray[np.float64]] = []
        deadline = time.monotonic() + SECONDS
        while len(resets) < _RESETS and time.monotonic() < deadline:
            observation, _ = env.reset(seed=evaluation_seed(len(resets)))
            resets.append(_now(spec, observation))
        if len(resets) < _FEWEST:
            return [f"its starts are not compared: {len(resets)} resets took {SECONDS:g} s, too few to tell"]
        data, task = np.array(self._starts), np.array(resets)
        low, high, floor, ceiling = data.min(axis=0), data.max(axis=0), task.min(axis=0), task.max(axis=0)
        # a few resets do not cover the range, and a single start says little about the others
        share = 0.25 if len(resets) == _RESETS and len(data) > 1 else 1.0
        margin = share * (ceiling - floor) + 1e-3 * np.abs(task).max(axis=0) + _SMALL
        outside = ((data < floor - margin) | (data > ceiling + margin)).sum(axis=0)
        # numbers in smaller units all lie inside
        narrow = (high - low > 0) & (high - low < _NARROW * (ceiling - floor)) & (len(data) >= 4)
        odd = np.flatnonzero((outside > len(data) / 4) | narrow)
        told = [
            f"at the start of episodes {names[i]} is not as in the task: data {low[i]:.4g} to {high[i]:.4g}, "
            f"{len(resets)} resets {floor[i]:.4g} to {ceiling[i]:.4g}"
            for i in odd[:_TOLD]
        ]
        if len(odd) > _TOLD:
            told.append(f"nor are {len(odd) - _TOLD} further numbers of the observation")
        return told


def _flat(episode: Episode) -> NDArray[np.float64]:
    """The concatenated vector entries, (T + 1, dim)."""
    return _beside(episode.observations, len(episode) + 1)


def _now(spec: Spec, observation: Any) -> NDArray[np.float64]:
    """The concatenated vector entries of one observation of the environment, (dim,)."""
    return _beside({name: entry[None] for name, entry in by_name(spec, observation).items()}, 1)[0]


def _beside(observations: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
    vectors = [observations[name] for name in sorted(observations) if observations[name].ndim == 2]
    return np.concatenate([np.zeros((rows, 0)), *vectors], axis=1)


def _names(spec: Spec, parts: Parts) -> list[str]:
    """A name for each number."""
    if spec.only_vector is not None and parts:
        return [f"{name}[{i}]" for name, length in parts for i in range(length)]
    vectors = {name: entry for name, entry in spec.observation.items() if entry.kind == "vector"}
    return [f"{name}[{i}]" for name, entry in vectors.items() for i in range(entry.shape[0])]


def _first_gap(
    now: NDArray[np.float64], stored: NDArray[np.float64], scale: NDArray[np.float64], names: list[str]
) -> str:
    """The number with the largest difference, in words; empty if all are close."""
    off = np.abs(now - stored) / scale
    worst = int(np.argmax(off)) if off.size else 0
    if not off.size or off[worst] <= 1:
        return ""
    return f"{names[worst]} is {now[worst]:.4g}, stored {stored[worst]:.4g}"
