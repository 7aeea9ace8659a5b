from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.policies import acting
from otpr.policies.policy import Policy
from tiny import chooser, policy

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 39)).astype(np.float32)
ONE = policy()


def choosing(candidates: int, *, u: float = 0.5, trained: bool = True) -> Policy:
    return dataclasses.replace(policy(chooser=chooser(u=u, trained=trained)), candidates=candidates)


class Clock:
    """Each look at it is a tenth of a second after the last."""

    def __init__(self) -> None:
        self.looks = 0

    def perf_counter(self) -> float:
        self.looks += 1
        return self.looks / 10


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(acting, "time", SimpleNamespace(perf_counter=clock.perf_counter))
    return clock


def drawn(acting_policy: Policy, observation: np.ndarray, seed: int, count: int) -> np.ndarray:
    """The first `count` candidates of a draw with a budget, slice by slice."""
    propose_key, _ = jax.random.split(jax.random.key(seed))
    seen = {"state": observation[None, None]}
    slices = [
        np.asarray(acting_policy.propose(seen, jax.random.fold_in(propose_key, i)[None], acting.SLICE)[0])
        for i in range(-(-count // acting.SLICE))
    ]
    return np.concatenate(slices)[:count].reshape(count, -1)


# ------------------------------------------------------------------------------------- a budget of time


@pytest.mark.long
@pytest.mark.parametrize(
    ("budget", "slices"),
    # a slice takes 0.1 s: one always, another where it would end in time, three at the most
    [(0.0, 1), (0.15, 1), (0.25, 2), (0.35, 3), (60.0, 3)],
)
def test_draws_as_many_candidates_as_there_is_time_for(budget: float, slices: int, clock: Clock):
    choosy = choosing(10, u=2.0)
    count = min(4 * slices, 10)
    chosen = set()
    for seed, observation in enumerate(OBSERVATIONS):
        clock.looks = 0
        chunk = choosy.act(observation, seed, budget_seconds=budget)
        assert clock.looks == 1 + slices
        assert (chunk.shape, chunk.dtype) == ((8, 4), np.float32)
        candidates = drawn(choosy, observation, seed, count)
        distances = np.abs(candidates - chunk.reshape(-1)).max(axis=1)
        assert distances.min() < 1e-5
        chosen.add(int(distances.argmin()))
        state = choosy.state({"state": observation[None]})
        assert choosy.chooser is not None
        H = choosy.chooser(jnp.broadcast_to(state, (count, 39)), jnp.asarray(candidates))
        assert float(H[distances.argmin()]) > 0
    assert len(chosen) > 1


def test_choice_is_in_proportion_to_compatibility_among_those_drawn(clock: Clock, monkeypatch):
    """Candidates whose H are known up to a factor: 0, 1, 3 and 0 in each slice."""
    plans = np.linspace(-1, 1, 4, dtype=np.float32)[:, None, None] * np.ones((8, 4), np.float32)
    excess = np.float32([-2.0, 0.1, 0.3, -0.1])

    def offered(*_: object) -> np.ndarray:
        return plans[None]

    def known(*_: object) -> tuple[np.ndarray, ...]:
        return excess, np.log(np.float32([0.3, 0.3, 0.7, 0.3]))

    monkeypatch.setattr(Policy, "propose", offered)
    monkeypatch.setattr(acting, "_scores", known)
    choosy = choosing(8)
    draws = [choosy.act(OBSERVATIONS[0], seed, budget_seconds=60.0)[0, 0] for seed in range(400)]
    share = np.mean(np.equal(draws, plans[2, 0, 0]))
    assert set(draws) == {plans[1, 0, 0], plans[2, 0, 0]}
    assert abs(share - 0.75) < 0.08  # 3.7 standard deviations


@pytest.mark.parametrize("trained", [False, True])
def test_without_compatibility_the_nearest_to_it_is_taken_or_idqls_rule_decides(trained: bool, clock: Clock):
    """H is zero everywhere, or there are no potentials yet."""
    choosy = choosing(8, u=-100.0 if trained else 100.0, trained=trained)
    chunk = choosy.act(OBSERVATIONS[0], 1, budget_seconds=60.0)
    candidates = drawn(choosy, OBSERVATIONS[0], 1, 8)
    distances = np.abs(candidates - chunk.reshape(-1)).max(axis=1)
    assert distances.min() < 1e-5
    assert choosy.chooser is not None
    state = choosy.state({"state": OBSERVATIONS[:1]})
    excess, by_idql = choosy.chooser.scores(state, jnp.asarray(candidates))
    if trained:
        assert (np.asarray(excess) < 0).all()
        assert distances.argmin() == np.argmax(excess)
    else:
        assert np.isneginf(excess).all()
        assert set(np.round(np.exp(np.asarray(by_idql)), 3)) <= {np.float32(0.3), np.float32(0.7)}


def test_budget_is_nothing_to_a_policy_of_one_sample():
    np.testing.assert_array_equal(
        ONE.act(OBSERVATIONS[0], 3, budget_seconds=0.0), ONE.act(OBSERVATIONS[0], 3)
    )


def test_same_seed_and_time_give_the_same_chunk(clock: Clock):
    choosy = choosing(10)
    one, other = (choosy.act(OBSERVATIONS[0], 3, budget_seconds=60.0) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert np.abs(one - choosy.act(OBSERVATIONS[0], 4, budget_seconds=60.0)).max() > 0.01


# ------------------------------------------------------------------------------------------ many threads


def test_threads_get_what_one_thread_gets():
    choosy = choosing(6)
    requests = [(i % len(OBSERVATIONS), seed) for i, seed in enumerate(range(40))]

    def act(request: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        observation, seed = OBSERVATIONS[request[0]], request[1]
        return choosy.act(observation, seed), choosy.act(observation, seed, budget_seconds=60.0)

    jax.clear_caches()  # the first calls compile at the same time
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(act, requests))
    for given, expected in zip(together, map(act, requests), strict=True):
        np.testing.assert_array_equal(given[0], expected[0])
        np.testing.assert_array_equal(given[1], expected[1])


# ------------------------------------------------------------------------------------- odd observations


def test_values_out_of_range_are_clipped_and_never_nan():
    normalizer = ONE.encoder.normalizers["state"]  # pyright: ignore[reportAttributeAccessIssue]
    mean, scale = np.asarray(normalizer.mean), np.asarray(normalizer.scale)
    for size in (1e3, 1e30, 3e38):
        far = np.where(np.arange(39) == 5, size, OBSERVATIONS[0]).astype(np.float32)
        limit = far.copy()
        limit[5] = mean[5] + 10.0 * scale[5] * 1.001
        chunk = ONE.act(far, 3)
        np.testing.assert_array_equal(chunk, ONE.act(limit, 3))
        assert np.abs(chunk).max() <= 1.0


def test_number_too_large_for_float32_is_refused():
    with pytest.raises(ValueError, match=r"not finite at indices \[2\]"):
        ONE.act(np.where(np.arange(39) == 2, 1e300, 0.0), 0)


@pytest.mark.parametrize("budget", [None, 60.0])
def test_damaged_weights_are_an_error(budget: float | None):
    choosy = choosing(6)
    bad = eqx.tree_at(
        lambda p: p.diffusion.network.body.mlp.layers[-1].bias, choosy, replace_fn=lambda bias: bias * jnp.nan
    )
    with pytest.raises(OtprError, match="actions are not finite: its weights hold NaN"):
        bad.act(OBSERVATIONS[0], 0, budget_seconds=budget)


def test_the_key_of_a_seed_holds_all_of_its_bits():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63, 2**64, 2**64 + 2**32, 2**96, 10**40]
    keys = {tuple(np.asarray(jax.random.key_data(acting.act_key(seed))).tolist()) for seed in seeds}
    assert len(keys) == len(seeds)
    for seed in (0, 1, 2**31, 2**32 - 1):  # as JAX itself does below 2**32
        np.testing.assert_array_equal(
            jax.random.key_data(acting.act_key(seed)), jax.random.key_data(jax.random.key(seed))
        )
    np.testing.assert_array_equal(
        jax.random.key_data(acting.act_key(np.int64(2**40 + 3))),  # pyright: ignore[reportArgumentType]
        jax.random.key_data(acting.act_key(2**40 + 3)),
    )


@pytest.mark.parametrize(("seed", "message"), [(-1, "negative, given -1"), (1.5, "whole number, given 1.5")])
def test_what_is_no_seed_is_refused(seed: Any, message: str):
    with pytest.raises(ValueError, match=f"^seed must .*{message}"):
        acting.act_key(seed)
