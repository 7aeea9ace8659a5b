"""The metadata of data sets written by Minari before 0.5: attributes of the HDF5 file itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
from minari.serialization import serialize_space

from otpr.data.reading import dataset, open_hdf5, reading, subgroup

_SPACES = {"observation_space": "observations", "action_space": "actions"}


def read_attributes(file: Path) -> dict[str, Any]:
    """What `metadata.json` holds in later versions, spaces and all.

    Minari before 0.4.2 stored no spaces, but the environment that has them, which is not made: they are told
    from the arrays of the first episode, without bounds.

    Args:
        file: the set's `main_data.hdf5`.

    Raises:
        OtprError: it cannot be read, or holds no episodes as Minari writes them.
    """
    with open_hdf5(file) as opened, reading(file):
        metadata = {name: _plain(value) for name, value in opened.attrs.items()}
        if "total_episodes" not in metadata:
            raise ValueError("it has no attribute total_episodes, as sets of Minari before 0.5 have")
        for space, field in _SPACES.items():
            if space not in metadata:
                first = subgroup(opened, "episode_0")
                metadata[space] = json.dumps(serialize_space(_space(first, field), to_string=False))
        return metadata


def _plain(value: Any) -> Any:
    """An attribute in JSON's types; one that is no single number or text as text."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool) else str(value)


def _space(group: h5py.Group, name: str) -> gymnasium.Space[Any]:
    """The space of an array's rows, or of a group of such."""
    if isinstance(inner := group.get(name), h5py.Group):
        return gymnasium.spaces.Dict({key: _space(inner, key) for key in map(str, inner)})
    array = dataset(group, name)
    return gymnasium.spaces.Box(-np.inf, np.inf, array.shape[1:], np.result_type(array.dtype, np.float32))
