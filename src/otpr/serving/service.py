"""Requests to a served policy and its replies, independent of the transport.

Requests are independent: the service keeps no state between them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

import otpr
from otpr.errors import OtprError
from otpr.policies import files
from otpr.policies.acting import act_key, checked_actions, checked_observation
from otpr.policies.loading import load_policy, policy_meaning, policy_task, policy_view
from otpr.policies.policy import Policy
from otpr.policies.units import in_units, to_unit
from otpr.serving.messages import MessageError, unpack
from otpr.spec import Entry, Spec, zeros
from otpr.storage import SEAL

CONTROLS = ("seed", "budget_ms", "prefix", "plans")
"""Fields of a request that are not part of the observation."""

PLANS = 256
"""The most plans that a request may ask for."""

UNUSED = ("prompt",)
"""Fields of openpi's clients that no policy here uses. They are accepted and listed in the metadata."""

PREFIX = "observation/"
"""The prefix of openpi's names of observation entries."""


class Refused(ValueError):  # noqa: N818 - what the client is told
    """An invalid request. The text says what was given and what was expected."""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request whose form has been checked. The policy checks its numbers.

    Attributes:
        observation: by entry name, each with an axis for `history` if that is more than 1.
        seed: seed of the draw; None: the service chooses one.
        budget: seconds from its arrival within which the choice among candidates should end; None: no limit.
        prefix: actions in [-1, 1] that will be executed until the reply arrives; None: none.
        plans: number of plans requested instead of actions; None: actions are requested.
    """

    observation: dict[str, NDArray[Any]]
    seed: int | None
    budget: float | None
    prefix: NDArray[np.float64] | None
    plans: int | None


class Service:
    """Answers requests with a policy. Safe to call from several threads.

    Args:
        policy: the policy.
        about: further metadata: the task, the checksum and the like.

    Raises:
        OtprError: an entry of its observation has the name of another field of a request.

    Attributes:
        metadata: the first message to a client; docs/serving.md lists the entries.
        largest: size of the largest accepted message, in bytes.
    """

    def __init__(self, policy: Policy, about: Mapping[str, Any]):
        self.policy = policy
        self._names = _names(policy.spec)
        self.largest = 2**20 + policy.spec.history * sum(map(_bytes, policy.spec.observation.values()))
        self.metadata = {
            "server": "otpr",
            "version": otpr.__version__,
            **about,
            "spec": policy.spec.to_json(),
            "names": {
                name: [key for key, entry in self._names.items() if entry == name]
                for name in policy.spec.observation
            },
            "actions": {
                "shape": [policy.spec.execute, policy.spec.action_dim],
                "low": list(policy.spec.action_low),
                "high": list(policy.spec.action_high),
            },
            "candidates": policy.candidates,
            "unused": list(UNUSED),
            "largest_message": self.largest,
        }

    @classmethod
    def of(cls, path: Path) -> Self:
        """A service with the policy in a folder, or in the folder of a run.

        Raises:
            OtprError: there is no policy, or its files are damaged or of a later format.
        """
        policy, where = load_policy(path), files.folder(path)
        meaning = policy_meaning(path)
        seal = where / SEAL
        about = {
            "policy": path.name,
            "task": policy_task(path),
            "view": policy_view(path),
            "checksum": hashlib.sha256(seal.read_bytes()).hexdigest() if seal.is_file() else None,
            **{name: meaning[name] for name in ("parts", "facts", "bounds_stated")},
        }
        return cls(policy, about)

    @property
    def expected(self) -> str:
        """A sentence that describes a valid request."""
        spec = self.policy.spec
        last = f", the last {spec.history} of each, oldest first, or one for all" if spec.history > 1 else ""
        entries = ", ".join(f"{name!r} ({entry})" for name, entry in spec.observation.items())
        return (
            f"Expected: a msgpack map of {entries}{last}; and, where wanted, 'seed' (a whole number of at "
            "least 0), 'budget_ms' (a number above 0) and 'prefix' (actions), or, in place of these two, "
            f"'plans' (a whole number in 1..{PLANS})."
        )

    def warm(self) -> None:
        """Compile all programs that requests for actions need, which takes seconds.

        A request for plans compiles its own at the first of each power of two.
        """
        spec = self.policy.spec
        rows = zeros(spec.observation, *(() if spec.history == 1 else (spec.history,)))
        ways: list[dict[str, Any]] = [{}]
        if spec.spare:
            ways.append({"prefix": np.zeros((1, spec.action_dim))})
        for way in ways:
            self.policy.act(rows, 0, **way)
            self.policy.act(rows, 0, **way, budget_seconds=math.inf)

    def answer(self, message: bytes | str, arrived: float) -> dict[str, Any]:
        """Answer a request.

        Args:
            message: the binary or text message.
            arrived: time of arrival, by `time.perf_counter`.

        Returns:
            A message with actions, (execute, action_dim) float64 in the environment's own units, or plans,
            (n, horizon, action_dim), if they were requested; seed, that of the draw; and server_timing, the
            milliseconds of waiting for other requests and of the policy.

        Raises:
            Refused: the request is not valid for this policy.
            OtprError: the policy's weights are not finite.
        """
        begun = time.perf_counter()
        try:
            request = self.request(message)
            seed = secrets.randbits(32) if request.seed is None else request.seed
            left = None if request.budget is None else request.budget - (time.perf_counter() - arrived)
            if request.plans is None:
                name, actions = "actions", self._act(request, seed, left)
            else:
                name, actions = "plans", self._plans(request, seed, request.plans)
        except ValueError as error:
            raise Refused(f"{error}\n{self.expected}") from error
        ended = time.perf_counter()
        return {
            name: in_units(actions, self.policy.spec),
            "seed": seed,
            "server_timing": {"wait_ms": 1e3 * (begun - arrived), "infer_ms": 1e3 * (ended - begun)},
        }

    def _act(self, request: Request, seed: int, left: float | None) -> NDArray[np.float32]:
        return self.policy.act(request.observation, seed, prefix=request.prefix, budget_seconds=left)

    def _plans(self, request: Request, seed: int, n: int) -> NDArray[np.float32]:
        """Draw plans, (n, horizon, action_dim) in [-1, 1], without a choice among them."""
        seen = checked_observation(request.observation, self.policy.spec)
        keys = act_key(seed)[None]
        several = {name: entry[None] for name, entry in seen.items()}
        # each number compiles its own program, so only powers of two are used
        drawn = self.policy.propose(several, keys, 1 << (n - 1).bit_length())
        return checked_actions(np.asarray(drawn[0, :n]))

    def request(self, message: bytes | str) -> Request:
        """Parse a message as a request.

        Raises:
            ValueError: the message is not a valid request; the text says why.
        """
        if isinstance(message, str):
            raise ValueError("The message is a text; requests are binary messages.")
        try:
            given = unpack(message)
        except MessageError as error:
            raise ValueError(f"The message cannot be read: {error}.") from error
        if not isinstance(given, dict):
            raise ValueError(f"The message is {type(given).__name__}, not a map.")
        fields = cast(dict[Any, Any], given)
        prefix = fields.get("prefix")
        if prefix is not None:
            prefix = _prefix(prefix, self.policy.spec)
        plans = _count(fields.get("plans"))
        of_actions = [name for name in ("prefix", "budget_ms") if fields.get(name) is not None]
        if plans is not None and of_actions:
            raise ValueError(
                f"The request has 'plans' and {of_actions[0]!r}, which is for actions. Send one."
            )
        return Request(
            self._observation(fields),
            fields.get("seed"),
            _seconds(fields.get("budget_ms")),
            prefix,
            plans,
        )

    def _observation(self, fields: Mapping[Any, Any]) -> dict[str, NDArray[Any]]:
        """The entries of a request's observation by their names in the spec."""
        spec = self.policy.spec
        found: dict[str, NDArray[Any]] = {}
        for key, value in fields.items():
            if key in CONTROLS or key in UNUSED:
                continue
            name = self._names.get(key) if isinstance(key, str) else None
            if name is None:
                raise ValueError(f"The request has an entry {key!r:.80}, which this policy does not know.")
            if name in found:
                raise ValueError(f"The request has the entry {name!r} twice, under two names.")
            found[name] = _numbers(f"observation entry {name!r}", value)
        if missing := [name for name in spec.observation if name not in found]:
            raise ValueError(f"The request lacks the observation entry {missing[0]!r}.")
        once = all(found[name].shape == entry.shape for name, entry in spec.observation.items())
        if spec.history > 1 and once:
            return {name: np.stack([seen] * spec.history) for name, seen in found.items()}
        return found


def _prefix(given: Any, spec: Spec) -> NDArray[np.float64]:
    """Map actions from the environment's own units to [-1, 1]; other shapes are returned unchanged."""
    actions = _numbers("prefix", given)
    if actions.ndim != 2 or actions.shape[1] != spec.action_dim:
        return actions
    unit = to_unit(actions, spec)
    if not (np.abs(unit) <= 1 + 1e-6).all():
        low, high = list(spec.action_low), list(spec.action_high)
        raise ValueError(f"prefix is not finite, or leaves the bounds: {low} to {high}.")
    return unit


def _seconds(budget: Any) -> float | None:
    """Convert a request's budget from milliseconds to seconds."""
    if budget is None:
        return None
    if isinstance(budget, bool) or not isinstance(budget, int | float | np.number):
        raise ValueError(f"budget_ms is {type(budget).__name__}, not a number.")
    seconds = float(cast(Any, budget)) / 1e3
    if not 0 < seconds < math.inf:
        raise ValueError(f"budget_ms is {1e3 * seconds:g}; it must be above 0 and finite.")
    return seconds


def _count(plans: Any) -> int | None:
    """The number of requested plans."""
    if plans is None:
        return None
    if isinstance(plans, bool) or not isinstance(plans, int | np.integer) or not 1 <= plans <= PLANS:
        raise ValueError(f"plans is {plans!r:.40}, not a whole number in 1..{PLANS}.")
    return int(cast(Any, plans))


def _names(spec: Spec) -> dict[str, str]:
    """Entry names by the names that a request may use for them."""
    if taken := [name for name in spec.observation if name in (*CONTROLS, *UNUSED)]:
        raise OtprError(
            f"The policy's observation has an entry {taken[0]!r}, which is another field of a request; such "
            "a policy cannot be served. Give the entry another name in the environment."
        )
    names: dict[str, str] = {}
    for kind, name in (("state", spec.vectors), ("image", spec.images)):
        if len(name) == 1:
            names[PREFIX + kind] = next(iter(name))
    # an entry's own name comes last, so that it overrides aliases
    names |= {PREFIX + name: name for name in spec.observation}
    return names | {name: name for name in spec.observation}


def _numbers(what: str, value: Any) -> NDArray[Any]:
    """An array of numbers, whose shape the policy checks."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{what} is no array: {error}.") from error
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{what} is of type {array.dtype}, not of numbers.")
    return array


def _bytes(entry: Entry) -> int:
    """The size of one observation's entry in the largest type, in bytes."""
    return math.prod(entry.shape) * (1 if entry.kind == "image" else 8)
