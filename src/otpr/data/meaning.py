"""The meaning of a data set's numbers beyond their shapes, as stored in its metadata."""

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
"""The facts that are compared if both sides state them, each with advice for a difference."""


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The meaning of a data set's numbers, as far as it is known.

    Attributes:
        parts: the parts of the observation, if it is one vector.
        facts: the facts in words, by the names of `FACTS`.
        bounds_stated: whether the action bounds of the spec were stated by the set's author, the file or the
            user. Otherwise they are [-1, 1], and the actions that -1 and 1 represent are unknown.
        accepted: names of the differences from the task that the user accepted at conversion.
    """

    parts: Parts = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict[str, str])
    bounds_stated: bool = True
    accepted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The meaning as a JSON document for `from_metadata`."""
        return json_ready(dataclasses.asdict(self))

    @classmethod
    def from_metadata(
        cls, metadata: Mapping[str, Any], spec: Spec | None, task: TaskSpec | None = None
    ) -> Self:
        """The meaning stated in the metadata of a set that otpr wrote.

        Args:
            metadata: metadata of the whole set.
            spec: the set's spec; None in data format 1.
            task: the task that the data are for.

        Raises:
            ValueError: otpr does not write such metadata.
        """
        if "meaning" not in metadata:
            # Formats 1 and 2 store bounds of [-1, 1] both if stated and if unknown. They are stated in sets
            # of `otpr collect`, which record the noise, and in sets with other bounds.
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
        """A description for people, one line per item."""
        lines = [f"parts         {listed(self.parts)}"] if self.parts else []
        if not self.bounds_stated:
            lines.append("bounds        not stated: what -1 and 1 stand for is unknown")
        lines += [f"{name:13} {words}" for name, words in self.facts.items()]
        return lines + ([f"accepted      {', '.join(self.accepted)}"] if self.accepted else [])


def _named_parts(metadata: Mapping[str, Any], spec: Spec, task: TaskSpec | None) -> Parts:
    """The parts of a set of data format 2: names from the set, lengths from the task."""
    lengths, names = dict(task.parts if task is not None else ()), metadata.get("observation_keys")
    if not isinstance(names, list) or sorted(map(str, names)) != sorted(lengths) or spec.only_vector is None:
        return ()
    whole = spec.observation[spec.only_vector].shape == (sum(lengths.values()),)
    return tuple((name, lengths[name]) for name in names) if whole else ()


def listed(parts: Sequence[tuple[str, int]]) -> str:
    """Parts in words: "object (10), robot0_eef_pos (3)"."""
    return ", ".join(f"{name} ({length})" for name, length in parts)


def chosen(keys: Sequence[str], wanted: Parts, known: Mapping[str, int], default: Sequence[str]) -> list[str]:
    """The parts of an observation to read, in order.

    Args:
        keys: the user's choice, which takes precedence.
        wanted: the parts of the task, chosen if the set has all of them with equal lengths.
        known: the parts of the set.
        default: the format's own choice.
    """
    if keys:
        return list(keys)
    if wanted and all(known.get(name) == length for name, length in wanted):
        return [name for name, _ in wanted]
    return list(default)
