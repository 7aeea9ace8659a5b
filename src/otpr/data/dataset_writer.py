"""Writing demonstrations in Minari's format (HDF5), for Minari and tools based on it."""

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
    """Write episodes as a Minari data set, atomically.

    The folder can be read with `read_dataset(path)` and `minari.MinariDataset(path / "data")`. Its Minari id
    is `TASK-expert-v0`; at that path in `MINARI_DATASETS_PATH`, Minari also lists it and loads it by id. Each
    step has `infos["success"]`. Only one episode at a time is in memory, and each is checked. Observations
    with one entry are stored as an array, others as a dictionary.

    Args:
        episodes: at least one, all of the same spec; an iterator is read once.
        path: the folder to create; missing parents are created.
        spec: the episodes' spec; None: derived from the first episode's arrays (`seen_spec`).
        meaning: further meaning of the numbers; None: only that a given spec states the bounds.
        task_id: the episodes' task; None where unknown.
        view: the view of the task, from `Setup.view`; None where unknown.
        expert: the acting expert, e.g. `"scripted expert"`.
        noise: standard deviation of the action noise; None where unknown.
        seed: the run's seed; None where unknown.
        overwrite: whether to replace an existing data set. Anything else at `path` is an error.
        description: the description that Minari shows; None: that of `otpr collect`.
        more: further JSON-serialisable metadata.

    Raises:
        OtprError: the episodes are not valid or do not fit the spec, an episode lacks images of some steps,
            or `path` exists already. Nothing is written in this case.
    """
    path = Path(path)
    check_free(path, overwrite)
    source = f"episodes for {path}"
    if isinstance(episodes, Sequence):  # a sequence can be checked before anything is written
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
            jpeg_encoding=False,  # lossless: a policy should see the frames of the task exactly
        )
        storage.update_metadata(
            {
                # the characters that Minari allows in an id: a user's task may contain a colon, a folder a
                # space
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
        # A rename cannot replace a folder that is not empty: the old one is first moved into the temporary
        # folder and deleted with it.
        if path.exists():
            path.rename(Path(temporary) / "old")
        staging.rename(path)


@contextlib.contextmanager
def _parents_of(path: Path) -> Generator[None]:
    """Create the parents of `path`; if the block fails, remove the new ones."""
    missing = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:  # innermost first
            with contextlib.suppress(OSError):  # another process has written there
                parent.rmdir()
        raise


def check_free(path: Path, overwrite: bool) -> None:
    """Check that a data set may be written to a path; see `write_dataset`."""
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
    """Check episodes against the spec and convert them to Minari's form.

    Minari writes an episode as soon as it is yielded; its images are added to the file afterwards.
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
            # Minari would store frames in small tiles, which cannot be memory-mapped
            with h5py.File(file, "r+") as opened:  # Minari has the file open too, in this process
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
