"""OTPR's choice is the same when it is watched, and the critics' spread is the plain formula."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from otpr.agents.otpr.compatibility import ZERO
from otpr_bench.watching import SPREAD, watched
from tiny import chooser, policy

STATE = jax.random.normal(jax.random.key(0), (3,))
CANDIDATES = jax.random.normal(jax.random.key(1), (6, 4))


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_the_compatibility(seed: int):
    bare, key = chooser(3, 4), jax.random.key(seed)
    acting = watched(policy(observation_dim=3, action_dim=2, execute=2, chooser=bare))
    assert acting.chooser is not None
    row, metrics = acting.chooser.choose(STATE, CANDIDATES, key)
    expected, theirs = bare.choose(STATE, CANDIDATES, key)
    assert int(row) == int(expected)
    assert float(metrics[ZERO]) == float(theirs[ZERO])


def test_the_spread_is_the_deviation_of_the_critics_over_the_candidates():
    bare = chooser(3, 4)
    acting = watched(policy(observation_dim=3, action_dim=2, execute=2, chooser=bare))
    assert acting.chooser is not None
    _, metrics = acting.chooser.choose(STATE, CANDIDATES, jax.random.key(2))
    spreads = []
    for candidate in CANDIDATES:
        values = [float(member(STATE[None], candidate[None])[0]) for member in bare.cost.critic.unstacked]
        spreads.append(np.std(values))
    assert float(metrics[SPREAD]) == pytest.approx(np.mean(spreads) / float(bare.cost.scale), rel=1e-4)
    assert float(metrics[SPREAD]) > 0.01


def test_a_policy_without_a_choice_is_left_as_it_is():
    bare = policy(observation_dim=3, action_dim=2, execute=2)
    assert watched(bare) is bare
