"""The algorithms, each a module or a package. Everything in this package except `parts` is an algorithm.

Each defines `AGENT`, a subclass of `otpr.agents.parts.agent.Agent`, and `PRESETS`, named settings that
include "default".
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from otpr.errors import OtprError, unknown_name

if TYPE_CHECKING:
    from otpr.agents.parts.agent import Agent, AgentConfig

__all__ = ["agent_class", "agent_config", "algorithm_names", "check_only_chooses", "preset_names"]


def algorithm_names() -> tuple[str, ...]:
    """The names of all algorithms, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "parts"))


def preset_names(algorithm: str) -> tuple[str, ...]:
    """The names of an algorithm's presets, for `agent_config`."""
    return tuple(_presets(algorithm))


def agent_class(algorithm: str) -> type[Agent]:
    """The class of an algorithm.

    Raises:
        OtprError: there is no such algorithm; the message suggests the nearest name.
    """
    return cast("type[Agent]", _module(algorithm).AGENT)


def agent_config(algorithm: str, preset: str = "default", changes: Sequence[str] = ()) -> AgentConfig:
    """The settings of a preset, with individual fields changed.

    Args:
        algorithm: the algorithm's name.
        preset: a name in its `PRESETS`.
        changes: strings "field=value".

    Raises:
        OtprError: the algorithm, the preset or a field is unknown (the message suggests the nearest name), or
            a value does not fit its field.
    """
    from otpr.agents.parts.settings import changed

    presets = _presets(algorithm)
    if preset not in presets:
        raise unknown_name(f"preset of {algorithm}", preset, presets)
    return changed(presets[preset], changes)


def check_only_chooses(algorithm: str) -> None:
    """Check that an algorithm works with an external policy (`otpr.policies.asked`).

    Raises:
        OtprError: the algorithm trains the policy, or samples it in states other than those of decisions; the
            message lists the suitable algorithms.
    """
    if not agent_config(algorithm).only_chooses:
        can = [name for name in algorithm_names() if agent_config(name).only_chooses]
        raise OtprError(
            f"{algorithm} needs a policy that it can train or sample itself, and this one only answers. Take "
            f"an algorithm that does with choosing among its plans: {', '.join(can)} (docs/serving.md)."
        )


def _presets(algorithm: str) -> Mapping[str, AgentConfig]:
    return cast("Mapping[str, AgentConfig]", _module(algorithm).PRESETS)


def _module(algorithm: str) -> Any:
    if algorithm not in algorithm_names():
        raise unknown_name("algorithm", algorithm, algorithm_names())
    return importlib.import_module(f"{__name__}.{algorithm}")
