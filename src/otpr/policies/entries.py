"""Checks of the entries of a policy's document, made before anything is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from otpr.policies.generators import Entry


def check_entries(name: str, value: Any, entries: Mapping[str, Entry]) -> None:
    """Check the values of a document's entries.

    Args:
        name: the value's path from the top of the document: "generator.network.width".
        value: an entry or a nested object of entries.
        entries: the types of entries by name; all other entries are counts.

    Raises:
        ValueError: a value is not valid; the message names the entry.
    """
    if isinstance(value, dict):
        for key, inner in cast(dict[str, Any], value).items():
            check_entries(f"{name}.{key}", inner, entries)
        return
    last = name.rpartition(".")[2]
    if not _is(entries.get(last), last, value):
        raise ValueError(f"{name} is {value!r}")


def _is(entry: Entry | None, name: str, value: Any) -> bool:
    if entry in ("optional count", "optional number", "optional size") and value is None:
        return True
    if entry in ("numbers", "counts", "optional size"):
        inner: Entry | None = "number" if entry == "numbers" else None
        given = (
            cast(list[Any], value) if isinstance(value, list) and len(cast(list[Any], value)) <= 16 else [""]
        )
        return all(_is(inner, name, each) for each in given)
    if entry in ("number", "optional number"):
        return type(value) in (int, float) and abs(value) <= 1e9
    if entry == "flag":
        return type(value) is bool
    if entry == "name":
        return type(value) is str and len(value) <= 64
    # limited, because depth, members and noise levels are built before the weights confirm their number
    largest = 10_000 if name in ("depth", "denoising_steps", "size", "down_dims", "widths") else 1_000_000
    return type(value) is int and (0 if name == "depth" else 1) <= value <= largest
