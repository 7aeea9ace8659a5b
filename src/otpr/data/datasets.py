"""Demonstrations on disk, in Minari's format (HDF5): readable by Minari itself and by what is built on it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage
from numpy.typing import NDArray

from otpr.data.actions import ActionRangeError
from otpr.data.convert.rules import BadEpisodeError, Rules, SuccessUnknownError, follow
from otpr.data.convert.tally import Tally
from otpr.data.episodes import Episode, seen_spec, validate_episode, validate_episodes
from otpr.data.experience_files import is_experience, read_about, read_experience
from otpr.data.meaning import Meaning
from otpr.data.minari_files import (
    DATA_FOLDER,
    DATA_FORMAT,
    FILE_NAME,
    MinariFile,
    as_source,
    open_minari_file,
)
from otpr.data.reading import check_readable, subgroup
from otpr.data.recorded import Recorded, readable
from otpr.data.spool import Spool
from otpr.data.views import seen_as
from otpr.envs import Setup, TaskSpec
from otpr.envs.image_spaces import IMAGE
from otpr.envs.task_env import observation_space
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Spec, vector_type
from otpr.storage import writing


@dataclass(frozen=True)
class Demonstrations:
    """A data set as read.

    Attributes:
        episodes: at least one, valid in the sense of `validate_episodes`.
        spec: what they exchange, as it was written; of a set that otpr did not write, or in data format 1,
            what the arrays tell, and the bounds that the set states for its actions; no control rate.
        meaning: what else is known of their numbers.
        task_id: the task they were collected on; None for a data set that otpr did not write.
        view: what was seen of it, as `Setup.view` has it; None where the set does not say.
        metadata: Minari's metadata of the whole set; one of ours has `task_id`, `expert`, `noise`, `seed`,
            `spec`, `meaning` and `otpr_data_format`.
        told: what was done so that they fit the task, a sentence each.
    """

    episodes: list[Episode]
    spec: Spec
    meaning: Meaning
    task_id: str | None
    view: dict[str, Any] | None
    metadata: dict[str, Any]
    told: tuple[str, ...] = ()


def write_dataset(
    episodes: Iterable[Episode],
    path: str | os.PathLike[str],
    *,
    spec: Spec | None = None,
    meaning: Meaning | None = None,
    task_id: str | None,
    view: Mapping[str, Any] | None = None,
    expert: str,
    noise: float | None,
    seed: int | None,
    overwrite: bool = False,
    description: str | None = None,
    more: dict[str, Any] | None = None,
) -> None:
    """Write episodes as a Minari data set, whole or not at all.

    The folder can be read with `read_dataset(path)` and `minari.MinariDataset(path / "data")`. Its Minari
    id is `TASK-expert-v0`: put at that place in `MINARI_DATASETS_PATH`, Minari also lists it and loads it by
    id. Each step carries `infos["success"]`. One episode at a time is in memory, and checked as it passes.
    Observations of one entry are stored as an array, others as a dictionary.

    Args:
        episodes: at least one, all of the same spec; an iterator is read once.
        path: the folder to make; its parents are made where missing.
        spec: what they exchange; None: what the first one's arrays tell (`seen_spec`).
        meaning: what else is known of their numbers; None: nothing, but that a given spec states the bounds.
        task_id: the task they were collected on; None where unknown.
        view: what was seen of it, as `Setup.view` has it; None where unknown.
        expert: who acted, e.g. `"scripted expert"`.
        noise: standard deviation of the action noise they were collected with; None where unknown.
        seed: the run seed they were collected with; None where unknown.
        overwrite: replace a data set that is already there. Anything else that is there stays an error.
        description: what Minari shows of the set; None: what `otpr collect` makes.
        more: further metadata, in JSON's types.

    Raises:
        OtprError: the episodes are not valid or do not fit the spec, an episode lacks images of some steps,
            or something is at `path` already. Nothing is written then.
    """
    path = Path(path)
    check_free(path, overwrite)
    source = f"episodes for {path}"
    if isinstance(episodes, Sequence):  # cheap to refuse as a whole, before anything is written
        validate_episodes(episodes, source=source, spec=spec)
    remaining = iter(episodes)
    first = next(remaining, None)
    if first is None:
        raise OtprError(f"{source}: holds no episodes; at least one is needed.")
    validate_episode(first, where=f"{source}: episode 0", spec=spec)
    meaning = meaning or Meaning(bounds_stated=spec is not None)
    spec = (spec or seen_spec(first)).of_task()
    with (
        writing(path),
        _parents_of(path),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary,
    ):
        staging = Path(temporary).resolve() / "new"  # absolute: Minari joins a relative path to itself
        staging.mkdir()
        storage = MinariStorage.new(
            staging / DATA_FOLDER,
            observation_space=observation_space(spec),
            action_space=gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), np.float32),
            data_format="hdf5",
            jpeg_encoding=False,  # a policy should see the very frames that it will be shown
        )
        storage.update_metadata(
            {
                # what Minari takes in an id: a user's task may hold a colon, a folder a space
                "dataset_id": re.sub(r"[^\w./-]", "-", f"{task_id or path.name}-expert-v0", flags=re.ASCII),
                "minari_version": minari.__version__,
                "algorithm_name": expert,
                "description": description
                or f"Successful episodes of {expert} on {task_id or 'a task without a name'}"
                + ("." if noise is None else f" with action noise {noise:g}."),
                "otpr_data_format": DATA_FORMAT,
                "spec": spec.to_json(),
                "meaning": meaning.to_json(),
                "task_id": task_id,
                "view": view,
                "expert": expert,
                "noise": noise,
                "seed": seed,
                **(more or {}),
            }
        )
        file = staging / DATA_FOLDER / FILE_NAME
        storage.update_episodes(_buffers(itertools.chain([first], remaining), spec, source, file))
        # A folder that is not empty cannot be replaced by a rename: the old one is first moved into the
        # temporary folder, and vanishes with it.
        if path.exists():
            path.rename(Path(temporary) / "old")
        staging.rename(path)


@contextlib.contextmanager
def _parents_of(path: Path) -> Generator[None]:
    """Make the folders above `path`; where the block fails, remove those that were not there before."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:  # the innermost first
            with contextlib.suppress(OSError):  # somebody else has put something there
                parent.rmdir()
        raise


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a place that a data set may not be written to; see `write_dataset`."""
    if not path.exists():
        return
    if not path.is_dir():
        raise OtprError(f"{path} is a file; give the name of a folder for the data set.")
    if not any(path.iterdir()):
        return
    if not (path / DATA_FOLDER / METADATA_FILE_NAME).exists():
        raise OtprError(f"{path} exists and is not a data set; give another folder.")
    if not overwrite:
        raise OtprError(
            f"{path} already holds a data set; give another folder, or --overwrite to replace it."
        )


def _buffers(episodes: Iterable[Episode], spec: Spec, source: str, file: Path) -> Iterator[EpisodeBuffer]:
    """Episodes in Minari's form, each refused where it is not valid or does not fit the spec.

    Minari writes an episode when it is given it, and its images are added to the file then.
    """
    for index, episode in enumerate(episodes):
        validate_episode(episode, where=f"{source}: episode {index}", spec=spec)
        if episode.looked is not None:
            raise OtprError(
                f"{source}: episode {index} has images of {len(episode.looked)} of its {len(episode) + 1} "
                "observations, those of the agent's decisions; a data set of Minari's has all. The "
                "`experience` of a run can be given as --data as it is."
            )
        yield _to_buffer(episode, spec)
        if spec.images:
            # Minari would cut frames into small tiles, and they could not be mapped as they lie
            with h5py.File(file, "r+") as opened:  # which Minari has open too, in this process
                group = subgroup(opened, f"episode_{index}/observations")
                for name in spec.images:
                    group.create_dataset(name, data=episode.observations[name])


def _to_buffer(episode: Episode, spec: Spec) -> EpisodeBuffer:
    def last_step(flag: bool) -> list[bool]:
        return [False] * (len(episode) - 1) + [flag]

    observations = {name: episode.observations[name] for name in spec.vectors}
    return EpisodeBuffer(
        seed=episode.seed,
        # arrays are stored as they are
        observations=observations[spec.only_vector] if spec.only_vector else observations,  # pyright: ignore[reportArgumentType]
        actions=episode.actions,  # pyright: ignore[reportArgumentType]
        rewards=episode.rewards,  # pyright: ignore[reportArgumentType]
        terminations=last_step(episode.terminated),
        truncations=last_step(episode.truncated),
        # As Minari's own collector has it: one entry for the reset, then one a step.
        infos={"success": np.array([False, *last_step(episode.success)])},
    )


def read_dataset(
    path_or_id: str | os.PathLike[str], keys: tuple[str, ...] | None = None, task: TaskSpec | None = None
) -> Demonstrations:
    """Read a Minari data set with flat actions, ours or one of `minari download`, or a run's `experience`.

    A set of ours has the observation entries that it was written with. In any other, dict observations become
    one vector, "state", their parts side by side, in float64 where a number of them would be rounded by
    float32; its actions are mapped from the bounds of its action space to [-1, 1]. Success, ends and rewards
    are by the same rules as in `otpr data convert` without options (docs/data.md).

    Args:
        path_or_id: the folder of a data set, or the id of one in Minari's own folder (`MINARI_DATASETS_PATH`,
            else `~/.minari/datasets`).
        keys: parts of dict observations in the order wanted, nested ones as `outer/inner`; the name of a dict
            stands for all in it. None: those that the task is made of, in its order, where the set has all of
            them; else all of them, in the order of the stored space (alphabetical). They do not matter in a
            set of ours, nor where observations are stored as one vector.
        task: the task that the data are for; episodes of a set of others end at their first success where it
            does.

    Raises:
        OtprError: there is none of that name; a file in it is missing, truncated or corrupt (it is named);
            its observations or actions are not flat; an action is outside the bounds that the set states; its
            episodes are not valid (`validate_episodes`); or nothing in it tells success from failure.
    """
    check_readable(Path(path_or_id))
    if is_experience(path_or_id):
        return _read_experience(Path(path_or_id))
    opened = open_minari_file(path_or_id, tuple(keys or ()), task=task, only_of_others=True)
    if opened.own:
        recorded = list(readable(opened.read()))
        spec = _spec(opened, vector_type(*(one.observations.dtype for one in recorded)))
        episodes = [_to_episode(one, spec) for one in recorded]
    else:
        episodes = _by_rules(opened, path_or_id, task)
        first = episodes[0].observations.get(STATE)
        spec = _spec(opened, "float32" if first is None else str(first.dtype))
    validate_episodes(episodes, source=str(opened.file), spec=spec)
    return Demonstrations(
        episodes=episodes,
        spec=spec,
        meaning=opened.meaning,
        task_id=opened.metadata.get("task_id"),
        view=opened.metadata.get("view"),
        metadata=opened.metadata,
        told=opened.told,
    )


def setup_of(path_or_id: str | os.PathLike[str], task: str | None = None) -> Setup | None:
    """The task that a data set names, seen as its episodes show it, without reading them.

    Where the set does not say what it shows, as those of others do not, its parts and images tell it.

    Args:
        path_or_id: see `read_dataset`.
        task: a task's name in place of the one that the set names.

    Returns:
        None where nothing names a task.

    Raises:
        OtprError: as in `read_dataset`.
    """
    opened: MinariFile | None = None
    if is_experience(path_or_id):
        about = read_about(Path(path_or_id))
        named, view = about.task, about.view
    else:
        opened = open_minari_file(path_or_id)
        named, view = opened.metadata.get("task_id"), opened.metadata.get("view")
    name = task or named
    if name is None:
        return None
    if opened is not None and view is None and opened.images:
        return seen_as(
            str(name), opened.keys, {key or IMAGE: one.entry for key, one in opened.images.items()}
        )
    try:
        return Setup(str(name)).viewing(view)
    except ValueError as error:
        raise OtprError(f"{path_or_id}: {error}. Collect or convert it again.") from error


def _spec(opened: MinariFile, dtype: str) -> Spec:
    """What the episodes of a set exchange when they are read; `dtype` counts where it has no spec."""
    images = {key or IMAGE: image.entry for key, image in opened.images.items()}
    if opened.spec is None:
        bounds = opened.bounds or ((-1.0,) * opened.action_dim, (1.0,) * opened.action_dim)
        vector = {STATE: Entry((opened.observation_dim,), dtype)} if opened.keys else {}
        return Spec({**vector, **images}, *bounds)
    vectors = opened.spec.vectors
    if opened.columns is not None:  # a set with columns has one vector
        vectors = {name: replace(entry, shape=(opened.observation_dim,)) for name, entry in vectors.items()}
    return replace(opened.spec, observation={**vectors, **images})


def _read_experience(folder: Path) -> Demonstrations:
    about, spool = read_about(folder), Spool()
    episodes = [_spooled(one, about.spec, spool, folder) for one in read_experience(folder)]
    validate_episodes(episodes, source=str(folder), spec=about.spec)
    metadata = {"written_by": about.written_by}
    return Demonstrations(
        episodes=episodes,
        spec=about.spec,
        meaning=Meaning(),
        task_id=about.task,
        view=about.view,
        metadata=metadata,
    )


def _spooled(episode: Episode, spec: Spec, spool: Spool, folder: Path) -> Episode:
    """The episode with its images in a file: those of a whole run may be more than memory holds."""
    images = {
        name: spool.keep([array], array.shape, str(folder))
        for name, array in episode.observations.items()
        if name in spec.images
    }
    return replace(episode, observations={**episode.observations, **images})


def _entries(recorded: Recorded, spec: Spec) -> dict[str, NDArray[Any]]:
    """The observations of an episode, whose vectors are read side by side, by entry name."""
    ends = np.cumsum([entry.shape[0] for entry in spec.vectors.values()])
    parts = np.split(recorded.observations, ends[:-1], axis=1) if spec.vectors else []
    vectors = {
        name: np.ascontiguousarray(part, entry.dtype)
        for (name, entry), part in zip(spec.vectors.items(), parts, strict=True)
    }
    return {**vectors, **recorded.images}


def _by_rules(opened: MinariFile, name: str | os.PathLike[str], task: TaskSpec | None) -> list[Episode]:
    """The episodes of a set that otpr did not write."""
    source = as_source(opened, whole=True)
    try:
        stream = follow(source, Rules(), Tally(), task=task.id if task else None, bounds=opened.bounds)
        return list(stream)
    except ActionRangeError as error:
        raise OtprError(
            f"{error} The set states these bounds for its actions. Where the environment clips what is "
            f"outside, `otpr data convert {name} --clip-actions` does so too."
        ) from error
    except SuccessUnknownError as error:
        raise OtprError(
            f"{error} Bring the set in with `otpr data convert`, whose options say what such data mean."
        ) from error
    except BadEpisodeError as error:
        raise OtprError(f"{error} `otpr data convert --skip-bad` leaves out such episodes.") from error


def _to_episode(recorded: Recorded, spec: Spec) -> Episode:
    assert recorded.rewards is not None  # Minari's format has them
    terminated = bool(recorded.terminated)
    success = recorded.success
    assert success is not None  # otpr records it
    return Episode(
        observations=_entries(recorded, spec),
        actions=np.asarray(recorded.actions, np.float32),
        rewards=np.asarray(recorded.rewards, np.float32),
        terminated=terminated,
        truncated=bool(recorded.truncated),
        success=bool(success.any()),
        seed=recorded.seed,
    )
