"""Choosers by the critics alone: what they pick, and that they come back from disk as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.networks.critics import QEnsemble
from otpr.policies.choosers import Chooser, ExpectileWeights, HighestQ, Reduction
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from tiny import TASK, arrays, assert_same_arrays, policy

STATE_DIM, CHUNK_DIM, N = 39, 32, 12
CRITIC = QEnsemble(STATE_DIM, CHUNK_DIM, size=3, width=16, depth=2, key=jax.random.key(0))
VALUE = eqx.nn.MLP(STATE_DIM, "scalar", 8, 1, jax.nn.relu, key=jax.random.key(1))
STATE = jax.random.normal(jax.random.key(2), (STATE_DIM,))
CANDIDATES = jax.random.uniform(jax.random.key(3), (N, CHUNK_DIM), minval=-1)
CHOOSERS: dict[str, Chooser] = {
    "minimum": HighestQ(CRITIC),
    "mean": HighestQ(CRITIC, "mean"),
    "expectile": ExpectileWeights(CRITIC, VALUE, 0.8),
}


def acting_by(chooser: Chooser) -> Policy:
    return dataclasses.replace(policy(), chooser=chooser, candidates=6)


def q_by_member() -> np.ndarray:
    """(3, N): each member evaluated on each pair by itself."""
    states = jnp.broadcast_to(STATE, (N, STATE_DIM))
    return np.asarray(CRITIC(states, CANDIDATES))


@pytest.mark.parametrize(("reduction", "reduce"), [("minimum", np.min), ("mean", np.mean)])
def test_the_highest_q_is_picked_whatever_the_key(reduction: Reduction, reduce):
    q = reduce(q_by_member(), axis=0)
    chooser = HighestQ(CRITIC, reduction)
    np.testing.assert_allclose(chooser.scores(STATE, CANDIDATES)[0], q, atol=1e-5)
    for seed in range(3):
        index, metrics = chooser.choose(STATE, CANDIDATES, jax.random.key(seed))
        assert int(index) == q.argmax()
        assert metrics == {}


def test_minimum_and_mean_are_told_apart():
    q = q_by_member()
    assert np.abs(q.min(axis=0) - q.mean(axis=0)).max() > 0.01


def test_expectile_weights_are_tau_above_the_value_and_the_rest_below():
    q = q_by_member().min(axis=0)
    value = np.sort(q)[N // 2 - 1 : N // 2 + 1].mean()  # as many above as below
    last = VALUE.layers[-1]
    constant = eqx.tree_at(
        lambda v: (v.layers[-1].weight, v.layers[-1].bias),
        VALUE,
        (jnp.zeros_like(last.weight), jnp.asarray([value])),
    )
    chooser = ExpectileWeights(CRITIC, constant, 0.8)
    draws = 6000
    keys = jax.random.split(jax.random.key(0), draws)
    picked = np.asarray(jax.vmap(lambda key: chooser.choose(STATE, CANDIDATES, key)[0])(keys))
    share = np.bincount(picked, minlength=N) / draws
    expected = np.where(q >= value, 0.8, 0.2) / (N / 2)
    # four standard deviations of a binomial
    assert (np.abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / draws)).all()


@pytest.mark.parametrize("kind", CHOOSERS)
def test_a_policy_with_it_acts_the_same_after_saving_and_loading(kind: str, tmp_path: Path):
    acting = acting_by(CHOOSERS[kind])
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(acting))
    assert loaded.chooser is not None
    assert loaded.chooser.about() == CHOOSERS[kind].about()
    observation = np.linspace(-1, 1, STATE_DIM).astype(np.float32)
    np.testing.assert_array_equal(loaded.act(observation, 3), acting.act(observation, 3))
    # with a budget of time, the unknown candidates are never picked
    acting.act(observation, 3, budget_seconds=1e-9)


def test_settings_that_choose_nothing_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="expectile"):
        ExpectileWeights(CRITIC, VALUE, 1.0)
    with pytest.raises(ValueError, match="reduction"):
        HighestQ.skeleton(
            {**HighestQ(CRITIC).about(), "reduction": "median"}, STATE_DIM, CHUNK_DIM, jax.random.key(0)
        )
    folder = tmp_path / "policy"
    acting_by(HighestQ(CRITIC)).save(folder, task=TASK)
    document = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(document.replace("highest-q", "lowest-q"))
    with pytest.raises(OtprError, match="damaged"):
        load_policy(folder)
