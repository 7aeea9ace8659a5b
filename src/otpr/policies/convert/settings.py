"""Settings of another library's policy, read by name; settings that are never read are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from otpr.errors import OtprError

NEEDED: Any = object()
"""Marks a setting without a default."""


class Settings:
    """An object within a configuration.

    Args:
        place: the file and the path to the object, for errors: "policy.pt: policy.".
        given: the object.

    Raises:
        OtprError: in each method, if an entry is missing and has no default, or has another type or value
            than requested; the message names it.
    """

    def __init__(self, place: str, given: Any):
        self.place = place
        if not isinstance(given, Mapping):
            raise OtprError(f"{place.rstrip('.')} is {str(given)[:80]!r}, expected an object with entries.")
        self.given = cast(Mapping[str, Any], given)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = NEEDED) -> Any:
        """Read an entry of any type."""
        self.asked.add(name)
        if name in self.given:
            return self.given[name]
        if default is NEEDED:
            raise OtprError(f"{self.place}{name} is missing.")
        return default

    def part(self, name: str) -> Settings:
        """Read an object within this one."""
        return Settings(f"{self.place}{name}.", self.get(name))

    def count(self, name: str, default: Any = NEEDED, least: int = 1) -> int:
        """Read a whole number."""
        value = self.get(name, default)
        self._check(name, value, _is_count(value, least), f"a whole number of at least {least}")
        return value

    def counts(self, name: str, default: Any = NEEDED) -> tuple[int, ...]:
        """Read a non-empty list of whole numbers."""
        value = self.get(name, default)
        fits = isinstance(value, list | tuple) and bool(cast("list[Any]", value))
        fits = fits and all(_is_count(x, 1) for x in value)
        self._check(name, value, fits, "a list of whole numbers of at least 1")
        return tuple(value)

    def number(self, name: str, default: Any = NEEDED) -> float:
        """Read a finite number above 0."""
        value = self.get(name, default)
        fits = type(value) in (int, float) and math.isfinite(value) and value > 0
        self._check(name, value, fits, "a number above 0")
        return float(value)

    def flag(self, name: str, default: Any = NEEDED) -> bool:
        """Read true or false."""
        value = self.get(name, default)
        self._check(name, value, isinstance(value, bool), "true or false")
        return value

    def one_of(self, name: str, known: Sequence[Any], default: Any = NEEDED) -> Any:
        """Read one of several values."""
        value = self.get(name, default)
        # types are compared too: 1 is not true
        fits = any(value == x and type(value) is type(x) for x in known)
        self._check(
            name, value, fits, f"one of {', '.join(map(repr, known))}" if known[1:] else repr(known[0])
        )
        return value

    def ignore(self, *names: str) -> None:
        """Skip entries that do not change what the policy computes."""
        self.asked.update(names)

    def done(self) -> None:
        """Refuse entries that were not read.

        Raises:
            OtprError: there are such entries; the message names the first.
        """
        if odd := sorted(name for name in self.given if name not in self.asked):
            raise OtprError(
                f"{self.place}{odd[0]} is {str(self.given[odd[0]])[:80]!r}, which is not supported: what it "
                "changes in the policy would be lost."
            )

    def _check(self, name: str, value: Any, fits: bool, expected: str) -> None:
        if not fits:
            raise OtprError(f"{self.place}{name} is {str(value)[:80]!r}; {expected} is supported.")


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and least <= value <= 1_000_000
