"""The environment of examples/peg_task.py, which LeRobot and otpr share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from otpr.envs import make_env, task_spec

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_it_is_meta_worlds_task_with_fewer_numbers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import peg_task

    usual, other = make_env(peg_task.TASK), make_env("peg_task:make_env")
    spec = task_spec("peg_task:make_env")
    assert spec.spec.observation["state"].shape == (17,)
    assert spec.required_limit() == task_spec(peg_task.TASK).required_limit()
    assert (spec.spec.control_rate, spec.spec.action_dim) == (80, 4)
    generator = np.random.default_rng(0)
    for seed in (3, 4):
        whole, _ = usual.reset(seed=seed)
        seen, _ = other.reset(seed=seed)
        for _ in range(20):
            np.testing.assert_array_equal(seen, whole[peg_task.KEPT])
            action = generator.uniform(-1, 1, 4).astype(np.float32)
            whole, *_, info = usual.step(action)
            seen, *_, told = other.step(action)
            assert info["success"] == told["success"]
    # hand, opening and peg now and one step before, and the hole
    np.testing.assert_array_equal(seen[7:14], whole[18:25])
    assert abs(seen[:7] - seen[7:14]).max() < 0.05
    usual.close()
    other.close()
