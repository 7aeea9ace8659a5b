"""The episodes that a run of otpr collected, as a data set to look into and to convert."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from otpr.data.episodes import Episode
from otpr.data.experience_files import read_about, read_experience
from otpr.data.meaning import Meaning
from otpr.data.reading import missing
from otpr.data.recorded import Recorded, Source, join
from otpr.errors import OtprError
from otpr.spec import STATE, Entry


def open_experience(path: Path, keys: tuple[str, ...] = ()) -> Source:
    """A run's folder `experience`.

    Args:
        path: the folder.
        keys: observation entries that are vectors, in the order wanted; none: all of them.

    Raises:
        OtprError: it is no such folder, is damaged, or has no such entry.
    """
    about = read_about(path)
    vectors = {name: e.shape[0] for name, e in about.spec.observation.items() if e.kind == "vector"}
    for key in keys:
        if key not in vectors:
            raise missing(str(path), "vector", key, vectors)
    if not vectors:
        raise OtprError(f"{path}: its observations are images alone; only vectors are read here.")
    keys = keys or tuple(vectors)

    def read() -> Iterator[Recorded]:
        for number, episode in enumerate(read_experience(path)):
            yield _recorded(episode, keys, f"{path}: episode {number}")

    one = dataclasses.replace(about.spec, observation={STATE: Entry((sum(vectors[key] for key in keys),))})
    left_out = sorted(set(about.spec.observation) - set(vectors))
    return Source(
        format="otpr",
        path=path,
        keys=tuple((key, vectors[key]) for key in keys),
        read=read,
        task_id=about.task,
        # where all entries are read, in their order
        own_spec=about.spec if list(keys) == list(about.spec.observation) else one,
        own_meaning=Meaning(parts=tuple((key, vectors[key]) for key in keys) if len(keys) > 1 else ()),
        notes=(f"images are left out: {', '.join(left_out)}",) if left_out else (),
    )


def _recorded(episode: Episode, keys: tuple[str, ...], place: str) -> Recorded:
    solved = np.zeros(len(episode), np.bool_)
    solved[-1] = episode.success  # which ends it
    return Recorded(
        place=place,
        observations=join([episode.observations[key] for key in keys], list(keys), place),
        actions=episode.actions,
        rewards=episode.rewards,
        success=solved,
        terminated=episode.terminated,
        truncated=episode.truncated,
        seed=episode.seed,
    )
