"""Reading demonstrations: Minari data sets of otpr or others, and the experience of runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import ActionRangeError
from otpr.data.convert.rules import BadEpisodeError, Rules, SuccessUnknownError, follow
from otpr.data.convert.tally import Tally
from otpr.data.episodes import Episode, validate_episodes
from otpr.data.experience_files import is_experience, read_about, read_experience
from otpr.data.meaning import Meaning
from otpr.data.minari_files import MinariFile
from otpr.data.minari_opening import as_source, open_minari_file
from otpr.data.reading import check_readable
from otpr.data.recorded import Recorded, readable
from otpr.data.spool import Spool
from otpr.data.views import seen_as
from otpr.envs import Setup, TaskSpec
from otpr.envs.image_spaces import IMAGE
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Spec, vector_type


@dataclass(frozen=True)
class Demonstrations:
    """A data set that was read.

    Attributes:
        episodes: at least one, valid in the sense of `validate_episodes`.
        spec: the stored spec. For a set that otpr did not write, or in data format 1: derived from the arrays
            and the set's action bounds, without control rate.
        meaning: further meaning of the numbers.
        task_id: the episodes' task; None for a data set that otpr did not write.
        view: the view of the task, from `Setup.view`; None if the set does not state it.
        metadata: Minari's metadata of the whole set; otpr's sets have `task_id`, `expert`, `noise`, `seed`,
            `spec`, `meaning` and `otpr_data_format`.
        told: the adaptations to the task, one sentence each.
    """

    episodes: list[Episode]
    spec: Spec
    meaning: Meaning
    task_id: str | None
    view: dict[str, Any] | None
    metadata: dict[str, Any]
    told: tuple[str, ...] = ()


def read_dataset(
    path_or_id: str | os.PathLike[str], keys: tuple[str, ...] | None = None, task: TaskSpec | None = None
) -> Demonstrations:
    """Read a Minari data set with flat actions (otpr's or from `minari download`), or a run's `experience`.

    An otpr set keeps its observation entries. In any other set, dict observations are concatenated to one
    vector, "state", in float64 if float32 would round a number, and actions are mapped from the bounds of the
    action space to [-1, 1]. Success, ends and rewards follow the rules of `otpr data convert` without options
    (docs/data.md).

    Args:
        path_or_id: the folder of a data set, or the id of one in Minari's own folder (`MINARI_DATASETS_PATH`,
            else `~/.minari/datasets`).
        keys: parts of dict observations in the order wanted, nested ones as `outer/inner`; the name of a dict
            stands for all in it. None: those that the task is made of, in its order, where the set has all of
            them; else all of them, in the order of the stored space (alphabetical). They do not matter in a
            set of ours, nor where observations are stored as one vector.
        task: the task that the data are for. If it ends at success, so do the episodes of sets that otpr did
            not write.

    Raises:
        OtprError: there is no such set; a file in it is missing, truncated or corrupt; observations or
            actions are not flat; an action is outside the set's bounds; episodes are not valid
            (`validate_episodes`); or the set does not distinguish success from failure.
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
    """The task that a data set names, with the view of its episodes, which are not read.

    If the set does not state its view, the view is derived from its parts and images.

    Args:
        path_or_id: see `read_dataset`.
        task: the name of a task that replaces the one named by the set.

    Returns:
        The setup; None if no task is named.

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
    """The spec of a set's episodes as read; `dtype` is used if the set has no spec."""
    images = {key or IMAGE: image.entry for key, image in opened.images.items()}
    if opened.spec is None:
        bounds = opened.bounds or ((-1.0,) * opened.action_dim, (1.0,) * opened.action_dim)
        vector = {STATE: Entry((opened.observation_dim,), dtype)} if opened.keys else {}
        return Spec({**vector, **images}, *bounds)
    vectors = opened.spec.vectors
    if opened.columns is not None:  # a set with columns has a single vector
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
    """The episode with its images in a file, because those of a whole run may exceed memory."""
    images = {
        name: spool.keep([array], array.shape, str(folder))
        for name, array in episode.observations.items()
        if name in spec.images
    }
    return replace(episode, observations={**episode.observations, **images})


def _entries(recorded: Recorded, spec: Spec) -> dict[str, NDArray[Any]]:
    """The observations of an episode by entry name, from its concatenated vectors."""
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
