from __future__ import annotations

import dataclasses

import pytest

from otpr.agents import agent_config, algorithm_names, preset_names
from otpr.agents.otpr.agent import PRESETS
from otpr.errors import OtprError


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_without_changes_is_itself(preset: str):
    assert agent_config("otpr", preset) == PRESETS[preset]


@pytest.mark.parametrize("preset", PRESETS)
def test_changed_fields_change_and_no_others(preset: str):
    config = agent_config("otpr", preset, ["gamma=0.5", "candidates=3", "pairing=product"])
    expected = dataclasses.replace(PRESETS[preset], gamma=0.5, candidates=3, pairing="product")
    assert config == expected
    assert type(config.candidates) is int


def test_value_may_hold_an_equals_sign():
    with pytest.raises(OtprError, match="given '3=4'"):
        agent_config("otpr", "default", ["candidates=3=4"])


@pytest.mark.parametrize(
    ("preset", "change", "message"),
    [
        ("defautl", "gamma=0.5", "Unknown preset of otpr 'defautl'. Did you mean 'default'?"),
        ("default", "gama=0.5", "Unknown field 'gama'. Did you mean 'gamma'?"),
        ("default", "gamma", "--set takes field=value, given 'gamma'."),
        ("default", "gamma=much", "gamma must be of type float, given 'much'."),
        ("default", "candidates=1.5", "candidates must be of type int, given '1.5'."),
        ("default", "pairing=prodct", "Unknown value of pairing 'prodct'. Did you mean 'product'?"),
    ],
)
def test_fault_is_named_with_the_nearest_right_name(preset: str, change: str, message: str):
    with pytest.raises(OtprError) as caught:
        agent_config("otpr", preset, [change])
    assert str(caught.value).startswith(message)


def test_presets_that_are_promised_exist_and_differ():
    assert PRESETS.keys() >= {"default", "paper", "release"}
    assert len(set(PRESETS.values())) == len(PRESETS)


@pytest.mark.parametrize(
    "change",
    [
        "gamma=-0.1",
        "gamma=1.5",
        "gamma=nan",
        "epsilon=0",
        "batch_size=0",
        "candidates=-3",
        "learning_rate=-1",
    ],
)
def test_number_out_of_range_is_refused_by_name(change: str):
    field = change.partition("=")[0]
    with pytest.raises(OtprError, match=field):
        agent_config("otpr", "default", [change])


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_every_number_that_can_be_set_knows_its_range(algorithm: str):
    """And what is out of it is refused by name: no number is left to fail in the middle of a run."""
    for preset in preset_names(algorithm):
        config = agent_config(algorithm, preset)
        for field in dataclasses.fields(config):
            kind = type(getattr(config, field.name))
            if kind not in (int, float):
                continue
            assert "check" in field.metadata, field.name
            for value in [kind(-1), *([float("nan")] if kind is float else [])]:
                with pytest.raises(ValueError, match=rf"^{field.name} must .*, got {value}"):
                    dataclasses.replace(config, **{field.name: value})
