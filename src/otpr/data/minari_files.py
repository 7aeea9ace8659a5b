"""Minari's data sets (HDF5 storage, Minari 0.4 and 0.5): one episode, and only the wanted fields, at a time.

`data/main_data.hdf5` holds `episode_i/{observations, actions, rewards, terminations, truncations, infos}`;
observations of a Dict space are groups within groups; `data/metadata.json` has the spaces.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from minari.dataset.minari_storage import METADATA_FILE_NAME
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from otpr.data.flags import SUCCESS, agreed, as_flags, end_of
from otpr.data.recorded import (
    CORRUPT,
    Recorded,
    Source,
    attempt,
    by_step,
    check_lengths,
    check_links,
    columns,
    first_steps,
    join,
    missing,
    reading,
    reason,
    stored,
    subgroup,
)
from otpr.errors import OtprError
from otpr.spec import Spec

DATA_FORMAT = 2
"""Of what otpr adds to a set's metadata; format 1, without a number there, had no spec."""
DATA_FOLDER = "data"
"""Minari looks for its files in this folder inside the one a data set is named by."""
_FILE_NAME = "main_data.hdf5"
_MEND = "collect or download it again"


@dataclass(frozen=True)
class MinariFile:
    """A Minari data set, opened but not read.

    Attributes:
        file: the HDF5 file with the numbers.
        metadata: what `metadata.json` holds.
        keys: the parts of the observation with their dimensions; one part named "" where it is no dict.
        action_dim: length of the action.
        spec: what the set was written with; None where otpr did not write it, or in data format 1.
    """

    file: Path
    metadata: dict[str, Any]
    keys: tuple[tuple[str, int], ...]
    action_dim: int
    spec: Spec | None

    @property
    def observation_dim(self) -> int:
        """The length of the observation, all parts together."""
        return sum(dim for _, dim in self.keys)

    @property
    def ours(self) -> bool:
        """Whether otpr wrote it."""
        return "otpr_data_format" in self.metadata or {"task_id", "expert"} <= self.metadata.keys()

    def read(self) -> Iterator[Recorded | OtprError]:
        """The episodes in order, as they are stored, or the error that says why one cannot be read.

        Raises:
            OtprError: the file is truncated or corrupt.
        """
        with reading(self.file, _MEND):
            file = h5py.File(self.file, "r")
        with file:
            check_links(self.file, file)
            count = int(self.metadata["total_episodes"])
            if count > len(file):
                raise OtprError(
                    f"{self.file}: truncated or corrupt (its metadata claim {count:,} episodes, and it holds "
                    f"{len(file):,}); {_MEND}."
                )
            for index in range(count):
                yield attempt(functools.partial(self._read, file, index))

    def _read(self, file: h5py.File, index: int) -> Recorded:
        with reading(self.file, _MEND):
            return self._recorded(subgroup(file, f"episode_{index}"), f"{self.file}: episode {index}")

    def _recorded(self, group: h5py.Group, place: str) -> Recorded:
        parts = [
            columns(
                stored(group, f"observations/{key}" if key else "observations"),
                f"{place}: observations {key}".rstrip(),
            )
            for key, _ in self.keys
        ]
        actions = columns(stored(group, "actions"), f"{place}: actions")
        seed = group.attrs.get("seed")
        recorded = Recorded(
            place=place,
            observations=join(parts, [key for key, _ in self.keys], place),
            actions=actions,
            rewards=by_step(stored(group, "rewards"), f"{place}: rewards"),
            seed=None if seed is None else int(seed),
        )
        success, field = _success(group, place, len(actions))
        recorded = replace(recorded, success=success, success_field=field)
        check_lengths(recorded, last_observation=True)
        return _ended(recorded, group)


def open_minari_file(
    path_or_id: str | os.PathLike[str], keys: tuple[str, ...] = (), *, only_of_others: bool = False
) -> MinariFile:
    """Open a data set without reading it.

    Args:
        path_or_id: its folder, or the id of one in Minari's own folder.
        keys: parts of dict observations in the order wanted, nested ones as `outer/inner`; a name of a dict
            stands for all in it. None: all, in the order of the stored space, which is the alphabet's.
        only_of_others: the keys are for sets that otpr did not write, with dict observations: any other set
            is taken whole, whatever they are.

    Raises:
        OtprError: there is none of that name, its metadata are not readable, an observation is not flat; or
            a later version of otpr has written it.
    """
    folder = _find(path_or_id)
    metadata_file = folder / METADATA_FILE_NAME
    try:
        metadata = json.loads(metadata_file.read_text())
        if int(metadata["total_episodes"]) < 0:
            raise ValueError("total_episodes is negative")
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise OtprError(
                f"{folder}: is stored as {metadata['data_format']!r}; only Minari's 'hdf5' is read: "
                "write it again with data_format='hdf5'."
            )
        if not (folder / _FILE_NAME).is_file():
            raise ValueError(f"No data found: there is no {_FILE_NAME}")
        if (given := int(metadata.get("otpr_data_format", 1))) > DATA_FORMAT:
            raise OtprError(
                f"{metadata_file}: has otpr's data format {given}; this version reads formats up to "
                f"{DATA_FORMAT}. Install a newer otpr."
            )
        spec = Spec.from_json(metadata["spec"]) if given >= 2 else None
        observations, actions = (_space(metadata, name) for name in ("observation_space", "action_space"))
    except CORRUPT as error:
        raise OtprError(
            f"{metadata_file}: not readable as a Minari data set ({reason(error)}); {_MEND}."
        ) from error
    leaves = _leaves(observations)
    if only_of_others and (spec is not None or list(leaves) == [""]):
        keys = ()
    return MinariFile(
        file=folder / _FILE_NAME,
        metadata=metadata,
        keys=tuple(
            (key, _flat_dim(folder, f"observations {key}".rstrip(), leaves[key]))
            for key in _choose(folder, leaves, keys)
        ),
        action_dim=_flat_dim(folder, "actions", actions),
        spec=spec,
    )


def open_minari(path_or_id: str | os.PathLike[str], keys: tuple[str, ...] = ()) -> Source:
    """A Minari data set; see `open_minari_file`."""
    opened = open_minari_file(path_or_id, keys)
    return as_source(opened, own_spec=None if keys else opened.spec)


def as_source(opened: MinariFile, own_spec: Spec | None) -> Source:
    """An opened set as any other; `own_spec` is what it was written with, if it is read as it was."""
    folder = opened.file.parent
    return Source(
        format="minari",
        path=folder.parent if folder.name == DATA_FOLDER else folder,
        keys=tuple((key or "observations", dim) for key, dim in opened.keys),
        read=opened.read,
        task_id=opened.metadata.get("task_id"),
        own_spec=own_spec,
        ours=opened.ours,
    )


def _find(path_or_id: str | os.PathLike[str]) -> Path:
    """The folder with the metadata file."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))
    given = Path(path_or_id)
    for folder in (given / DATA_FOLDER, given, root / given / DATA_FOLDER):
        if (folder / METADATA_FILE_NAME).exists():
            return folder
    if given.is_file():
        raise OtprError(f"{given} is a file, not a Minari data set; `otpr data convert` makes one of it.")
    if given.exists():
        raise OtprError(f"{given} is not a Minari data set: it holds no {DATA_FOLDER}/{METADATA_FILE_NAME}.")
    raise OtprError(
        f"No data set at {given}, nor one of that id in {root}. "
        "Make one with `otpr collect`, or fetch one with `minari download ID`."
    )


def _space(metadata: dict[str, Any], name: str) -> gymnasium.Space[Any]:
    """A stored space. Minari makes the stored environment where there is none, which runs any code."""
    if not isinstance(metadata.get(name), str):
        raise ValueError(f"it has no {name}")
    description = json.loads(metadata[name])
    _check_types(description)
    return deserialize_space(description)


def _check_types(description: Any) -> None:
    """Refuse types of which a single entry may have any size, such as S1000000000."""
    if isinstance(description, dict):
        if not re.fullmatch(r"(float|u?int)\d{1,2}|bool", str(description.get("dtype", "bool"))):
            raise ValueError(f"a space is of {str(description['dtype'])[:50]!r}")
        for inside in description.values():
            _check_types(inside)
    elif isinstance(description, list):
        for inside in description:
            _check_types(inside)


def _leaves(space: gymnasium.Space[Any], prefix: str = "") -> dict[str, gymnasium.Space[Any]]:
    """The spaces that are no dicts, by their path, in the space's own order."""
    if not isinstance(space, gymnasium.spaces.Dict):
        return {prefix: space}
    leaves: dict[str, gymnasium.Space[Any]] = {}
    for name, inner in space.spaces.items():
        leaves |= _leaves(inner, f"{prefix}/{name}" if prefix else str(name))
    return leaves


def _choose(folder: Path, leaves: dict[str, gymnasium.Space[Any]], keys: tuple[str, ...]) -> list[str]:
    if not keys:
        return list(leaves)
    if list(leaves) == [""]:
        raise OtprError(f"{folder}: observations are one vector without parts; leave out --keys.")
    chosen: list[str] = []
    for key in keys:
        inside = [leaf for leaf in leaves if leaf == key or leaf.startswith(f"{key}/")]
        if not inside:
            raise missing(str(folder), "observation key", key, leaves)
        chosen += inside
    return chosen


def _flat_dim(folder: Path, field: str, space: gymnasium.Space[Any]) -> int:
    if (
        not isinstance(space, gymnasium.spaces.Box)
        or len(space.shape) > 1
        or (field == "actions" and not space.shape)
    ):
        raise OtprError(
            f"{folder}: {field} must be flat vectors, and are {space}; "
            + (
                "no other actions are supported."
                if field == "actions"
                else "name those that are with --keys."
            )
        )
    return space.shape[0] if space.shape else 1


def _success(group: h5py.Group, place: str, steps: int) -> tuple[NDArray[np.bool_] | None, str]:
    """After which steps the task was solved, (steps,), and the field that says so."""
    told: dict[str, NDArray[np.bool_]] = {}
    infos = group.get("infos")
    present = set(infos) if isinstance(infos, h5py.Group) else set[str]()
    for name in SUCCESS:
        if name not in present:
            continue
        field = f"infos/{name}"
        flags = as_flags(stored(group, field), f"{place}: {field}")
        if len(flags) == steps + 1 > 1:
            # Minari's collector writes an entry for the reset before those of the steps
            flags[1] |= flags[0]
            flags = flags[1:]
        if len(flags) != steps:
            raise OtprError(
                f"{place}: {field} has length {len(flags)}, expected {steps}, as many as actions, or one "
                "more for the reset; mend or leave out that episode."
            )
        told[field] = flags
    return agreed(told, place)


def _ended(recorded: Recorded, group: h5py.Group) -> Recorded:
    """The episode up to its end, with the flags that say how it ends."""
    place, steps = recorded.place, len(recorded.actions)
    ends: dict[str, int | None] = {}
    for name in ("terminations", "truncations"):
        flags = as_flags(stored(group, name), f"{place}: {name}")
        if len(flags) != steps:
            raise OtprError(
                f"{place}: {name} have length {len(flags)}, expected {steps}, as many as actions; "
                "mend or leave out that episode."
            )
        ends[name] = end_of(flags, f"{place}: {name}")
    kept = min((end for end in ends.values() if end is not None), default=steps)
    return replace(
        first_steps(recorded, kept),
        terminated=ends["terminations"] == kept,
        truncated=ends["truncations"] == kept,
        after_end=steps - kept,
    )
