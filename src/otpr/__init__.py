"""OTPR: fine-tune a diffusion policy by reinforcement learning with masked optimal transport, in JAX."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otpr.policies.loading import load_policy
    from otpr.spec import Spec

__all__ = ["Spec", "__version__", "load_policy"]

__version__ = metadata.version("otpr")


def __getattr__(name: str) -> object:
    # Deferred, so that `import otpr` does not import JAX: the command line answers `--help` at once.
    if name == "load_policy":
        from otpr.policies.loading import load_policy

        return load_policy
    if name == "Spec":
        from otpr.spec import Spec

        return Spec
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
