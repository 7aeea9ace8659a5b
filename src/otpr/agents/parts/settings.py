"""Settings from names and from strings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from otpr.agents.parts.agent import AgentConfig
from otpr.errors import OtprError, unknown_name

Config = TypeVar("Config", bound=AgentConfig)


def changed(config: Config, changes: Sequence[str]) -> Config:
    """Settings with single fields changed.

    Args:
        config: where the other fields come from.
        changes: strings "field=value".

    Raises:
        OtprError: a field is unknown (the message has the nearest name), or a value does not fit its field.
    """
    values: dict[str, Any] = {}
    hints = get_type_hints(type(config))
    fields = {field.name: hints[field.name] for field in dataclasses.fields(config)}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise OtprError(f"--set takes field=value, given {change!r}.")
        if name not in fields:
            raise unknown_name("field", name, fields)
        values[name] = _parse(name, text, fields[name])
    try:
        return dataclasses.replace(config, **values)
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
