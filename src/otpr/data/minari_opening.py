"""Opening a Minari data set: the choice of parts and images, and their meaning."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from minari.dataset.minari_storage import METADATA_FILE_NAME

from otpr.data.frames import image_in_file
from otpr.data.meaning import Meaning, chosen, listed
from otpr.data.minari_attributes import read_attributes
from otpr.data.minari_files import DATA_FOLDER, DATA_FORMAT, FILE_NAME, MEND, MinariFile, path_in_file
from otpr.data.minari_spaces import bounds_of, choose, flat_dim, is_flat, leaves_of, stored_space
from otpr.data.reading import CORRUPT, check_readable, missing, reading, reason
from otpr.data.recorded import (
    Source,
    by_kind,
)
from otpr.envs import TaskSpec
from otpr.envs.image_spaces import IMAGE, Image, is_image
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Spec


def _within(part: str, keys: Sequence[str]) -> bool:
    """Whether a part is one of the keys or inside one."""
    return any(part == key or part.startswith(f"{key}/") for key in keys)


def open_minari_file(
    path_or_id: str | os.PathLike[str],
    keys: tuple[str, ...] = (),
    *,
    task: TaskSpec | None = None,
    only_of_others: bool = False,
) -> MinariFile:
    """Open a data set without reading it.

    Args:
        path_or_id: the set's folder, or its id in Minari's own folder.
        keys: parts of dict observations in the order wanted, nested ones as `outer/inner`; a name of a dict
            stands for all in it. None: all that the task is made of, in its order, where the set has all of
            that; else all, in the order of the stored space, which is the alphabet's. An order that was
            accepted for this task when the set was converted stays.
        task: the task that the data are for.
        only_of_others: whether the keys only apply to sets with dict observations that otpr did not write;
            any other set is then read whole.

    Raises:
        OtprError: there is no such set, its metadata are unreadable, an observation is not flat, or a later
            version of otpr wrote it.
    """
    folder = _find(path_or_id)
    metadata_file = folder / METADATA_FILE_NAME
    try:
        if metadata_file.exists():
            metadata = json.loads(metadata_file.read_text())
        else:
            metadata = read_attributes(folder / FILE_NAME)
        if int(metadata["total_episodes"]) < 0:
            raise ValueError("total_episodes is negative")
        if metadata.get("data_format", "hdf5") != "hdf5":
            raise OtprError(
                f"{folder}: is stored as {metadata['data_format']!r}; only Minari's 'hdf5' is read: "
                "write it again with data_format='hdf5'."
            )
        if not (folder / FILE_NAME).is_file():
            raise ValueError(f"No data found: there is no {FILE_NAME}")
        if (given := int(metadata.get("otpr_data_format", 1))) > DATA_FORMAT:
            raise OtprError(
                f"{metadata_file}: has otpr's data format {given}; this version reads formats up to "
                f"{DATA_FORMAT}. Install a newer otpr."
            )
        spec = Spec.from_json(metadata["spec"]) if given >= 2 else None
        own = "otpr_data_format" in metadata or "task_id" in metadata  # format 1 has but the task
        meaning = Meaning.from_metadata(metadata, spec, task)
        observations, actions = (
            stored_space(metadata, name) for name in ("observation_space", "action_space")
        )
    except CORRUPT as error:
        check_readable(metadata_file)
        raise OtprError(
            f"{metadata_file}: not readable as a Minari data set ({reason(error)}); {MEND}."
        ) from error
    leaves = leaves_of(observations)
    pictures = {key: leaves.pop(key) for key in [key for key, leaf in leaves.items() if is_image(leaf)]}
    if only_of_others and (spec is not None or list(leaves) == [""]):
        keys = ()
    images = {
        key: _image(folder, key, leaf, spec)
        for key, leaf in pictures.items()
        if not keys or _within(key, keys)
    }
    told: tuple[str, ...] = ()
    if only_of_others and task is not None:
        images, told = _of_task(images, task, alone=not leaves)
    # a dict may hold both
    inside = [key for key in keys if any(_within(leaf, (key,)) for leaf in pictures)]
    of_vectors, _ = by_kind(
        keys, [key for key in inside if not any(_within(leaf, (key,)) for leaf in leaves)]
    )
    if keys and not of_vectors:
        leaves, meaning = {}, dataclasses.replace(meaning, parts=())
    keys = of_vectors
    whole = "" if list(leaves) == [""] else STATE if own and list(leaves) == [STATE] and pictures else None
    vectors = [key for key, space in leaves.items() if key and is_flat(space)]
    wanted = task.parts if task is not None else ()
    if {"observation-order", "observation-parts"} & {*meaning.accepted} and task is not None:
        wanted = () if metadata.get("task_id") == task.id else wanted
    opened = MinariFile(
        file=folder / FILE_NAME,
        metadata=metadata,
        keys=(),
        action_dim=flat_dim(folder, "actions", actions),
        own=own,
        spec=spec,
        meaning=meaning,
        images=images,
        whole=whole,
        told=told,
    )
    if meaning.parts and whole is not None:  # a vector of an otpr data set with known parts
        if (dim := flat_dim(folder, "observations", leaves[whole])) != sum(n for _, n in meaning.parts):
            raise OtprError(f"{metadata_file}: its parts do not make {dim} numbers; {MEND}.")
        names = chosen(keys, wanted, dict(meaning.parts), [name for name, _ in meaning.parts])
        return _told(_with_columns(opened, names), opened.meaning.parts, keys)
    parts = tuple(
        (key, flat_dim(folder, f"observations {key}".rstrip(), leaves[key], vectors))
        for key in choose(folder, leaves, keys, wanted)
    )
    if own:
        return _robots_own(dataclasses.replace(opened, keys=parts), task)
    bounds = bounds_of(actions)
    named = () if list(leaves) == [""] else parts
    meaning = Meaning(parts=named, facts=_facts(metadata), bounds_stated=bounds is not None)
    found = dataclasses.replace(opened, keys=parts, meaning=meaning, bounds=bounds)
    return _told(found, [(key, 0) for key in leaves], keys)


def _told(opened: MinariFile, stored: Sequence[tuple[str, int]], keys: tuple[str, ...]) -> MinariFile:
    """Add a note if the task selects other parts than are stored, or another order."""
    if keys or [name for name, _ in stored] == [name for name, _ in opened.keys]:
        return opened
    line = "of the observation these parts are read, as the task has them: "
    return dataclasses.replace(opened, told=(*opened.told, line + listed(opened.keys)))


def _image(folder: Path, key: str, space: gymnasium.Space[Any], spec: Spec | None) -> Image:
    """The image that a part of the observation is, if any; otpr's sets state it."""
    assert space.shape is not None and space.dtype is not None, "it is a box"
    if (
        spec is not None
        and (entry := spec.images.get(key or IMAGE)) is not None
        and entry.shape == space.shape
    ):
        return Image(space.shape, "hwc")
    return image_in_file(space.shape, space.dtype, f"{folder}: {path_in_file(key)}")


def _of_task(
    images: dict[str, Image], task: TaskSpec, *, alone: bool
) -> tuple[dict[str, Image], tuple[str, ...]]:
    """The task's images and the omitted ones, if the set has all of them; otherwise all images."""
    given = {key or IMAGE: image.entry for key, image in images.items()}
    wanted = task.spec.images
    left = sorted(set(given) - set(wanted))
    if not left or (alone and not wanted) or any(given.get(name) != entry for name, entry in wanted.items()):
        return images, ()
    kept = {key: image for key, image in images.items() if (key or IMAGE) in wanted}
    return kept, (f"images that the task does not show are left out: {', '.join(left)}",)


def _with_columns(opened: MinariFile, names: list[str]) -> MinariFile:
    """An otpr data set with only the given parts of its vector, in that order."""
    places: dict[str, range] = {}
    start = 0
    for name, length in opened.meaning.parts:
        places[name] = range(start, start + length)
        start += length
    for name in names:
        if name not in places:
            raise missing(str(opened.file.parent), "observation key", name, places)
    keys = tuple((name, len(places[name])) for name in names)
    picked = tuple(column for name in names for column in places[name])
    return dataclasses.replace(
        opened,
        keys=keys,
        meaning=dataclasses.replace(opened.meaning, parts=keys),
        columns=None if keys == opened.meaning.parts else picked,
    )


def _robots_own(opened: MinariFile, task: TaskSpec | None) -> MinariFile:
    """An otpr data set with the task's full vector, restricted to the columns that the setup shows."""
    if task is None or task.columns is None or task.id != opened.metadata.get("task_id"):
        return opened
    if dict(opened.metadata.get("view") or {}).get("observe", "state") != "state" or len(opened.keys) != 1:
        return opened
    ((name, length),) = opened.keys
    if max(task.columns) >= length:
        return opened
    line = f"of the observation {len(task.columns)} numbers are read: what the robot knows of itself"
    return dataclasses.replace(
        opened, keys=((name, len(task.columns)),), columns=task.columns, told=(*opened.told, line)
    )


def _facts(metadata: dict[str, Any]) -> dict[str, str]:
    """The environment's id, if a set that otpr did not write has it."""
    try:
        return {"environment": str(json.loads(metadata["env_spec"])["id"])}
    except (KeyError, TypeError, ValueError):
        return {}


def open_minari(
    path_or_id: str | os.PathLike[str], keys: tuple[str, ...] = (), task: TaskSpec | None = None
) -> Source:
    """Open a Minari data set as a source; see `open_minari_file`."""
    return as_source(open_minari_file(path_or_id, keys, task=task), whole=not keys)


def as_source(opened: MinariFile, *, whole: bool) -> Source:
    """An opened set as a source. With `whole`, observations are read as they were written."""
    folder, own = opened.file.parent, opened.spec
    images = {key or IMAGE: image.entry for key, image in opened.images.items()}
    if own is not None and (not whole or opened.columns is not None):
        vector = {STATE: Entry((opened.observation_dim,))} if opened.keys else {}
        own = dataclasses.replace(own, observation={**vector, **images})
    return Source(
        format="minari",
        path=folder.parent if folder.name == DATA_FOLDER else folder,
        keys=tuple((key or "observations", dim) for key, dim in opened.keys),
        read=opened.read,
        images=images,
        task_id=opened.metadata.get("task_id"),
        own_spec=own,
        own_meaning=opened.meaning if opened.own else None,
        own_view=opened.metadata.get("view") if opened.own else None,
        facts=opened.meaning.facts,
        bounds=opened.bounds,
        notes=opened.told,
    )


def _find(path_or_id: str | os.PathLike[str]) -> Path:
    """The folder with the metadata file."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))
    given = Path(path_or_id)
    for folder in (given / DATA_FOLDER, given, root / given / DATA_FOLDER):
        with reading(folder):
            if (folder / METADATA_FILE_NAME).exists() or (folder / FILE_NAME).exists():
                return folder
    if given.is_file():
        raise OtprError(f"{given} is a file, not a Minari data set; `otpr data convert` makes one of it.")
    if given.exists():
        raise OtprError(f"{given} is not a Minari data set: it holds no {DATA_FOLDER}/{METADATA_FILE_NAME}.")
    raise OtprError(
        f"No data set at {given}, nor one of that id in {root}. "
        "Make one with `otpr collect`, or fetch one with `minari download ID`."
    )
