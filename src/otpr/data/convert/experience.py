"""The episodes that a run collected, as a data set to inspect and convert."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.experience_files import read_about, read_experience
from otpr.data.meaning import Meaning
from otpr.data.reading import missing
from otpr.data.recorded import Recorded, Source, by_kind, join
from otpr.spec import STATE, Entry


def open_experience(path: Path, keys: tuple[str, ...] = ()) -> Source:
    """Open a run's folder `experience`.

    Args:
        path: the folder.
        keys: observation entries, the vectors in the order wanted; none: all of them.

    Raises:
        OtprError: the folder is not an experience folder, is damaged, or lacks an entry.
    """
    about = read_about(path)
    vectors = {name: entry.shape[0] for name, entry in about.spec.vectors.items()}
    of_vectors, of_images = by_kind(keys, about.spec.images)
    for key in of_vectors:
        if key not in vectors:
            raise missing(str(path), "observation", key, about.spec.observation)
    if not keys:
        of_vectors = tuple(vectors)

    def read(*, images: bool = True) -> Iterator[Recorded]:
        for number, episode in enumerate(read_experience(path)):
            place = f"{path}: episode {number}"
            yield _recorded(episode, of_vectors, of_images if images else (), place)

    shown = {name: about.spec.observation[name] for name in of_images}
    whole = sorted([*of_vectors, *of_images]) == list(about.spec.observation) and len(of_vectors) < 2
    vector = {STATE: Entry((sum(vectors[key] for key in of_vectors),))} if of_vectors else {}
    one = dataclasses.replace(about.spec, observation={**vector, **shown})
    return Source(
        format="otpr",
        path=path,
        keys=tuple((key, vectors[key]) for key in of_vectors),
        read=read,
        images=shown,
        task_id=about.task,
        # as it was written, where all of it is read
        own_spec=about.spec if whole else one,
        own_meaning=Meaning(
            parts=tuple((key, vectors[key]) for key in of_vectors) if len(of_vectors) > 1 else ()
        ),
        own_view=about.view,
    )


def _recorded(episode: Episode, keys: tuple[str, ...], images: tuple[str, ...], place: str) -> Recorded:
    solved = np.zeros(len(episode), np.bool_)
    solved[-1] = episode.success  # which ends it
    return Recorded(
        place=place,
        observations=_vector(episode, keys, place),
        actions=episode.actions,
        rewards=episode.rewards,
        success=solved,
        terminated=episode.terminated,
        truncated=episode.truncated,
        seed=episode.seed,
        images={name: episode.observations[name] for name in images},
        looked=episode.looked,
    )


def _vector(episode: Episode, keys: tuple[str, ...], place: str) -> NDArray[Any]:
    if not keys:
        return np.zeros((len(episode) + 1, 0), np.float32)
    return join([episode.observations[key] for key in keys], list(keys), place)
