"""Which format a data set has, and bringing it into ours."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import h5py
import numpy as np

from otpr.data.convert.arrays import open_arrays
from otpr.data.convert.experience import open_experience
from otpr.data.convert.lerobot import is_lerobot, open_lerobot
from otpr.data.convert.robomimic import is_robomimic, open_robomimic
from otpr.data.convert.rules import ActionRangeError, BadEpisodeError, Rules, SuccessUnknownError, follow
from otpr.data.convert.tally import Tally
from otpr.data.datasets import check_free, write_dataset
from otpr.data.episodes import Episode
from otpr.data.experience_files import is_experience
from otpr.data.loading import comparable
from otpr.data.minari_files import open_minari
from otpr.data.recorded import Source, open_hdf5
from otpr.envs import list_tasks
from otpr.errors import OtprError, unknown_name
from otpr.spec import STATE, Entry, Spec

# Where those who add success after each step put it.
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
) -> Source:
    """Open a data set of any format that otpr reads.

    Args:
        path_or_id: a file or a folder; or the id of a Minari data set.
        format: its format; `auto`: what the file looks like. `npz` is any dictionary of arrays in a row, in
            an .npz or an HDF5 file.
        keys: the parts of the observation in the order wanted; none: the format's own choice.
        filter_key: a named subset of demonstrations; robomimic's files alone have them.

    Raises:
        OtprError: there is no such file, it has no format that is read, or not what was asked for.
    """
    if format not in get_args(Format):
        raise unknown_name("format", format, get_args(Format))
    path = Path(path_or_id)
    if format == "auto":
        format = _recognised(path)
    if filter_key is not None and format != "robomimic":
        raise OtprError(
            f"{path}: only robomimic's files have filter keys, this is {format}; leave out --filter-key."
        )
    if format == "minari":
        return open_minari(path_or_id, keys)
    if not path.exists():
        raise OtprError(f"There is no {path}; give the file or the folder of a data set.")
    if format == "lerobot":
        if path.is_file():
            raise OtprError(
                f"{path} is a file; a LeRobotDataset is a folder: give the one that holds meta/info.json."
            )
        return open_lerobot(path, keys)
    if format == "otpr":
        return open_experience(path, keys)
    if path.is_dir():
        raise OtprError(f"{path} is a folder; the format {format} is a file: give the file itself.")
    if format == "robomimic":
        return open_robomimic(path, keys, filter_key)
    return open_arrays(path, keys, ogbench=True if format == "ogbench" else None)


def _recognised(path: Path) -> Format:
    """The format by what is in the file or the folder, whatever its name."""
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
    overwrite: bool = False,
) -> Tally:
    """Bring a data set into ours, an episode at a time; whole, or nothing is written.

    Args:
        source: an open data set.
        out: the folder to make.
        task: the otpr task it belongs to; None: the one the file names, if any.
        rules: what the user decides about success, rewards, the range of actions and bad episodes.
        overwrite: replace a data set that is already at `out`.

    Returns:
        What was done to the episodes.

    Raises:
        OtprError: an episode cannot be trained on, or does not fit the task; it names the file and the place.
    """
    out, rules = Path(out), rules or Rules()
    check_free(out, overwrite)
    if (
        source.path.exists()
        and out.exists()
        and (out.samefile(source.path) or out.samefile(source.path.parent))
    ):
        raise OtprError(f"{out} is the data set that is read; give another folder.")
    task = task or source.task_id
    tally = Tally()
    stream = _episodes(source, rules, tally, task)
    first = next(stream)
    spec = _spec(source, rules, first)
    _check_task(task, source, spec)
    write_dataset(
        itertools.chain([first], stream),
        out,
        spec=spec,
        task_id=task,
        expert=f"{source.format} data",
        noise=None,
        seed=None,
        overwrite=overwrite,
        description=f"Converted from {source.format} data, {source.path.name}.",
        more={"observation_keys": [key for key, _ in source.keys]},
    )
    return tally


def _episodes(source: Source, rules: Rules, tally: Tally, task: str | None) -> Iterator[Episode]:
    """The episodes by the rules, at least one; errors say which options help."""
    try:
        yield from follow(source, rules, tally, task=task)
    except ActionRangeError as error:
        raise _range_error(source, rules, error.place) from error
    except SuccessUnknownError as error:
        field = _RECORDS.get(source.format)
        raise OtprError(
            f"{error} Give --assume-success if all these episodes succeed, or --assume-failure to count none "
            "of them as a success" + (f"; or add {field}, 1 on the steps that solve it." if field else ".")
        ) from error
    except BadEpisodeError as error:
        raise OtprError(f"{error} --skip-bad leaves out such episodes.") from error


def _spec(source: Source, rules: Rules, first: Episode) -> Spec:
    """What the converted set exchanges: one vector, and the action range that the user or the set gives."""
    action_dim = first.actions.shape[1]
    own = source.spec(action_dim)
    low, high = own.action_low, own.action_high
    if rules.maps_actions:
        low, high = (np.broadcast_to(end, action_dim) for end in (rules.action_low, rules.action_high))
    entries = {STATE: Entry(first.observations[STATE].shape[1:])}
    return Spec(entries, tuple(low), tuple(high), control_rate=own.control_rate)


def _check_task(task: str | None, source: Source, have: Spec) -> None:
    """Refuse a task that is not known, or that exchanges something else."""
    if task is None:
        return
    tasks = {spec.id: spec for spec in list_tasks()}
    if task not in tasks:
        if task == source.task_id or ":" in task or task.startswith("gym/"):
            return  # the user's own, or one whose simulator this version does not have
        raise unknown_name("task", task, tasks)
    spec = tasks[task].spec
    comparable(have, spec).check(
        spec,
        str(source.path),
        f"the task {task}",
        "Choose the parts of the observation with --keys, or name another task with --task.",
    )


def _range_error(source: Source, rules: Rules, place: str) -> OtprError:
    """Where actions leave the range, and the range of the whole set, for which the rest is read."""
    low, high = np.inf, -np.inf
    for recorded in source.read():
        if isinstance(recorded, OtprError):
            continue
        with np.errstate(invalid="ignore"):
            low = np.fmin(low, np.fmin.reduce(recorded.actions, axis=0))
            high = np.fmax(high, np.fmax.reduce(recorded.actions, axis=0))
    given = f"[{_shown(rules.action_low)}] to [{_shown(rules.action_high)}]"
    expected = given if rules.maps_actions else "[-1, 1]"
    return OtprError(
        f"{place}: actions leave {expected}. In the whole set they run from [{_shown(low)}] to "
        f"[{_shown(high)}]. Give the environment's own range with --action-low and --action-high, one number "
        "or one a dimension: it is mapped to [-1, 1]."
    )


def _shown(values: object) -> str:
    return " ".join(f"{value:.6g}" for value in np.atleast_1d(np.asarray(values, np.float64)))
