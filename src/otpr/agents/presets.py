"""Named settings of OTPR. docs/fidelity.md says where each comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

from otpr.agents.otpr import OTPRConfig
from otpr.errors import OtprError, unknown_name

PRESETS: dict[str, OTPRConfig] = {
    # what measured best here
    "default": OTPRConfig(),
    # the method as the paper states it: score matching over the product measure, keypoints masked, every
    # replayed chunk in the action marginal
    "paper": OTPRConfig(
        expectile=0.8,
        return_bound=False,
        pairing="product",
        target_measure="replay",
        guiding_share=0.5,
        acting_guiding_share=0.5,
        keypoint_share=0.1,
        candidates=10,
    ),
    # what the authors' code would do if it ran
    "release": OTPRConfig(
        expectile=0.8,
        target_rate=0.001,
        return_bound=False,
        demonstration_share=0.0,
        pairing="imitation",
        target_measure="replay",
        candidates=10,
        guiding_share=1.0,
        acting_guiding_share=0.0,
        keypoint_share=0.5,
        warm_start=False,
        ot_block=512,
        ot_blocks=1,
        ot_batch=128,
        potentials_learning_rate=1e-5,
        dual_steps=1000,
    ),
}


def agent_config(preset: str, changes: Sequence[str] = ()) -> OTPRConfig:
    """The settings of a preset, with single fields changed.

    Args:
        preset: a name in `PRESETS`.
        changes: strings "field=value".

    Raises:
        OtprError: the preset or a field is unknown (the message has the nearest name), or a value does not
        fit its field.
    """
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    values: dict[str, Any] = {}
    hints = get_type_hints(OTPRConfig)
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise OtprError(f"--set takes field=value, given {change!r}.")
        if name not in hints:
            raise unknown_name("field", name, hints)
        values[name] = _parse(name, text, hints[name])
    try:
        return dataclasses.replace(PRESETS[preset], **values)
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
