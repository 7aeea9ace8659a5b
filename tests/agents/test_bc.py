"""Imitation alone: it is the pre-trained policy, and stays it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from otpr.data.chunks import Transitions

from otpr.agents.bc import BC, PRESETS
from otpr.policies.policy import Policy, load_policy
from tiny import TASK, arrays, assert_same_arrays, chooser, policy

NO_KEYPOINTS = Transitions(*[np.zeros(0)] * 6)


@pytest.mark.parametrize(
    "base",
    [policy(), policy().with_sampler("ddim", 2), policy(chooser=chooser())],
    ids=["one sample", "another sampler", "with a chooser"],
)
def test_the_policy_is_the_pre_trained_one_saved_and_loaded(base: Policy, tmp_path: Path):
    agent = BC.create(base, NO_KEYPOINTS, PRESETS["default"], jax.random.key(0))
    assert not agent.learns and agent.starts_from_base
    agent.deployed().save(tmp_path / "policy", task=TASK)
    loaded, observation = load_policy(tmp_path / "policy"), np.linspace(-1, 1, 39)
    for seed in range(3):
        np.testing.assert_array_equal(loaded.act(observation, seed), base.act(observation, seed))
    assert_same_arrays(arrays(agent.exploring()), arrays(base))
