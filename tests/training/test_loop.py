from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from otpr.errors import OtprError
from otpr.training.loop import Progression


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
