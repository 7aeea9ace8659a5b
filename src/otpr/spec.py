"""The interface of a task and a policy: named observation entries, action bounds and the shape of a plan."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, cast

import numpy as np

from otpr.errors import OtprError

Kind = Literal["vector", "image"]

Parts = tuple[tuple[str, int], ...]
"""The parts of a vector entry: the name and the length of each, in order; empty where they are unknown."""

STATE = "state"
"""Name of the only observation entry of a task that observes one vector."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One named entry of an observation.

    Attributes:
        shape: of one observation: (length,) for a vector, (height, width, channels) for an image.
        dtype: name of the NumPy type; vectors are floating-point, images `uint8`.
        kind: "vector" or "image".

    Raises:
        OtprError: shape, type and kind do not match.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: Kind = "vector"

    def __post_init__(self) -> None:
        """Check that shape, type and kind match."""
        axes, types = {"vector": (1, "floating-point"), "image": (3, "uint8")}.get(self.kind, (0, ""))
        if not axes:
            raise OtprError(f"An observation entry is a vector or an image, given {self.kind!r}.")
        fits = (
            self.dtype == "uint8" if self.kind == "image" else self.dtype in ("float16", "float32", "float64")
        )
        if len(self.shape) != axes or not all(type(n) is int and n >= 1 for n in self.shape) or not fits:
            raise OtprError(
                f"An observation entry of kind {self.kind} has {axes} axes of at least 1 and is {types}; "
                f"given shape {self.shape} of {self.dtype}."
            )

    def __str__(self) -> str:
        """E.g. "vector (39,) float32"."""
        return f"{self.kind} {self.shape} {self.dtype}"


@dataclasses.dataclass(frozen=True)
class Spec:
    """The observations and actions of a task, a data set or a policy.

    Every dimension of an action is in [-1, 1]. `action_low` and `action_high` are the bounds in the
    environment's own units that -1 and 1 stand for.

    Attributes:
        observation: entries by name, in alphabetical order, which is the order of encoding.
        action_low: the environment's lower bounds, one for each dimension of the action.
        action_high: the environment's upper bounds.
        control_rate: actions per second, in Hz; None where unknown.
        history: number of observations that a decision sees, the current one included.
        horizon: number of actions in a plan.
        execute: number of actions that are executed before the next decision.
        offset: number of actions at the start of a plan that belong to past steps. They are predicted, as in
            diffusion_policy, but never executed; the next `execute` actions, at most `horizon - offset`, are.

    Tasks and data sets have `history`, `horizon` and `execute` 1 and `offset` 0.

    Raises:
        OtprError: there is no entry, or a number is out of range.
    """

    observation: Mapping[str, Entry]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_rate: float | None = None
    history: int = 1
    horizon: int = 1
    execute: int = 1
    offset: int = 0

    def __post_init__(self) -> None:
        """Sort the entries and check all numbers."""
        object.__setattr__(self, "observation", dict(sorted(self.observation.items())))
        object.__setattr__(self, "action_low", tuple(float(x) for x in self.action_low))
        object.__setattr__(self, "action_high", tuple(float(x) for x in self.action_high))
        if not self.observation:
            raise OtprError("A spec needs at least one observation entry.")
        bounds = list(zip(self.action_low, self.action_high, strict=False))
        if not bounds or len(self.action_low) != len(self.action_high):
            raise OtprError(
                f"A spec needs a lower and an upper bound for each dimension of the action; given "
                f"{len(self.action_low)} and {len(self.action_high)}."
            )
        if bad := [(low, high) for low, high in bounds if not -math.inf < low < high < math.inf]:
            raise OtprError(
                f"Action bounds must be finite, low below high; given {bad[0][0]:g} and {bad[0][1]:g}."
            )
        for name in ("history", "horizon", "execute"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise OtprError(
                    f"{name} must be a whole number of at least 1, given {getattr(self, name)!r}."
                )
        if type(self.offset) is not int or self.offset < 0:
            raise OtprError(f"offset must be a whole number of at least 0, given {self.offset!r}.")
        if self.execute > self.horizon - self.offset:
            less = f" less offset ({self.offset})" if self.offset else ""
            raise OtprError(
                f"execute ({self.execute}) must not exceed horizon ({self.horizon}){less}, the actions of a "
                "plan."
            )
        if self.control_rate is not None and not 0 < self.control_rate < math.inf:
            raise OtprError(f"control_rate must be a positive number of Hz, given {self.control_rate}.")
        # computed once, because compiled functions look it up at every call
        others = (getattr(self, field.name) for field in dataclasses.fields(self)[1:])
        object.__setattr__(self, "_hash", hash((tuple(self.observation.items()), *others)))

    def __hash__(self) -> int:
        """A hash of the fields that `==` compares."""
        return cast(int, getattr(self, "_hash"))  # noqa: B009 - no field, so that it is not compared

    @classmethod
    def flat(cls, observation_dim: int, action_dim: int, **others: Any) -> Self:
        """A spec with one vector entry, "state", and action bounds of [-1, 1]."""
        bounds = ((-1.0,) * action_dim, (1.0,) * action_dim)
        return cls({STATE: Entry((observation_dim,))}, *bounds, **others)

    @property
    def action_dim(self) -> int:
        """Number of dimensions of one action."""
        return len(self.action_low)

    @property
    def chunk_dim(self) -> int:
        """Length of a chunk: the executed part of a plan, flattened."""
        return self.execute * self.action_dim

    @property
    def executed(self) -> slice:
        """The slice of a plan that is executed."""
        return slice(self.offset, self.offset + self.execute)

    @property
    def spare(self) -> int:
        """Number of actions in a plan after the executed ones."""
        return self.horizon - self.offset - self.execute

    @property
    def only_vector(self) -> str | None:
        """The name of the only entry if there is just one and it is a vector; otherwise None."""
        if len(self.observation) > 1:
            return None
        ((name, entry),) = self.observation.items()
        return name if entry.kind == "vector" else None

    @property
    def vectors(self) -> dict[str, Entry]:
        """The entries that are vectors."""
        return {name: entry for name, entry in self.observation.items() if entry.kind == "vector"}

    @property
    def images(self) -> dict[str, Entry]:
        """The entries that are images."""
        return {name: entry for name, entry in self.observation.items() if entry.kind == "image"}

    def of_task(self) -> Spec:
        """The spec of the task: `history`, `horizon` and `execute` 1, `offset` 0."""
        return dataclasses.replace(self, history=1, horizon=1, execute=1, offset=0)

    # ----------------------------------------------------------------------------------------- comparison

    def differences(self, other: Spec) -> list[str]:
        """The differences, one line each, this spec's value first: "action dimensions: 4 against 7".

        The floating-point types of vectors are not compared, because observations are converted to the
        policy's type.
        """
        return [
            f"{name}: {mine} against {theirs}" for name, mine, theirs in self._pairs(other) if mine != theirs
        ]

    def _pairs(self, other: Spec) -> Iterator[tuple[str, str, str]]:
        for name in sorted({*self.observation, *other.observation}):
            mine, theirs = (spec.observation.get(name) for spec in (self, other))
            if mine is None or theirs is None or (mine.shape, mine.kind) != (theirs.shape, theirs.kind):
                yield f"observation {name!r}", str(mine or "nothing"), str(theirs or "nothing")
        yield "action dimensions", str(self.action_dim), str(other.action_dim)
        if self.action_dim == other.action_dim:
            yield "action bounds", _bounds(self), _bounds(other)
        if self.control_rate is not None and other.control_rate is not None:
            yield "control rate", f"{self.control_rate:g} Hz", f"{other.control_rate:g} Hz"
        for name in ("history", "horizon", "execute", "offset"):
            yield name, str(getattr(self, name)), str(getattr(other, name))

    def check(self, other: Spec, mine: str, theirs: str, hint: str) -> None:
        """Check that two specs fit together.

        Args:
            other: the other spec. Control rates are compared only if both are known.
            mine: what this spec belongs to, e.g. "the policy in runs/base".
            theirs: what the other belongs to.
            hint: a sentence that says what to do.

        Raises:
            OtprError: lists every entry that differs, with both sides.
        """
        if lines := self.differences(other):
            listed = "".join(f"\n  {line}" for line in lines)
            raise OtprError(f"{mine} and {theirs} do not fit together (in this order):{listed}\n{hint}")

    # ------------------------------------------------------------------------------------- as JSON, in words

    def to_json(self) -> dict[str, Any]:
        """The spec as a JSON document for `from_json`; an offset of 0 is left out."""
        document = json_ready(dataclasses.asdict(self))
        if not self.offset:
            del document["offset"]
        return document

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """The spec from a document of `to_json`.

        Raises:
            ValueError: the document is not valid; the message names the field.
        """
        if not isinstance(document, dict):
            raise ValueError(f"the spec is {document!r}")
        fields = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {"offset": 0, **cast(dict[str, Any], document)}
        if odd := sorted(fields ^ set(given)):
            raise ValueError(f"the spec's fields and those known differ by {odd[0]!r}")
        try:
            entries = {
                str(name): Entry(tuple(entry["shape"]), entry["dtype"], entry["kind"])
                for name, entry in given["observation"].items()
            }
            bounds = tuple(given["action_low"]), tuple(given["action_high"])
            others = {name: given[name] for name in fields - {"observation", "action_low", "action_high"}}
            return cls(entries, *bounds, **others)
        except (KeyError, TypeError, AttributeError, OtprError) as error:
            raise ValueError(f"the spec cannot be read: {error}") from error

    def lines(self) -> list[str]:
        """A description for people, one line per item. The plan is left out where all its numbers are 1."""
        rate = "unknown" if self.control_rate is None else f"{self.control_rate:g} Hz"
        entries = [f"observation   {name}: {entry}" for name, entry in self.observation.items()]
        plan = [
            f"history       {self.history}",
            f"horizon       {self.horizon}",
            f"execute       {self.execute}" + (f", after the first {self.offset}" if self.offset else ""),
        ]
        return [
            *entries,
            f"action        {self.action_dim} dimensions, bounds {_bounds(self)}",
            f"control rate  {rate}",
            *(plan if self != self.of_task() else []),
        ]


def vector_type(*given: Any) -> str:
    """The type of a vector entry for numbers of the given types: float64 where float32 would round."""
    return "float64" if np.result_type(np.float32, *given).itemsize > 4 else "float32"


def json_ready(value: Any) -> Any:
    """Convert tuples to lists at any depth, as a JSON round trip does."""
    if isinstance(value, Mapping):
        return {name: json_ready(inner) for name, inner in cast(Mapping[str, Any], value).items()}
    if isinstance(value, list | tuple):
        return [json_ready(inner) for inner in cast("list[Any]", value)]
    return value


def _bounds(spec: Spec) -> str:
    pairs = list(zip(spec.action_low, spec.action_high, strict=True))
    if len(set(pairs)) == 1:
        return f"[{pairs[0][0]:g}, {pairs[0][1]:g}]"
    return " ".join(f"[{low:g}, {high:g}]" for low, high in pairs)


def zeros(entries: Mapping[str, Entry], *leading: int) -> dict[str, np.ndarray]:
    """Observations of zeros; each entry has the given leading axes before its own."""
    return {name: np.zeros((*leading, *entry.shape), entry.dtype) for name, entry in entries.items()}
