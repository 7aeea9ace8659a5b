"""Minari's data sets (HDF5 storage, Minari 0.3 to 0.5): one episode, and only the wanted fields, at a time.

`data/main_data.hdf5` holds `episode_i/{observations, actions, rewards, terminations, truncations, infos}`;
observations of a Dict space are groups within groups; `data/metadata.json` has the spaces, before Minari 0.5
the attributes of `main_data.hdf5` (`otpr.data.minari_attributes`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import Bounds
from otpr.data.frames import stored_frames
from otpr.data.meaning import Meaning
from otpr.data.minari_ends import ended, success_of
from otpr.data.reading import check_links, reading, stored, subgroup
from otpr.data.recorded import (
    Recorded,
    attempt,
    by_step,
    check_lengths,
    columns,
    join,
)
from otpr.data.spool import Spool
from otpr.envs.image_spaces import IMAGE, Image
from otpr.errors import OtprError
from otpr.spec import Parts, Spec

DATA_FORMAT = 3
"""Version of otpr's part of a set's metadata. Format 2 lacks the meaning of numbers (`otpr.data.meaning`);
format 1, which has no version number, also lacks the spec."""
DATA_FOLDER = "data"
"""The folder inside a data set's folder where Minari expects its files."""
FILE_NAME = "main_data.hdf5"
MEND = "collect or download it again"


@dataclass(frozen=True)
class MinariFile:
    """An opened Minari data set.

    Attributes:
        file: the HDF5 file with the numbers.
        metadata: what `metadata.json` holds.
        keys: the parts of the observation to read, with their dimensions; one part named "" if the parts are
            unknown.
        action_dim: length of the action.
        own: whether otpr wrote the set.
        spec: the set's spec; None if otpr did not write it, or in data format 1.
        meaning: the known meaning of its numbers.
        bounds: the bounds of the stored actions; None if the set does not state them, and for otpr's sets,
            whose actions are in [-1, 1].
        columns: for otpr's sets with one vector, the numbers to read, in order; None: all.
        told: choices and reorderings that fit the set to the task, one sentence each.
        images: the images to read by their path in the file; "" if the observation is a single image.
        whole: path of the vector in the file, if it is stored as one; "" if it is the whole observation.
    """

    file: Path
    metadata: dict[str, Any]
    keys: Parts
    action_dim: int
    own: bool
    spec: Spec | None
    meaning: Meaning
    bounds: Bounds | None = None
    columns: tuple[int, ...] | None = None
    told: tuple[str, ...] = ()
    images: Mapping[str, Image] = dataclasses.field(default_factory=dict[str, Image])
    whole: str | None = None

    @property
    def observation_dim(self) -> int:
        """The length of the observation's vector, the sum of all parts."""
        return sum(dim for _, dim in self.keys)

    def read(self, *, images: bool = True) -> Iterator[Recorded | OtprError]:
        """Yield the stored episodes in order, or the error for an unreadable one.

        Args:
            images: whether images are read too.

        Raises:
            OtprError: the file is truncated or corrupt.
        """
        with reading(self.file, MEND):
            file = h5py.File(self.file, "r")
        spool = Spool() if images else None
        with file:
            check_links(self.file, file)
            count = int(self.metadata["total_episodes"])
            if count > len(file):
                raise OtprError(
                    f"{self.file}: truncated or corrupt (its metadata claim {count:,} episodes, and it holds "
                    f"{len(file):,}); {MEND}."
                )
            for index in range(count):
                yield attempt(functools.partial(self._read, file, index, spool))

    def _read(self, file: h5py.File, index: int, spool: Spool | None) -> Recorded:
        with reading(self.file, MEND):
            return self._recorded(subgroup(file, f"episode_{index}"), f"{self.file}: episode {index}", spool)

    def _recorded(self, group: h5py.Group, place: str, spool: Spool | None) -> Recorded:
        actions = columns(stored(group, "actions"), f"{place}: actions")
        seed = group.attrs.get("seed")  # older versions of Minari stored the text "None"
        recorded = Recorded(
            place=place,
            observations=self._observations(group, place, len(actions) + 1),
            images={
                key or IMAGE: stored_frames(
                    group, path_in_file(key), image, f"{place}: {path_in_file(key)}", spool
                )
                for key, image in self.images.items()
                if spool is not None
            },
            actions=actions,
            rewards=by_step(stored(group, "rewards"), f"{place}: rewards"),
            seed=int(seed) if isinstance(seed, np.integer) else None,
        )
        check_lengths(recorded, last_observation=True)
        success, field = success_of(group, place, len(actions))
        recorded = dataclasses.replace(recorded, success=success, success_field=field)
        return ended(recorded, group)

    def _observations(self, group: h5py.Group, place: str, rows: int) -> NDArray[Any]:
        """The vector, (T + 1, observation_dim)."""
        if not self.keys:
            return np.zeros((rows, 0), np.float32)
        names = [key for key, _ in self.keys]
        if self.whole is not None:
            path = path_in_file(self.whole)
            whole = columns(stored(group, path), f"{place}: {path}")
            return whole if self.columns is None else whole[:, list(self.columns)]
        parts = [
            columns(stored(group, f"observations/{key}"), f"{place}: observations {key}") for key in names
        ]
        return join(parts, names, place)


def path_in_file(key: str) -> str:
    """The path of a part of the observation in an episode's group."""
    return f"observations/{key}".rstrip("/")
