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
"""Of what otpr adds to a set's metadata; format 2 did not say what the numbers mean (`otpr.data.meaning`);
format 1, without a number there, had no spec."""
DATA_FOLDER = "data"
"""Minari looks for its files in this folder inside the one a data set is named by."""
FILE_NAME = "main_data.hdf5"
MEND = "collect or download it again"


@dataclass(frozen=True)
class MinariFile:
    """A Minari data set, opened but not read.

    Attributes:
        file: the HDF5 file with the numbers.
        metadata: what `metadata.json` holds.
        keys: the parts of the observation that are read, with their dimensions; one part named "" where
            nothing is known of what it is made of.
        action_dim: length of the action.
        own: whether otpr wrote it.
        spec: what the set was written with; None where otpr did not write it, or in data format 1.
        meaning: what is known of its numbers.
        bounds: the bounds of the stored actions; None where the set does not state them, and in a set of
            ours, whose actions are in [-1, 1].
        columns: which numbers of a set of ours with one vector are read, in their order; None: all.
        told: what was chosen or reordered so that the set fits the task, a sentence each.
        images: the images of the observation that are read, by their path in the file; "" where the
            observation is nothing but one.
        whole: path of the vector in the file, where it is stored as one; "" where the observation is nothing
            else.
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
        """The length of the observation, all parts together."""
        return sum(dim for _, dim in self.keys)

    def read(self, *, images: bool = True) -> Iterator[Recorded | OtprError]:
        """The episodes in order, as they are stored, or the error that says why one cannot be read.

        Args:
            images: whether they are read too.

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
    """Where a part of the observation lies in an episode's group."""
    return f"observations/{key}".rstrip("/")
