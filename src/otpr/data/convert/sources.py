"""Detection of a data set's format, and conversion to otpr's format."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import h5py
import numpy as np

from otpr.data.actions import ActionRangeError, Bounds, shown
from otpr.data.agreement import Side, agree, assumed, check_names, needless, of_task
from otpr.data.convert.arrays import open_arrays
from otpr.data.convert.experience import open_experience
from otpr.data.convert.lerobot import is_lerobot, open_lerobot
from otpr.data.convert.robomimic import is_robomimic, open_robomimic
from otpr.data.convert.rules import BadEpisodeError, Rules, SuccessUnknownError, follow
from otpr.data.convert.tally import Tally
from otpr.data.dataset_writer import check_free, write_dataset
from otpr.data.episodes import Episode
from otpr.data.evidence import Evidence, survey
from otpr.data.experience_files import is_experience
from otpr.data.minari_opening import open_minari
from otpr.data.overlap import Sample
from otpr.data.reading import check_readable, open_hdf5
from otpr.data.recorded import Source
from otpr.data.views import as_shown, cameras_known, hint
from otpr.envs import TaskSpec, list_tasks
from otpr.envs.registry import known_task
from otpr.envs.user_env import is_user_task
from otpr.errors import OtprError, unknown_name
from otpr.spec import STATE, Entry, Spec

# Common names for success after each step.
_RECORDS = {
    "npz": "an array `success`",
    "ogbench": "an array `success`",
    "minari": "`infos/success`",
    "lerobot": "a feature `next.success`",
}
Format = Literal["auto", "robomimic", "lerobot", "npz", "ogbench", "minari", "otpr"]


def open_source(
    path_or_id: str | Path,
    format: Format = "auto",
    *,
    keys: tuple[str, ...] = (),
    filter_key: str | None = None,
    task: str | None = None,
    task_index: tuple[int, ...] = (),
) -> Source:
    """Open a data set of any format that otpr reads.

    Args:
        path_or_id: a file or a folder; or the id of a Minari data set.
        format: its format; `auto`: what the file looks like. `npz` is any dictionary of arrays in a row, in
            an .npz or an HDF5 file.
        keys: the parts of the observation, images among them, the vectors in the order wanted; none: all
            images, and of the vectors those of the task, in its order, where the set has all of them, else
            the format's own choice.
        filter_key: a named subset of demonstrations; only robomimic's files have them.
        task: the otpr task that the data are for; None: the one that the set names, if any.
        task_index: numbers of the set's own tasks to read; only LeRobot's sets have them.

    Raises:
        OtprError: the file does not exist, has no supported format or lacks what was requested; or the task
            is unknown.
    """
    if task is not None:
        return _open(path_or_id, format, keys, filter_key, named(task), task_index)
    found = _open(path_or_id, format, keys, filter_key, None, task_index)
    own = _own(found)
    return found if own is None else _open(path_or_id, format, keys, filter_key, own, task_index)


def named(task: str) -> TaskSpec | None:
    """The spec of a task that the user names. Its simulator need not be installed.

    Returns:
        The spec; None for a user's environment that cannot be created here.

    Raises:
        OtprError: there is no such task.
    """
    try:
        return known_task(task)
    except OtprError:
        if is_user_task(task):
            return None
        raise


def _own(source: Source) -> TaskSpec | None:
    """The task that a set names, if it is a named task; reading a set never runs code that it names."""
    if source.task_id is None or is_user_task(source.task_id):
        return None
    return {task.id: task for task in list_tasks()}.get(source.task_id)


def _open(
    path_or_id: str | Path,
    format: Format,
    keys: tuple[str, ...],
    filter_key: str | None,
    task: TaskSpec | None,
    task_index: tuple[int, ...],
) -> Source:
    if format not in get_args(Format):
        raise unknown_name("format", format, get_args(Format))
    path, asked = Path(path_or_id), format
    if format == "auto":
        format = _recognised(path)
    if filter_key is not None and format != "robomimic":
        raise OtprError(
            f"{path}: only robomimic's files have filter keys, this is {format}; leave out --filter-key."
        )
    if task_index and format != "lerobot":
        raise OtprError(
            f"{path}: only LeRobot's sets number their tasks, this is {format}; leave out --task-index."
        )
    if format == "minari":
        return open_minari(path_or_id, keys, task)
    if not path.exists():
        raise OtprError(f"There is no {path}; give the file or the folder of a data set.")
    if format == "lerobot":
        if path.is_file():
            raise OtprError(
                f"{path} is a file; a LeRobotDataset is a folder: give the one that holds meta/info.json."
            )
        return open_lerobot(path, keys, task, task_index)
    if format == "otpr":
        return open_experience(path, keys)
    if path.is_dir():
        raise OtprError(f"{path} is a folder; the format {format} is a file: give the file itself.")
    if format == "robomimic":
        return open_robomimic(path, keys, filter_key, task)
    return open_arrays(path, keys, ogbench={"ogbench": True, "npz": False}.get(asked), task=task)


def _recognised(path: Path) -> Format:
    """The format according to the content of the file or folder, regardless of its name."""
    check_readable(path)
    if is_experience(path):
        return "otpr"
    if path.is_dir():
        return "lerobot" if is_lerobot(path) else "minari"
    if not path.exists():
        return "minari"  # an id of Minari's, or nothing, which Minari's reader says
    if zipfile.is_zipfile(path):
        return "npz"
    if h5py.is_hdf5(path):
        with open_hdf5(path) as file:
            return "robomimic" if is_robomimic(file) else "npz"
    raise OtprError(
        f"{path} is neither an HDF5 nor an NPZ file, whatever its name; otpr reads robomimic's HDF5, "
        "LeRobot's and Minari's folders, and NPZ or HDF5 files of arrays. Is it whole?"
    )


def convert(
    source: Source,
    out: str | Path,
    *,
    task: str | None = None,
    rules: Rules | None = None,
    accept: tuple[str, ...] = (),
    check: bool = True,
    overwrite: bool = False,
) -> Tally:
    """Convert a data set to otpr's format, one episode at a time. The result is written atomically.

    Args:
        source: an open data set.
        out: the folder to create.
        task: the otpr task it belongs to, as it was given to `open_source`; None: the one the file names, if
            any.
        rules: the user's decisions on success, rewards, the range of actions and bad episodes.
        accept: names of accepted differences from the task; see `otpr.data.agreement`.
        check: whether to compare the episodes with resets and replays of the task (`otpr.data.overlap`).
        overwrite: whether to replace an existing data set at `out`.

    Returns:
        A tally of the changes to the episodes.

    Raises:
        OtprError: the set does not agree with the task, or an episode cannot be trained on; the message names
            the differences, or the file and the place.
    """
    out, rules = Path(out), rules or Rules()
    check_free(out, overwrite)
    check_names(accept)
    if (
        source.path.exists()
        and out.exists()
        and (out.samefile(source.path) or out.samefile(source.path.parent))
    ):
        raise OtprError(f"{out} is the data set that is read; give another folder.")
    if source.undecided:
        listed = "".join(f"\n  {line}" for line in source.undecided)
        raise OtprError(
            f"{source.path}: holds episodes of several tasks. Choose those that belong to yours with "
            f"--task-index N [N ...]:{listed}"
        )
    tally = Tally()
    evidence = survey(source)
    action_dim = evidence.dims[1]
    if not action_dim:
        next(source.episodes(), None)  # raises an error of the first episode, if there is one
        raise OtprError(f"{source.path}: holds no episodes; at least one is needed.")
    stored, given = _stored_bounds(source), rules.bounds(action_dim)
    mapped, told = _mapped(source, stored, given, accept)
    side = _side(source, evidence, given or stored, _range(source))
    known = named(task) if task is not None else _own(source)
    if known is not None:
        known = as_shown(known, source)
        theirs = dataclasses.replace(
            of_task(known), images=tuple(cameras_known(known)) if source.images else ()
        )
        told += assumed(side, theirs) + agree(side, theirs, accept, hint(known))
    elif task is not None:
        told.append(f"nothing was compared with the task {task}: its environment cannot be made here")
    tally.told += told + needless(accept, told)
    sample = Sample()
    write_dataset(
        _episodes(source, rules, tally, evidence, mapped, task, known, sample),
        out,
        spec=side.spec,
        meaning=dataclasses.replace(side.meaning, accepted=accept),
        task_id=task or source.task_id,
        view=known.setup.view() if known is not None else source.own_view,
        expert=f"{source.format} data",
        noise=None,
        seed=None,
        overwrite=overwrite,
        description=f"Converted from {source.format} data, {source.path.name}.",
    )
    if known is not None and check:
        tally.warnings += sample.compared(known, side.meaning.parts)
    return tally


def _stored_bounds(source: Source) -> Bounds | None:
    """The action bounds that the set states; those of otpr's sets are in the spec."""
    if source.own_spec is None:
        return source.bounds
    own = source.own_spec
    return (own.action_low, own.action_high) if source.meaning.bounds_stated else None


def _mapped(
    source: Source, stored: Bounds | None, given: Bounds | None, accept: tuple[str, ...]
) -> tuple[Bounds | None, list[str]]:
    """The bounds that become [-1, 1], or None if actions are there already; and the accepted differences.

    Raises:
        OtprError: the user gives bounds that differ from those of the set.
    """
    told: list[str] = []
    if stored is not None and given is not None:
        told = agree(
            Side(str(source.path), Spec({STATE: Entry((1,))}, *stored)),
            Side("--action-low with --action-high", Spec({STATE: Entry((1,))}, *given)),
            accept,
            "Leave out --action-low and --action-high: the bounds that the set states are mapped to [-1, 1].",
        )
    ours = source.own_spec is not None and stored is not None  # mapped already
    return (None if ours else given or stored), told


def _side(
    source: Source, evidence: Evidence, bounds: Bounds | None, action_range: Callable[[], Bounds]
) -> Side:
    """The self-description of the converted set: a vector, images, and the user's or the set's bounds."""
    own = source.spec(evidence.dims[1])
    vector = {STATE: Entry((source.observation_dim,), evidence.dtype)} if source.observation_dim else {}
    spec = Spec(
        {**vector, **source.images},
        *(bounds or (own.action_low, own.action_high)),
        control_rate=own.control_rate,
    )
    meaning = dataclasses.replace(source.meaning, bounds_stated=bounds is not None)
    # the task named by another format is inferred from its environment, which is compared instead
    task = source.task_id if source.own_meaning is not None else None
    return Side(str(source.path), spec, task, meaning, action_range)


def _range(source: Source) -> Callable[[], Bounds]:
    """A function that reads all actions and returns the minimum and maximum of each dimension."""

    def read() -> Bounds:
        low, high = np.inf, -np.inf
        for recorded in source.read(images=False):
            if isinstance(recorded, OtprError):
                continue
            with np.errstate(invalid="ignore"):
                low = np.fmin(low, np.fmin.reduce(recorded.actions, axis=0))
                high = np.fmax(high, np.fmax.reduce(recorded.actions, axis=0))
        return tuple(np.atleast_1d(low).tolist()), tuple(np.atleast_1d(high).tolist())

    return read


def _episodes(
    source: Source,
    rules: Rules,
    tally: Tally,
    evidence: Evidence,
    bounds: Bounds | None,
    task: str | None,
    known: TaskSpec | None,
    sample: Sample,
) -> Iterator[Episode]:
    """The episodes by the rules, at least one; errors name options that help."""
    try:
        task = task or source.task_id
        for episode in follow(source, rules, tally, task=task, bounds=bounds, evidence=evidence):
            sample.add(episode)
            yield episode
    except ActionRangeError as error:
        raise _range_error(source, error, known) from error
    except SuccessUnknownError as error:
        field = _RECORDS.get(source.format)
        raise OtprError(
            f"{error} Give --assume-success if all these episodes succeed, or --assume-failure to count none "
            "of them as a success"
            + (f"; or add {field}, 1 on the steps that solve it" if field else "")
            + " (docs/data.md#rules)."
        ) from error
    except BadEpisodeError as error:
        raise OtprError(f"{error} --skip-bad leaves out such episodes.") from error


def _range_error(source: Source, error: ActionRangeError, task: TaskSpec | None) -> OtprError:
    """The error for actions outside their range, with the range of the whole set and a possible reason."""
    whole = shown(_range(source)())
    own = (
        "in the environment's own units: give its own bounds, one number or one a dimension, with "
        "--action-low and --action-high; they are mapped to [-1, 1]"
    )
    if source.bounds is not None:
        own = (
            "of an environment with other bounds than the set states: give those with --action-low and "
            "--action-high, and --accept action-bounds"
        )
    clips = "" if task is None or is_user_task(task.id) else f" (as {task.id} does)"
    return OtprError(
        f"{error} In the whole set they run over {whole}. What is right depends on what they are:\n"
        f"  {own}\n"
        f"  commands that the environment clips{clips}: give --clip-actions\n"
        "  something else than the task takes, e.g. absolute poses instead of displacements: neither is "
        "right; record or extract the actions anew with the task's controller"
    )
