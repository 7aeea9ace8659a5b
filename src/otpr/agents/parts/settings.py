"""Settings of algorithms: fields with ranges, and changes by strings "field=value"."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast, get_args, get_type_hints

from otpr.errors import OtprError, unknown_name

Config = TypeVar("Config")
"""Settings of an algorithm: a frozen dataclass."""

Check = tuple[str, Callable[[Any], bool]]
"""A range: its description, which follows "must" in a message, and its test."""


def _field(default: Any, check: Check) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def count(default: int, least: int = 1) -> Any:
    """A whole number of at least `least`."""
    return _field(default, (f"be at least {least}", lambda value: value >= least))


def positive(default: float) -> Any:
    """A finite number above 0."""
    return _field(default, ("be a positive number", lambda value: 0 < value < math.inf))


def at_least_zero(default: float) -> Any:
    """A finite number of at least 0."""
    return _field(default, ("be a number >= 0", lambda value: 0 <= value < math.inf))


def share(default: float) -> Any:
    """A number in [0, 1]."""
    return _field(default, ("lie in [0, 1]", lambda value: 0 <= value <= 1))


def rate(default: float) -> Any:
    """A number in (0, 1]."""
    return _field(default, ("lie in (0, 1]", lambda value: 0 < value <= 1))


def between(default: float) -> Any:
    """A number in (0, 1)."""
    return _field(default, ("lie in (0, 1)", lambda value: 0 < value < 1))


def check_settings(settings: Any) -> None:
    """Check that values are in the ranges of their fields.

    Raises:
        ValueError: a value is out of range; the message names the first such field.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if (check := field.metadata.get("check")) is not None and not check[1](value):
            raise ValueError(f"{field.name} must {check[0]}, got {value}.")


def changed(config: Config, changes: Sequence[str]) -> Config:
    """Settings with individual fields changed.

    Args:
        config: the settings to change.
        changes: strings "field=value".

    Raises:
        OtprError: a field is unknown (the message suggests the nearest name), or a value does not fit its
            field.
    """
    values: dict[str, Any] = {}
    settings, hints = cast(Any, config), get_type_hints(type(config))
    fields = {field.name: hints[field.name] for field in dataclasses.fields(settings)}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise OtprError(f"--set takes field=value, given {change!r}.")
        if name not in fields:
            raise unknown_name("field", name, fields)
        values[name] = _parse(name, text, fields[name])
    try:
        return dataclasses.replace(settings, **values)
    except ValueError as error:
        raise OtprError(f"--set: {error}") from error


def _parse(name: str, text: str, kind: Any) -> Any:
    if choices := get_args(kind):  # a Literal
        if text not in choices:
            raise unknown_name(f"value of {name}", text, choices)
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise OtprError(f"{name} must be true or false, given {text!r}.")
        return text == "true"
    try:
        return kind(text)
    except ValueError:
        raise OtprError(f"{name} must be of type {kind.__name__}, given {text!r}.") from None
