"""Several episodes as arrays: their concatenated steps, and one row for each episode."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.spec import Spec

_UNKNOWN_SEED = -1

_FLAGS = ("terminated", "truncated", "success")

Arrays = Mapping[str, NDArray[Any]]


def pack(episodes: Sequence[Episode], spec: Spec) -> dict[str, NDArray[Any]]:
    """Convert episodes, at least one, to arrays.

    Args:
        episodes: n episodes with S steps in total.
        spec: the spec of their task.

    Returns:
        `observations/NAME`, (S + n, *shape) of the entry's own type, for each observation entry; `actions`,
        (S, action_dim) float32; `rewards`, (S,) float32; `lengths`, (n,) int64, in steps; `terminated`,
        `truncated` and `success`, (n,) bool; `seeds`, (n,) int64, -1 where unknown. Where there are images
        also `looked`, (S + n,) bool, after which steps there is one: they have as many rows as that.

    Raises:
        ValueError: an episode does not fit the spec.
    """
    for episode in episodes:
        if sorted(episode.observations) != sorted(spec.observation):
            raise ValueError(
                f"An episode's observations have the entries {sorted(episode.observations)}, by the spec "
                f"they are {sorted(spec.observation)}."
            )
    seeds = [_UNKNOWN_SEED if episode.seed is None else episode.seed for episode in episodes]
    arrays: dict[str, NDArray[Any]] = {
        **{
            _stored(name): np.concatenate([episode.observations[name] for episode in episodes])
            for name in spec.observation
        },
        "actions": np.concatenate([episode.actions for episode in episodes]),
        "rewards": np.concatenate([episode.rewards for episode in episodes]),
        "lengths": np.array([len(episode) for episode in episodes], np.int64),
        **{flag: np.array([getattr(episode, flag) for episode in episodes], np.bool_) for flag in _FLAGS},
        "seeds": np.array(seeds, np.int64),
    }
    if spec.images:
        arrays["looked"] = np.concatenate([episode.looks for episode in episodes])
    _check(arrays, spec)
    return arrays


def unpack(arrays: Arrays, spec: Spec) -> list[Episode]:
    """The episodes from the arrays of `pack`; their arrays are views.

    Raises:
        ValueError: the arrays do not fit the spec; the message names the array, its form and the expected
            one.
    """
    _check(arrays, spec)
    episodes: list[Episode] = []
    step = frame = 0
    for i, length in enumerate(arrays["lengths"].tolist()):
        # each episode has one observation more than it has steps
        steps, states = slice(step, step + length), slice(step + i, step + i + length + 1)
        looked, frames = None, states
        if spec.images:
            looked = np.flatnonzero(arrays["looked"][states]).astype(np.int32)
            frames = slice(frame, frame + len(looked))
            frame += len(looked)
        seed = int(arrays["seeds"][i])
        episodes.append(
            Episode(
                observations={
                    name: arrays[_stored(name)][frames if entry.kind == "image" else states]
                    for name, entry in spec.observation.items()
                },
                actions=arrays["actions"][steps],
                rewards=arrays["rewards"][steps],
                **{flag: bool(arrays[flag][i]) for flag in _FLAGS},
                seed=None if seed == _UNKNOWN_SEED else seed,
                looked=None if looked is None or len(looked) == length + 1 else looked,
            )
        )
        step += length
    return episodes


def digest(arrays: Arrays) -> str:
    """The SHA-256 of arrays with their names, types and shapes, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(json.dumps([name, str(array.dtype), array.shape]).encode() + b"\n")
        total.update(array.tobytes())
    return total.hexdigest()


def _stored(name: str) -> str:
    """The name of an observation entry's array."""
    return f"observations/{name}"


def _check(arrays: Arrays, spec: Spec) -> None:
    # in Python's integers, because NumPy's sum of lengths near 2^63 would overflow
    lengths = [int(length) for length in arrays.get("lengths", np.zeros(0, np.int64)).reshape(-1)]
    if min(lengths, default=0) < 1:
        raise ValueError(f"lengths should be of episodes of at least one step, given {lengths[:5]}")
    n, steps = len(lengths), sum(lengths)
    looks = int(arrays["looked"].sum()) if spec.images and "looked" in arrays else 0
    rows = {"vector": steps + n, "image": looks}
    due: dict[str, tuple[tuple[int, ...], str]] = {
        **{
            _stored(name): ((rows[one.kind], *one.shape), one.dtype) for name, one in spec.observation.items()
        },
        **({"looked": ((steps + n,), "bool")} if spec.images else {}),
        "actions": ((steps, spec.action_dim), "float32"),
        "rewards": ((steps,), "float32"),
        "lengths": ((n,), "int64"),
        **dict.fromkeys(_FLAGS, ((n,), "bool")),
        "seeds": ((n,), "int64"),
    }
    if odd := sorted(set(due) ^ set(arrays)):
        fault = "is missing" if odd[0] in due else "should not be there"
        raise ValueError(f"by the spec, {odd[0]!r} {fault}")
    for name, (shape, dtype) in due.items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise ValueError(
                f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}, by spec and lengths it is "
                f"{dtype}{list(shape)}"
            )
