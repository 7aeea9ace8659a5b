"""OTPR and its own parts."""

from __future__ import annotations

from typing import Any

from otpr.agents.otpr.compatibility import Compatibility

__all__ = ["AGENT", "CHOOSERS", "PRESETS"]  # pyright: ignore[reportUnsupportedDunderAll]

CHOOSERS = {Compatibility.kind: Compatibility}


def __getattr__(name: str) -> Any:
    # deferred, so that a policy with a compatibility chooser loads without the algorithm and its data
    if name in ("AGENT", "PRESETS"):
        from otpr.agents.otpr import agent

        return getattr(agent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
