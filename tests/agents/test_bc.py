"""Imitation alone: it is the pre-trained policy, and stays it."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import small

from otpr.agents.bc import BC, PRESETS
from otpr.agents.parts.agent import OffPolicyAgent, OnPolicyAgent
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from tiny import TASK, arrays, assert_same_arrays, chooser, policy


@pytest.mark.parametrize(
    "base",
    [policy(), policy().with_sampler("ddim", 2), policy(chooser=chooser()), small.BASE],
    ids=["one sample", "another sampler", "with a chooser", "with history"],
)
def test_the_policy_is_the_pre_trained_one_saved_and_loaded(base: Policy, tmp_path: Path):
    agent = BC.create(base, small.experience(()), PRESETS["default"], jax.random.key(0))
    assert not isinstance(agent, OffPolicyAgent | OnPolicyAgent)  # it does not learn
    agent.deployed().save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    observation = np.linspace(-1, 1, base.state_dim).reshape(base.spec.history, -1)
    observation = observation if base.spec.history > 1 else observation[0]
    for seed in range(3):
        np.testing.assert_array_equal(loaded.act(observation, seed), base.act(observation, seed))
    assert_same_arrays(arrays(agent.exploring()), arrays(base))
