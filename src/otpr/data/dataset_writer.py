"""Writing demonstrations in Minari's format (HDF5), readable by Minari and by what is built on it."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage

from otpr.data.episodes import Episode, seen_spec, validate_episode, validate_episodes
from otpr.data.meaning import Meaning
from otpr.data.minari_files import DATA_FOLDER, DATA_FORMAT, FILE_NAME
from otpr.data.reading import subgroup
from otpr.envs.task_env import observation_space
from otpr.errors import OtprError
from otpr.spec import Spec
from otpr.storage import writing


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
