"""DPPO and its own parts."""

from __future__ import annotations

from typing import Any

from otpr.agents.dppo.tuned_diffusion import TunedDiffusion

__all__ = ["AGENT", "GENERATORS", "PRESETS"]  # pyright: ignore[reportUnsupportedDunderAll]

GENERATORS = {TunedDiffusion.kind: TunedDiffusion}


def __getattr__(name: str) -> Any:
    # deferred, so that a policy with two networks loads without the algorithm and its data
    if name in ("AGENT", "PRESETS"):
        from otpr.agents.dppo import agent

        return getattr(agent, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
