from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from otpr.agents.parts.agent import AgentConfig
from otpr.errors import OtprError
from otpr.training.loop import ENCODE_EVERY, LoopConfig, Progression, next_step


def test_progression_comes_back_from_a_checkpoint():
    at = Progression(env_steps=7, updates_due=2.0, recent=[True], success=0.5, evaluated_at=3)
    assert Progression.of(json.loads(json.dumps(dataclasses.asdict(at)))) == at
    assert Progression.of({"env_steps": 3, "updates_due": 2, "success": 1}) == Progression(
        env_steps=3, updates_due=2, success=1
    )


@pytest.mark.parametrize(
    "state",
    [{"env_steps": "7"}, {"env_steps": 7.0}, {"rows": True}, {"recent": 3}, {"success": "1"}, {"more": 1}],
)
def test_state_in_which_no_run_can_be_is_refused(state: dict[str, Any]):
    [(name, value)] = state.items()
    with pytest.raises(OtprError, match=f"The checkpoint says {name} = {value!r}, which no run can be in"):
        Progression.of(state)


@pytest.mark.parametrize(
    ("at", "frozen", "trained"),
    [
        # a block is due: states may be as old as this, and no older
        ({"updates_due": 250.0, "updates": ENCODE_EVERY - 1}, "learn", "learn"),
        ({"updates_due": 250.0, "updates": ENCODE_EVERY}, "learn", "encode"),
        # before the potentials are fitted, the policy is evaluated, or acts
        ({"round_due": True, "updates": 250}, "end_round", "encode"),
        ({"env_steps": 20_000, "updates": 250}, "evaluate", "encode"),
        ({"updates": 250}, "collect", "encode"),
        ({"env_steps": 40_000, "evaluated_at": 40_000, "updates": 250}, None, "encode"),
        # once, and not before anything was learnt
        ({"round_due": True, "updates": 250, "encoded_at": 250}, "end_round", "end_round"),
        ({"env_steps": 0, "evaluated_at": -1}, "evaluate", "evaluate"),
    ],
)
def test_states_are_encoded_anew_before_anything_but_gradient_steps_is_done_with_them(
    at: dict[str, Any], frozen: str | None, trained: str | None
):
    state = Progression(**{"env_steps": 5_000, "evaluated_at": 0, "warmup_updates": 1_000, **at})
    told = {"learns": True, "from_base": True}
    assert next_step(state, LoopConfig(), AgentConfig(), **told) == frozen
    assert next_step(state, LoopConfig(), AgentConfig(), **told, encodes=True) == trained
