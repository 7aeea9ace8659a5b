"""Demonstrations on disk, in Minari's format (HDF5): readable by Minari itself and by what is built on it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_storage import METADATA_FILE_NAME, MinariStorage

from otpr.data.episodes import Episode, validate_episodes
from otpr.errors import OtprError

# Minari looks for its files in this folder inside the one a data set is named by.
_DATA_FOLDER = "data"


@dataclass(frozen=True)
class Demonstrations:
    """A data set as read.

    Attributes:
        episodes: at least one, valid in the sense of `validate_episodes`.
        task_id: the task they were collected on; None for a data set that otpr did not write.
        metadata: Minari's metadata of the whole set; one of ours has `task_id`, `expert`, `noise`, `seed`.
    """

    episodes: list[Episode]
    task_id: str | None
    metadata: dict[str, Any]


def write_dataset(
    episodes: Sequence[Episode],
    path: str | os.PathLike[str],
    *,
    task_id: str,
    expert: str,
    noise: float,
    seed: int,
    overwrite: bool = False,
) -> None:
    """Write episodes as a Minari data set, whole or not at all.

    The folder can be read with `read_dataset(path)` and `minari.MinariDataset(path / "data")`. Its Minari
    id is `TASK-expert-v0`: put at that place in `MINARI_DATASETS_PATH`, Minari also lists it and loads it by
    id. Each step carries `infos["success"]`.

    Args:
        episodes: at least one, all of the same dimensions.
        path: the folder to make; its parents are made where missing.
        task_id: the task they were collected on.
        expert: who acted, e.g. `"scripted expert"`.
        noise: standard deviation of the action noise they were collected with.
        seed: the run seed they were collected with.
        overwrite: replace a data set that is already there. Anything else that is there stays an error.

    Raises:
        OtprError: the episodes are not valid, or something is at `path` already. Nothing is written then.
    """
    path = Path(path)
    validate_episodes(episodes, source=f"episodes for {path}")
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        staging = Path(temporary).resolve() / "new"  # absolute: Minari joins a relative path to itself
        staging.mkdir()
        observation_dim = episodes[0].observations.shape[1]
        action_dim = episodes[0].actions.shape[1]
        storage = MinariStorage.new(
            staging / _DATA_FOLDER,
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (observation_dim,), np.float32),
            action_space=gymnasium.spaces.Box(-1.0, 1.0, (action_dim,), np.float32),
            data_format="hdf5",
        )
        storage.update_metadata(
            {
                "dataset_id": f"{task_id}-expert-v0",
                "minari_version": minari.__version__,
                "algorithm_name": expert,
                "description": f"Successful episodes of {expert} on {task_id} with action noise {noise:g}.",
                "task_id": task_id,
                "expert": expert,
                "noise": noise,
                "seed": seed,
            }
        )
        storage.update_episodes([_to_buffer(episode) for episode in episodes])
        # A folder that is not empty cannot be replaced by a rename: the old one is first moved into the
        # temporary folder, and vanishes with it.
        if path.exists():
            path.rename(Path(temporary) / "old")
        staging.rename(path)


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse a place that a data set may not be written to; see `write_dataset`."""
    if not path.exists():
        return
    if not path.is_dir():
        raise OtprError(f"{path} is a file; give the name of a folder for the data set.")
    if not any(path.iterdir()):
        return
    if not (path / _DATA_FOLDER / METADATA_FILE_NAME).exists():
        raise OtprError(f"{path} exists and is not a data set; give another folder.")
    if not overwrite:
        raise OtprError(
            f"{path} already holds a data set; give another folder, or --overwrite to replace it."
        )


def _to_buffer(episode: Episode) -> EpisodeBuffer:
    def last_step(flag: bool) -> list[bool]:
        return [False] * (len(episode) - 1) + [flag]

    return EpisodeBuffer(
        seed=episode.seed,
        observations=episode.observations,  # pyright: ignore[reportArgumentType]: arrays are stored as they are
        actions=episode.actions,  # pyright: ignore[reportArgumentType]
        rewards=list(episode.rewards),
        terminations=last_step(episode.terminated),
        truncations=last_step(episode.truncated),
        # As Minari's own collector has it: one entry for the reset, then one a step.
        infos={"success": np.array([False, *last_step(episode.success)])},
    )


def read_dataset(path_or_id: str | os.PathLike[str]) -> Demonstrations:
    """Read a Minari data set with flat observations and actions: ours, or one of `minari download`.

    Numbers are converted to float32. An episode counts as a success where any of its `infos["success"]` is
    true; in a data set that records no success, where it was terminated with a positive last reward.

    Args:
        path_or_id: the folder of a data set, or the id of one in Minari's own folder (`MINARI_DATASETS_PATH`,
            else `~/.minari/datasets`).

    Raises:
        OtprError: there is none of that name; a file in it is missing, truncated or corrupt (it is named);
            its observations or actions are not flat; or its episodes are not valid (`validate_episodes`).
    """
    folder = _find(path_or_id)
    metadata_file = folder / METADATA_FILE_NAME
    try:
        raw_metadata = json.loads(metadata_file.read_text())
        total_episodes = int(raw_metadata["total_episodes"])
        storage = MinariStorage.read(folder)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise OtprError(f"{metadata_file}: not readable as a Minari data set ({_reason(error)}).") from error
    observation_dim = _flat_dim(folder, "observations", storage.observation_space)
    action_dim = _flat_dim(folder, "actions", storage.action_space)
    data_file = next((file for file in sorted(folder.iterdir()) if file.suffix == ".hdf5"), folder)
    try:
        indices = range(total_episodes)
        seeds = [metadata.get("seed") for metadata in storage.get_episode_metadata(indices)]
        episodes = [
            _to_episode(stored, seed)
            for stored, seed in zip(storage.get_episodes(indices), seeds, strict=True)
        ]
    except (OSError, ValueError, KeyError, IndexError, TypeError, AssertionError, RuntimeError) as error:
        raise OtprError(
            f"{data_file}: truncated or corrupt ({_reason(error)}); collect or download it again."
        ) from error
    validate_episodes(episodes, source=str(data_file), observation_dim=observation_dim, action_dim=action_dim)
    return Demonstrations(episodes=episodes, task_id=raw_metadata.get("task_id"), metadata=raw_metadata)


def _find(path_or_id: str | os.PathLike[str]) -> Path:
    """The folder with the metadata file."""
    root = Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))
    given = Path(path_or_id)
    for folder in (given / _DATA_FOLDER, given, root / given / _DATA_FOLDER):
        if (folder / METADATA_FILE_NAME).exists():
            return folder
    if given.exists():
        raise OtprError(f"{given} is not a Minari data set: it holds no {_DATA_FOLDER}/{METADATA_FILE_NAME}.")
    raise OtprError(
        f"No data set at {given}, nor one of that id in {root}. "
        "Make one with `otpr collect`, or fetch one with `minari download ID`."
    )


def _flat_dim(folder: Path, field: str, space: gymnasium.Space[Any]) -> int:
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise OtprError(f"{folder}: {field} must be flat vectors, and are {space}.")
    return space.shape[0]


def _to_episode(stored: dict[str, Any], seed: int | None) -> Episode:
    terminations, truncations = stored["terminations"], stored["truncations"]
    rewards = np.asarray(stored["rewards"], np.float32)
    terminated = bool(np.any(terminations))
    recorded = (stored["infos"] or {}).get("success")
    if recorded is None:
        recorded = terminated and rewards[-1] > 0
    return Episode(
        observations=np.asarray(stored["observations"], np.float32),
        actions=np.asarray(stored["actions"], np.float32),
        rewards=rewards,
        terminated=terminated,
        truncated=bool(np.any(truncations)),
        success=bool(np.any(recorded)),
        seed=seed,
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
