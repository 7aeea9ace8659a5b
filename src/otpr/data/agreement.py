"""The comparison of data with a task, of data with data, and of a policy with a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import Bounds, shown
from otpr.data.meaning import FACTS, Meaning, listed
from otpr.envs import TaskSpec
from otpr.envs.cameras import LARGEST, SMALLEST
from otpr.errors import OtprError, unknown_name
from otpr.spec import Entry, Spec

ACCEPTABLE = (
    "task",
    "observation-parts",
    "observation-order",
    "action-bounds",
    "control-rate",
    *FACTS,
)
"""The names of the differences that `--accept` overrides. Shapes and types are not among them."""

_ACCEPTED = "accepted between"


@dataclass(frozen=True)
class Side:
    """The self-description of one side of a comparison.

    Attributes:
        name: the name in errors, e.g. "the data set runs/demonstrations".
        spec: its spec, without history, horizon and execution.
        task: the id of its task; None if it names none.
        meaning: the known meaning of its numbers.
        action_range: returns the minimum and maximum of each action dimension, called if bounds are not
            stated; None: it has no actions.
        advice: a sentence that replaces the advice of each difference, which is meant for data.
        images: for a task, all images that it could show, if known.
    """

    name: str
    spec: Spec
    task: str | None = None
    meaning: Meaning = field(default_factory=Meaning)
    action_range: Callable[[], Bounds] | None = None
    advice: str = ""
    images: tuple[str, ...] = ()


class Difference(NamedTuple):
    """A difference between two sides. Its name is in `ACCEPTABLE`, or None if it cannot be accepted."""

    name: str | None
    text: str  # the difference, the first side first
    advice: str = ""  # a sentence that says what to do

    def __str__(self) -> str:
        """Two lines, or one without advice."""
        return f"{self.text}\n    {self.advice}." if self.advice else self.text


def of_task(task: TaskSpec) -> Side:
    """The self-description of a task."""
    return Side(f"the task {task.id}", task.spec, task.id, Meaning(parts=task.parts, facts=task.facts))


def compare(mine: Side, theirs: Side) -> list[Difference]:
    """The differences between two sides, in everything that both state.

    Args:
        mine: e.g. a data set.
        theirs: the other side, e.g. a task.
    """
    found: list[Difference] = []
    other_task = mine.task is not None and theirs.task is not None and mine.task != theirs.task
    if other_task:
        found.append(
            Difference("task", f"task: {mine.task} against {theirs.task}", "Give the right task with --task")
        )
    found += _shapes(mine.spec, theirs)
    found += _parts(mine.meaning, theirs.meaning)
    if mine.spec.action_dim == theirs.spec.action_dim:
        found += _bounds(mine, theirs)
    rates = mine.spec.control_rate, theirs.spec.control_rate
    if None not in rates and rates[0] != rates[1]:
        found.append(
            Difference(
                "control-rate",
                f"control-rate: {rates[0]:g} Hz against {rates[1]:g} Hz",
                "At another rate the same actions move the robot faster or slower",
            )
        )
    for name, advice in FACTS.items():
        if name == "environment" and other_task:
            continue  # the same difference once more
        words, others = mine.meaning.facts.get(name), theirs.meaning.facts.get(name)
        if words is not None and others is not None and words.lower() != others.lower():
            found.append(Difference(name, f"{name}: {words} against {others}", advice))
    return found


def assumed(mine: Side, theirs: Side) -> list[str]:
    """Assumptions about data that neither side states, one sentence each.

    Args:
        mine: the data set.
        theirs: the task.
    """
    told: list[str] = []
    here, there = mine.meaning.parts, theirs.meaning.parts
    if there and here != there and (not here or _undivided(mine.meaning, theirs.meaning)):
        told.append(
            f"{mine.name} does not say what its observation is made of; it is taken for {listed(there)}"
        )
    ours, bounds = _of(mine.spec), _of(theirs.spec)
    if not mine.meaning.bounds_stated and shown(ours) != shown(bounds):
        told.append(
            f"{mine.name} does not say what -1 and 1 stand for in its actions; they are taken for the bounds "
            f"of {theirs.name}, {shown(bounds)}"
        )
    return told


def agree(mine: Side, theirs: Side, accept: Sequence[str] | None = None, shapes: str = "") -> list[str]:
    """Check that two sides agree, except for accepted differences.

    Args:
        mine: e.g. a data set.
        theirs: what it meets, e.g. a task.
        accept: names of accepted differences; None: the command has no `--accept`.
        shapes: a sentence that says what to do if shapes or types differ.

    Returns:
        A sentence for each accepted difference.

    Raises:
        OtprError: the sides differ. The message lists all differences with both sides and what to do, and the
            `--accept` that overrides them if possible.
    """
    found = compare(mine, theirs)
    refused = [difference for difference in found if difference.name not in (accept or ())]
    if not refused:
        between = f"{mine.name} and {theirs.name}"
        return [f"{_ACCEPTED} {between}: {difference.text}" for difference in found]
    names = list(dict.fromkeys(difference.name for difference in refused if difference.name is not None))
    lines = [f"  {difference.text if mine.advice else difference}" for difference in refused]
    if mine.advice or len(names) < len(refused):
        lines.append(mine.advice or shapes)
    if len(names) == len(refused) and accept is not None:
        lines.append(
            "To use it all the same, as if there were no difference (docs/data-agreement.md): --accept "
            + " ".join(names)
        )
    first = f"The {mine.name[4:]}" if mine.name.startswith("the ") else mine.name
    listing = "\n".join(lines).rstrip()
    raise OtprError(f"{first} and {theirs.name} do not fit together (in this order):\n{listing}")


def check_names(accept: Sequence[str]) -> None:
    """Check names of differences.

    Raises:
        OtprError: names the nearest ones.
    """
    for name in accept:
        if name not in ACCEPTABLE:
            raise unknown_name("difference to accept", name, ACCEPTABLE)


def needless(accept: Sequence[str], told: Sequence[str]) -> list[str]:
    """A sentence for each accepted name in which nothing differs.

    Args:
        accept: what the user accepts.
        told: the sentences of `agree`.
    """
    met = [line for line in told if line.startswith(_ACCEPTED)]
    return [
        f"--accept {name}: the data differ from nothing in that"
        for name in dict.fromkeys(accept)
        if not any(f": {name}: " in line for line in met)
    ]


def _shapes(mine: Spec, other: Side) -> list[Difference]:
    """Differences in entries and dimensions, which cannot be accepted."""
    found: list[Difference] = []
    theirs = other.spec
    for name in sorted({*mine.observation, *theirs.observation}):
        here, there = (spec.observation.get(name) for spec in (mine, theirs))
        # the floating-point types of vectors are not compared: data are converted to the task's type
        if here is None or there is None or (here.shape, here.kind) != (there.shape, there.kind):
            sides = f"{here or 'nothing'} against {there or 'nothing'}"
            found.append(Difference(None, f"observation {name!r}: {sides}", _of_images(name, here, other)))
    if mine.action_dim != theirs.action_dim:
        found.append(Difference(None, f"action dimensions: {mine.action_dim} against {theirs.action_dim}"))
    return found


def _of_images(name: str, here: Entry | None, other: Side) -> str:
    """Advice on an image that the other side does not show."""
    known = other.images or tuple(other.spec.images)
    if here is None or here.kind != "image" or name in other.spec.observation:
        return ""
    if name in other.images and not all(SMALLEST <= size <= LARGEST for size in here.shape[:2]):
        return f"The frames of its cameras are {SMALLEST} to {LARGEST} pixels high and wide"
    if name in known:
        return ""
    shown = f"shows {', '.join(known)}" if known else "shows no images"
    return f"{other.name[:1].upper()}{other.name[1:]} {shown}: choose the images with --keys"


def _undivided(mine: Meaning, theirs: Meaning) -> bool:
    """Whether one side has a single array of everything, which the other does not know."""
    names = [{name for name, _ in side.parts} for side in (mine, theirs)]
    return any(len(few) == 1 and not few & many for few, many in (names, reversed(names)))


def _parts(mine: Meaning, theirs: Meaning) -> list[Difference]:
    here, there = mine.parts, theirs.parts
    if not here or not there or here == there or _undivided(mine, theirs):
        return []
    text = f"{listed(here)} against {listed(there)}"
    if sorted(here) == sorted(there):
        keys = " ".join(name for name, _ in there)
        advice = f"Leave out --keys, or give --keys {keys}"
        return [Difference("observation-order", f"observation-order: {text}", advice)]
    return [
        Difference(
            "observation-parts", f"observation-parts: {text}", "Choose the parts and their order with --keys"
        )
    ]


def _of(spec: Spec) -> Bounds:
    return spec.action_low, spec.action_high


def _bounds(mine: Side, theirs: Side) -> list[Difference]:
    """Differing stated bounds, or numbers without stated bounds that appear to be in the other's units."""
    here, there = _of(mine.spec), _of(theirs.spec)
    if not theirs.meaning.bounds_stated or shown(here) == shown(there):
        return []
    if mine.meaning.bounds_stated:
        return [
            Difference(
                "action-bounds",
                f"action-bounds: {shown(here)} against {shown(there)}",
                "The same action moves the robot by another amount",
            )
        ]
    if mine.action_range is None:
        return []
    least, greatest = (np.asarray(end) for end in mine.action_range())
    low, high = (np.asarray(end) for end in there)
    if not _in_other_units(least, greatest, low, high):
        return []
    ends = " ".join(f"{x:.6g}" for x in there[0]), " ".join(f"{x:.6g}" for x in there[1])
    return [
        Difference(
            "action-bounds",
            f"action-bounds: not stated, and all actions are within the bounds {shown(there)} of "
            f"{theirs.name}, as numbers in its own units are",
            f"If they are in its units: otpr data convert ... --action-low {ends[0]} --action-high {ends[1]} "
            "maps them to [-1, 1]. If they are in [-1, 1] already, accept it",
        )
    ]


def _in_other_units(
    least: NDArray[np.float64],
    greatest: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> bool:
    """Whether actions declared to be in [-1, 1] stay within bounds that are narrower in some dimension."""
    rounding = 1e-6 * (high - low)
    inside = ((least >= low - rounding) & (greatest <= high + rounding)).all()
    return bool(inside and ((low > -1) | (high < 1)).any())
