"""Choosers by the critics alone: what they pick, and that they come back from disk as they were."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from otpr.errors import OtprError
from otpr.networks.critics import QEnsemble
from otpr.policies.choosers import ByQ, Chooser, ExpectileWeights, Reduction, most_central
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from tiny import TASK, arrays, assert_same_arrays, policy

STATE_DIM, CHUNK_DIM, N = 39, 32, 12
CRITIC = QEnsemble(STATE_DIM, CHUNK_DIM, size=3, width=16, depth=2, key=jax.random.key(0))
VALUE = eqx.nn.MLP(STATE_DIM, "scalar", 8, 1, jax.nn.relu, key=jax.random.key(1))
STATE = jax.random.normal(jax.random.key(2), (STATE_DIM,))
CANDIDATES = jax.random.uniform(jax.random.key(3), (N, CHUNK_DIM), minval=-1)
CHOOSERS: dict[str, Chooser] = {
    "minimum": ByQ(CRITIC),
    "mean": ByQ(CRITIC, "mean"),
    "central": ByQ(CRITIC, rule="central"),
    "expectile": ExpectileWeights(CRITIC, VALUE, 0.8),
}


def acting_by(chooser: Chooser) -> Policy:
    return dataclasses.replace(policy(), chooser=chooser, candidates=6)


def q_by_member(candidates: Array = CANDIDATES) -> np.ndarray:
    """(3, N): each member evaluated on each pair by itself."""
    states = jnp.broadcast_to(STATE, (N, STATE_DIM))
    return np.asarray(CRITIC(states, candidates))


@pytest.mark.parametrize(("reduction", "reduce"), [("minimum", np.min), ("mean", np.mean)])
def test_the_highest_q_is_picked_whatever_the_key(reduction: Reduction, reduce):
    q = reduce(q_by_member(), axis=0)
    chooser = ByQ(CRITIC, reduction)
    np.testing.assert_allclose(chooser.scores(STATE, CANDIDATES)[0], q, atol=1e-5)
    for seed in range(3):
        index, metrics = chooser.choose(STATE, CANDIDATES, jax.random.key(seed))
        assert int(index) == q.argmax()
        assert metrics == {}


@pytest.mark.parametrize(("reduction", "reduce"), [("minimum", np.min), ("mean", np.mean)])
def test_the_most_central_of_the_half_with_the_highest_q_is_picked(reduction: Reduction, reduce):
    others = jax.random.uniform(jax.random.key(8), (N, CHUNK_DIM), minval=-1)
    q, candidates = reduce(q_by_member(others), axis=0), np.asarray(others)
    better = np.argsort(-q)[: N // 2]
    sums = {int(i): sum(np.linalg.norm(candidates[i] - candidates[j]) for j in better) for i in better}
    central = min(sums, key=lambda i: sums[i])
    assert central != q.argmax()
    for seed in range(3):
        index, metrics = ByQ(CRITIC, reduction, "central").choose(STATE, others, jax.random.key(seed))
        assert int(index) == central
        assert metrics == {}


def test_a_chooser_is_asked_for_another_rule():
    central = ByQ(CRITIC, "mean").by("central")
    assert central == ByQ(CRITIC, "mean", "central")
    assert central.by("highest") == ByQ(CRITIC, "mean")
    with pytest.raises(OtprError, match=r"'draw': its choice \(q\) picks by highest, central"):
        central.by("draw")
    with pytest.raises(OtprError, match=r"'draw': its choice \(expectile-weights\) has a single rule"):
        CHOOSERS["expectile"].by("draw")


def test_what_was_not_scored_is_neither_taken_nor_a_neighbour():
    """Two candidates were scored of six: the others are padded with -infinity."""
    candidates = np.full((6, 2), -np.inf, np.float32)
    candidates[:2] = [[0.0, 0.0], [1.0, 1.0]]
    scores = np.array([0.1, 0.2, *[-np.inf] * 4], np.float32)
    assert int(most_central(jnp.asarray(candidates), jnp.asarray(scores))) in (0, 1)
    assert int(most_central(jnp.asarray(candidates[:1]), jnp.asarray(scores[:1]))) == 0


@pytest.mark.parametrize("drawn", range(1, 9))
def test_the_half_is_that_of_the_candidates_that_were_drawn(drawn: int):
    """A time budget may end the draws early; the choice is that among those there are."""
    rng = np.random.default_rng(drawn)
    candidates = np.full((8, 3), -np.inf, np.float32)
    scores = np.full(8, -np.inf, np.float32)
    candidates[:drawn], scores[:drawn] = rng.normal(size=(drawn, 3)), rng.normal(size=drawn)
    alone = most_central(jnp.asarray(candidates[:drawn]), jnp.asarray(scores[:drawn]))
    assert int(most_central(jnp.asarray(candidates), jnp.asarray(scores))) == int(alone)
    better = np.argsort(-scores[:drawn])[: -(-drawn // 2)]
    far = [sum(np.linalg.norm(candidates[i] - candidates[j]) for j in better) for i in better]
    assert int(alone) in better[np.isclose(far, min(far))]  # of two, both are as central


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
    with pytest.raises(ValueError, match="rule"):
        ByQ(CRITIC, rule="draw")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="reduction"):
        ByQ.skeleton({**ByQ(CRITIC).about(), "reduction": "median"}, STATE_DIM, CHUNK_DIM, jax.random.key(0))
    folder = tmp_path / "policy"
    acting_by(ByQ(CRITIC)).save(folder, task=TASK)
    document = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(document.replace('"kind": "q"', '"kind": "lowest-q"'))
    with pytest.raises(OtprError, match="damaged"):
        load_policy(folder)
