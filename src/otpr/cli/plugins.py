"""Commands of other packages, found by entry points; `otpr_bench` has those of benchmarks and reports."""

from __future__ import annotations

from importlib import metadata
from typing import Any

GROUP = "otpr.commands"


def plugins() -> dict[str, metadata.EntryPoint]:
    """The installed commands by name."""
    return {point.name: point for point in sorted(metadata.entry_points(group=GROUP))}


def plugin(name: str) -> Any | None:
    """The class of a command, or None if no installed package has it."""
    point = plugins().get(name)
    return None if point is None else point.load()
