"""The spaces of a Minari data set, read without running code, and the choice of vector parts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from minari.serialization import deserialize_space

from otpr.data.actions import Bounds
from otpr.data.meaning import chosen
from otpr.data.reading import missing
from otpr.envs.space_advice import action_advice
from otpr.errors import OtprError
from otpr.spec import Parts


def bounds_of(space: gymnasium.Space[Any]) -> Bounds | None:
    """The bounds of an action space, if it has an interval for every dimension."""
    assert isinstance(space, gymnasium.spaces.Box), "checked before"
    low, high = (end.astype(np.float64) for end in (space.low, space.high))
    if not (np.isfinite(low) & np.isfinite(high) & (low < high)).all():
        return None
    return tuple(low.tolist()), tuple(high.tolist())


def stored_space(metadata: dict[str, Any], name: str) -> gymnasium.Space[Any]:
    """Read a stored space. Unlike Minari, a missing one does not cause the environment's code to run."""
    if not isinstance(metadata.get(name), str):
        raise ValueError(f"it has no {name}")
    description = json.loads(metadata[name])
    _check_types(description)
    return deserialize_space(description)


def _check_types(description: Any) -> None:
    """Refuse types whose entries may have any size, such as S1000000000."""
    if isinstance(description, dict):
        if not re.fullmatch(r"(float|u?int)\d{1,2}|bool", str(description.get("dtype", "bool"))):
            raise ValueError(f"a space is of {str(description['dtype'])[:50]!r}")
        for inside in description.values():
            _check_types(inside)
    elif isinstance(description, list):
        for inside in description:
            if isinstance(inside, dict | list):  # an image has a bound for each of its numbers
                _check_types(inside)


def leaves_of(space: gymnasium.Space[Any], prefix: str = "") -> dict[str, gymnasium.Space[Any]]:
    """The spaces other than dicts and tuples by their path in the file, in the space's own order."""
    if isinstance(space, gymnasium.spaces.Tuple):
        parts = {f"_index_{i}": inner for i, inner in enumerate(space)}
    elif isinstance(space, gymnasium.spaces.Dict):
        parts = space.spaces
    else:
        return {prefix: space}
    leaves: dict[str, gymnasium.Space[Any]] = {}
    for name, inner in parts.items():
        leaves |= leaves_of(inner, f"{prefix}/{name}" if prefix else str(name))
    return leaves


def choose(
    folder: Path, leaves: dict[str, gymnasium.Space[Any]], keys: tuple[str, ...], wanted: Parts
) -> list[str]:
    """The parts to read: the keys, expanded if they are dicts; without keys, the wanted parts."""
    if not keys:
        lengths = {
            key: math.prod(leaf.shape)
            for key, leaf in leaves.items()
            if isinstance(leaf, gymnasium.spaces.Box) and len(leaf.shape) <= 1
        }
        return chosen((), wanted, lengths, list(leaves))
    if list(leaves) == [""]:
        raise OtprError(f"{folder}: observations are one vector without parts; leave out --keys.")
    found: list[str] = []
    for key in keys:
        inside = [leaf for leaf in leaves if leaf == key or leaf.startswith(f"{key}/")]
        if not inside:
            raise missing(str(folder), "observation key", key, leaves)
        found += inside
    return found


def flat_dim(folder: Path, field: str, space: gymnasium.Space[Any], vectors: Sequence[str] = ()) -> int:
    """The length of a vector or a number; `vectors` are the observation's vector parts."""
    if is_flat(space) and (field != "actions" or space.shape):
        assert space.shape is not None
        return space.shape[0] if space.shape else 1
    if field == "actions":
        advice = f"Collect the set again. {action_advice(space)}"
    else:
        chosen = f"Choose parts that are, with --keys {' '.join(vectors)}; or c" if vectors else "C"
        advice = (
            f"{chosen}ollect the set again, the environment wrapped with "
            "gymnasium.wrappers.FlattenObservation(env)."
        )
    raise OtprError(f"{folder}: {field} must be flat vectors, and are {space}. {advice}")


def is_flat(space: gymnasium.Space[Any]) -> bool:
    """Whether it is a vector or a number."""
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) <= 1
