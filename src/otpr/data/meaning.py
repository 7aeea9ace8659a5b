"""What a data set says of its numbers beyond their shapes, as it is stored in the set's metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

from otpr.envs import TaskSpec
from otpr.spec import Parts, Spec, json_ready

FACTS = {
    "environment": "The episodes come from another environment; give its own task with --task",
    "simulator": "Another simulator has other dynamics; record the data in the task's",
    "robot": "The same numbers mean other joints and other reach; record the data with the task's robot",
    "controller": "The same numbers move the robot otherwise, and no mapping of their range mends that: "
    "record or extract the actions anew with the task's controller",
    "object": "`object` has other entries, in another order; convert the original file with this task",
    "instruction": "The episodes were told to do different things; keep one of them",
}
"""The facts that are compared where both sides know them, each with what to do where they differ."""


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What the numbers of a data set mean, as far as it is known.

    Attributes:
        parts: what the observation is made of, where it is one vector.
        facts: in words, by the names of `FACTS`.
        bounds_stated: the action bounds of the set's spec are said by whoever made the set, by the file or by
            the user. If not, they are [-1, 1], because every set has actions in [-1, 1]; what -1 and 1 stand
            for is not known then.
        accepted: the names of the differences from its task that the user accepted when it was converted.
    """

    parts: Parts = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    bounds_stated: bool = True
    accepted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a JSON document, which `from_metadata` reads."""
        return json_ready(dataclasses.asdict(self))

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], spec: Spec | None, task: TaskSpec | None = None
    ) -> Self:
        """What the metadata of a set that otpr wrote say.

        Args:
            metadata: of the whole set.
            spec: that of the set; None in data format 1.
            task: the task that the data are for.

        Raises:
            ValueError: they are not as otpr writes them.
        """
        if "meaning" not in metadata:
            # Formats 1 and 2 kept bounds of [-1, 1] for stated and for unknown ones. `otpr collect` knew
            # them, and is known by the noise; so is every set with other bounds.
            if spec is None:
                return cls(bounds_stated=False)
            other = {*spec.action_low, *spec.action_high} != {-1.0, 1.0}
            stated = other or metadata.get("noise") is not None
            return cls(_named_parts(metadata, spec, task), bounds_stated=stated)
        try:
            given = dict(metadata["meaning"])
            return cls(
                parts=tuple((str(name), int(length)) for name, length in given["parts"]),
                facts={str(name): str(words) for name, words in given["facts"].items()},
                bounds_stated=bool(given["bounds_stated"]),
                accepted=tuple(map(str, given["accepted"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its meaning cannot be read: {error!r}") from error

    def lines(self) -> list[str]:
        """In words, a line each, for people."""
        lines = [f"parts         {listed(self.parts)}"] if self.parts else []
        if not self.bounds_stated:
            lines.append("bounds        not stated: what -1 and 1 stand for is unknown")
        lines += [f"{name:13} {words}" for name, words in self.facts.items()]
        return lines + ([f"accepted      {', '.join(self.accepted)}"] if self.accepted else [])


def _named_parts(metadata: Mapping[str, Any], spec: Spec, task: TaskSpec | None) -> Parts:
    """The parts of a set of data format 2, which has their names: the task knows their lengths."""
    lengths, names = dict(task.parts if task is not None else ()), metadata.get("observation_keys")
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(lengths) or spec.only_vector is None:
        return ()
    whole = spec.observation[spec.only_vector].shape == (sum(lengths.values()),)
    return tuple((name, lengths[name]) for name in names) if whole else ()


def listed(parts: Sequence[tuple[str, int]]) -> str:
    """Parts in words: "object (10), robot0_eef_pos (3)"."""
    return ", ".join(f"{name} ({length})" for name, length in parts)


def chosen(keys: Sequence[str], wanted: Parts, known: Mapping[str, int], default: Sequence[str]) -> list[str]:
    """The parts of an observation that are read, in their order.

    Args:
        keys: what the user asked for; if anything, it is this.
        wanted: the parts of the task: they are taken where all of them are there, at their lengths.
        known: the parts that there are.
        default: what the format would take.
    """
    if keys:
        return list(keys)
    if wanted and all(known.get(name) == length for name, length in wanted):
        return [name for name, _ in wanted]
    return list(default)
