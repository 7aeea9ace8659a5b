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
    """The metadata in the form of `metadata.json` of later versions, including spaces.

    Minari before 0.4.2 stored the environment instead of its spaces. The environment is not created; the
    spaces are derived from the arrays of the first episode, without bounds.

    Args:
        file: the set's `main_data.hdf5`.

    Raises:
        OtprError: the file cannot be read, or its episodes are not in Minari's form.
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
    """An attribute in JSON's types; anything but a single number or string becomes a string."""
    if isinstance(value, np.generic):
        value = value.item()
    return value if isinstance(value, str | int | float | bool) else str(value)


def _space(group: h5py.Group, name: str) -> gymnasium.Space[Any]:
    """The space of an array's rows, or of a group of arrays."""
    if isinstance(inner := group.get(name), h5py.Group):
        return gymnasium.spaces.Dict({key: _space(inner, key) for key in map(str, inner)})
    array = dataset(group, name)
    return gymnasium.spaces.Box(-np.inf, np.inf, array.shape[1:], np.result_type(array.dtype, np.float32))
