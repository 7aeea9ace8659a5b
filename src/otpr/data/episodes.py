"""Episodes of experience, and their validation before training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.spec import Entry, Spec


@dataclass(frozen=True)
class Episode:
    """One episode of T >= 1 steps.

    Attributes:
        observations: by entry name, (T+1, *shape) of the entry's own type: after the reset, then after each
            step. A task that observes one vector has the single entry "state". Images may be in a file
            (`otpr.data.spool`), and there may be fewer of them: see `looked`.
        actions: (T, action_dim) float32, in [-1, 1], as executed.
        rewards: (T,) float32.
        terminated: the episode reached a terminal state, usually success.
        truncated: the episode was cut off, e.g. by the time limit, and could have continued.
        success: the task was solved.
        seed: the environment's reset seed, in [0, 2**31); None where unknown.
        looked: the steps with images, ascending from 0 to T. Step 0, before the first action, is always among
            them. None: all steps.
    """

    observations: Mapping[str, NDArray[Any]]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: bool
    truncated: bool
    success: bool
    seed: int | None
    looked: NDArray[np.int32] | None = None

    def __len__(self) -> int:
        """The number of steps, T."""
        return len(self.actions)

    @property
    def total_reward(self) -> float:
        """The sum of its rewards, without discount."""
        return float(np.sum(self.rewards, dtype=np.float64))

    @property
    def looks(self) -> NDArray[np.bool_]:
        """The steps, from 0 on, that have images: (T + 1,), bool."""
        looks = np.full(len(self) + 1, self.looked is None)
        if self.looked is not None:
            looks[self.looked] = True
        return looks

    def frames(self, steps: NDArray[np.integer]) -> NDArray[np.integer]:
        """The rows of the images after given steps; a step without images has the last row before it."""
        return steps if self.looked is None else np.searchsorted(self.looked, steps, side="right") - 1


def seen_spec(episode: Episode) -> Spec:
    """The entries and dimensions of an episode's arrays as a spec. Bounds and control rate are unknown.

    Raises:
        OtprError: an array cannot be an observation entry, or the actions are not vectors.
    """
    entries = {
        name: Entry(array.shape[1:], str(array.dtype), "image" if array.ndim == 4 else "vector")
        for name, array in episode.observations.items()
    }
    n = episode.actions.shape[-1]
    return Spec(entries, (-1.0,) * n, (1.0,) * n)


def validate_episodes(episodes: Sequence[Episode], *, source: str, spec: Spec | None = None) -> None:
    """Check that episodes can be trained on.

    Args:
        episodes: the episodes.
        source: their origin, e.g. a file, for errors.
        spec: the task's spec; None: derived from the first episode's arrays.

    Raises:
        OtprError: there is no episode; one is empty; arrays have wrong dimensions or lengths that do not
            match; a number is NaN or infinite; or an action is outside [-1, 1]. The message names the source,
            the episode's index and the field.
    """
    if not episodes:
        raise OtprError(f"{source}: holds no episodes; at least one is needed.")
    for index, episode in enumerate(episodes):
        where = f"{source}: episode {index}"
        if spec is None:
            spec = _own_spec(episode, where)
        validate_episode(episode, where=where, spec=spec)


def validate_episode(episode: Episode, *, where: str, spec: Spec | None = None) -> None:
    """Check that one episode can be trained on; see `validate_episodes`.

    Args:
        episode: the episode.
        where: the file and the place in it, for errors.
        spec: the task's spec, of which observation entries and action dimensions are compared; None: derived
            from the episode's arrays.
    """
    spec = spec or _own_spec(episode, where)
    if sorted(episode.observations) != sorted(spec.observation):
        raise OtprError(
            f"{where}: observations have the entries {_listed(episode.observations)}, expected "
            f"{_listed(spec.observation)}."
        )
    # every byte is valid, and images may exceed memory
    named = {_field(name): episode.observations[name] for name in spec.vectors}
    for name, entry in spec.observation.items():
        _check_shape(where, _field(name), episode.observations[name], entry.shape)
        if entry.kind == "image" and episode.observations[name].dtype != np.uint8:
            given = episode.observations[name].dtype
            raise OtprError(f"{where}: {_field(name)} are {given}, expected uint8 as of every image.")
    _check_shape(where, "actions", episode.actions, (spec.action_dim,))
    if episode.rewards.ndim != 1:
        raise OtprError(f"{where}: rewards have shape {episode.rewards.shape}, expected (steps,).")
    steps = len(episode.actions)
    if steps == 0:
        raise OtprError(f"{where}: actions are empty; an episode has at least one step.")
    looked = _checked_looks(episode, where)
    for name, entry in spec.observation.items():
        field, array = _field(name), episode.observations[name]
        if entry.kind == "image" and looked is not None and len(array) != looked:
            raise OtprError(f"{where}: {field} have length {len(array)}, expected {looked}, one a look.")
        if (entry.kind != "image" or looked is None) and len(array) != steps + 1:
            raise OtprError(
                f"{where}: {field} have length {len(array)}, expected {steps + 1}, "
                f"one more than the {steps} actions."
            )
    if len(episode.rewards) != steps:
        raise OtprError(
            f"{where}: rewards have length {len(episode.rewards)}, expected {steps}, as many as actions."
        )
    for field, array in {**named, "actions": episode.actions, "rewards": episode.rewards}.items():
        # states are computed in float32
        bad = np.argwhere(~(np.abs(array) <= np.finfo(np.float32).max))
        if len(bad):
            large = np.isfinite(array[tuple(bad[0])])
            raise OtprError(
                f"{where}: {field} hold {'numbers beyond 3.4e38' if large else 'NaN or infinity'}, first at "
                f"step {bad[0, 0]}; mend or leave out that episode."
            )
    bad = np.argwhere(np.abs(episode.actions) > 1.0)
    if len(bad):
        value = episode.actions[tuple(bad[0])]
        raise OtprError(
            f"{where}: actions leave [-1, 1], first at step {bad[0, 0]} with {value:.6g}; "
            "rescale the data to the environment's action range."
        )


def _checked_looks(episode: Episode, where: str) -> int | None:
    """The number of images of each camera in an episode; None: one for each step."""
    looked = episode.looked
    if looked is None:
        return None
    if looked.ndim != 1 or not len(looked) or looked[0] != 0 or (np.diff(looked) <= 0).any():
        raise OtprError(f"{where}: the steps that were looked at must ascend from 0, and are {looked}.")
    if looked[-1] > len(episode):
        raise OtprError(f"{where}: step {looked[-1]} was looked at, and there are {len(episode)}.")
    return len(looked)


def _own_spec(episode: Episode, where: str) -> Spec:
    try:
        return seen_spec(episode)
    except OtprError as error:
        raise OtprError(f"{where}: {error}") from error


def _field(name: str) -> str:
    """The name of an observation entry in errors; a single vector needs no name."""
    return "observations" if name == "state" else f"observations {name!r}"


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "none"


def _check_shape(where: str, field: str, given: NDArray[Any], shape: tuple[int, ...]) -> None:
    if given.ndim != 1 + len(shape) or given.shape[1:] != shape:
        expected = ", ".join(["steps", *map(str, shape)])
        raise OtprError(f"{where}: {field} have shape {given.shape}, expected ({expected}).")
