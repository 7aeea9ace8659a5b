"""Errors meant for people, and the nearest right name for a misspelt one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


class OtprError(Exception):
    """An error that the user can fix. The message says what was given, what was expected and what to do.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling between processes, whatever arguments a subclass's constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[OtprError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> OtprError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


def check_at_least(least: float, settings: object, *fields: str) -> None:
    """Check that fields of `settings` are finite and at least `least`.

    Raises:
        OtprError: names the first such field and what it was given.
    """
    for field in fields:
        value = getattr(settings, field)
        if not (math.isfinite(value) and value >= least):
            raise OtprError(f"{field} must be at least {least:g}, given {value}.")


def check_seed(seed: int) -> None:
    """Check that a seed is in [0, 2**31): NumPy takes no negative seed, and JAX none above the range."""
    if not 0 <= seed < 2**31:
        raise OtprError(f"The seed must be in [0, 2**31), given {seed}.")


def unknown_name(kind: str, given: str, known: Iterable[str]) -> OtprError:
    """An error for a name that is not in `known`; the message suggests the nearest names.

    Args:
        kind: what the name denotes, e.g. `"task"`.
        given: the name as it was typed.
        known: all valid names.
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    if near:
        hint = "Did you mean " + " or ".join(repr(name) for name in near) + "?"
    elif len(names) <= 12:
        hint = "Known: " + ", ".join(names) + "."
    else:
        hint = (
            f"{len(names)} are known, from {names[0]!r} to {names[-1]!r}; `otpr info SUITE` lists tasks, "
            "`--help` lists settings."
        )
    return OtprError(f"Unknown {kind} {given!r}. {hint}")
