from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from otpr.agents.otpr.compatibility import ZERO, Compatibility, Rule, TransportCost
from tiny import chooser

STATES = jax.random.normal(jax.random.key(10), (7, 3))
ACTIONS = jax.random.normal(jax.random.key(11), (7, 4))
ALPHAS = [0.0, 0.4]


def small(**changes) -> Compatibility:
    return chooser(3, 4, **changes)


def relation(points: np.ndarray, keypoints: np.ndarray, temperature: float) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    unit_keypoints = keypoints / np.linalg.norm(keypoints, axis=1, keepdims=True)
    logits = (unit @ unit_keypoints.T - 1) / temperature
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    middle = (p + q) / 2
    return float((p * np.log(p / middle)).sum() / 2 + (q * np.log(q / middle)).sum() / 2)


def plain_costs(cost: TransportCost) -> np.ndarray:
    """c(s_i, a_j) of every pair in float64, from what each critic and the value say."""
    q = cost.critic(jnp.repeat(STATES, 7, axis=0), jnp.tile(ACTIONS, (7, 1)))
    by_state = relation(np.float64(STATES), np.float64(cost.keypoint_states), cost.temperature)
    by_action = relation(np.float64(ACTIONS), np.float64(cost.keypoint_actions), cost.temperature)
    guide = [[jensen_shannon(p, q) for q in by_action] for p in by_state]
    advantage = np.float64(q).min(axis=0).reshape(7, 7) - np.float64(jax.vmap(cost.value)(STATES))[:, None]
    return -(1 - cost.alpha) * advantage / float(cost.scale) + cost.alpha * np.array(guide)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cost_of_every_pair_is_the_plain_formula(alpha: float):
    cost = small(alpha=alpha).cost
    expected = plain_costs(cost)
    np.testing.assert_allclose(cost.pairwise(STATES, ACTIONS), expected, rtol=1e-5, atol=1e-6)
    assert np.std(expected) > 0.05


@pytest.mark.parametrize("alpha", ALPHAS)
def test_cost_of_pairs_is_the_diagonal_of_the_cost_of_all_pairs(alpha: float):
    cost = small(alpha=alpha).cost
    np.testing.assert_allclose(
        cost(STATES, ACTIONS), jnp.diagonal(cost.pairwise(STATES, ACTIONS)), rtol=1e-5, atol=1e-6
    )


def test_a_function_of_the_state_alone_is_all_that_the_value_adds():
    cost = small().cost
    other = eqx.tree_at(lambda c: c.value.layers[-1].bias, cost, replace_fn=lambda bias: bias + 3.0)
    shift = other.pairwise(STATES, ACTIONS) - cost.pairwise(STATES, ACTIONS)
    np.testing.assert_allclose(shift, 3.0 / 0.7, rtol=1e-5)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_compatibility_is_the_plain_formula_and_zero_outside_the_support(alpha: float):
    compatibility = small(alpha=alpha, epsilon=0.3, u=0.6)
    u, v = compatibility.potentials.u(STATES), compatibility.potentials.v(ACTIONS)
    excess = np.float64(u) + np.float64(v) - np.diagonal(plain_costs(compatibility.cost))
    expected = np.where(excess > 0, excess, 0.0) / (2 * 0.3)
    np.testing.assert_allclose(compatibility(STATES, ACTIONS), expected, rtol=1e-5, atol=1e-5)
    assert 1 <= (expected == 0).sum() <= 6  # both cases are met


def draw(compatibility: Compatibility, state, candidates, n: int) -> tuple[np.ndarray, np.ndarray]:
    keys = jax.random.split(jax.random.key(1), n)
    index, metrics = jax.vmap(lambda key: compatibility.choose(state, candidates, key))(keys)
    return np.bincount(np.asarray(index), minlength=len(candidates)), np.asarray(metrics[ZERO])


def test_candidates_are_drawn_in_proportion_to_compatibility():
    compatibility = small(u=0.5)
    candidates = 1.5 * ACTIONS
    H = np.asarray(compatibility(jnp.broadcast_to(STATES[0], (7, 3)), candidates), np.float64)
    assert (H == 0).any()
    assert (H > 0).sum() >= 3
    assert H[H > 0].max() > 1.5 * H[H > 0].min()
    counts, none = draw(compatibility, STATES[0], candidates, 20_000)
    assert counts[H == 0].sum() == 0
    assert not none.any()
    shares = H[H > 0] / H.sum()
    assert chisquare(counts[H > 0], 20_000 * shares).pvalue > 1e-3
    # the same test tells proportional to H from uniform
    assert chisquare(counts[H > 0]).pvalue < 1e-6


@pytest.mark.parametrize("alpha", ALPHAS)
def test_choice_goes_by_the_compatibility_of_each_candidate_with_the_state(alpha: float):
    """The same draw as from H pair by pair, guided or not, for one state and under vmap."""
    compatibility = small(alpha=alpha, u=0.3)
    candidates = 1.5 * jax.random.normal(jax.random.key(12), (7, 9, 4))
    keys = jax.random.split(jax.random.key(1), (40, 7))
    choose = jax.vmap(jax.vmap(compatibility.choose), in_axes=(None, None, 0))
    index, metrics = choose(STATES, candidates, keys)
    H = jax.vmap(lambda s, a: compatibility(jnp.broadcast_to(s, (9, 3)), a))(STATES, candidates)
    assert ((H > 0).any(axis=1) & (H == 0).any(axis=1)).sum() >= 3
    expected = jax.vmap(jax.vmap(lambda key, h: jax.random.categorical(key, jnp.log(h))), in_axes=(0, None))
    some = np.asarray((H > 0).any(axis=1))
    np.testing.assert_array_equal(index[:, some], expected(keys, H)[:, some])
    np.testing.assert_array_equal(metrics[ZERO], np.broadcast_to(~some, (40, 7)))


def idql_shares(compatibility: Compatibility, state, candidates) -> np.ndarray:
    q = compatibility.cost.critic.minimum(jnp.broadcast_to(state, (len(candidates), 3)), candidates)
    weights = np.where(np.asarray(q) > float(compatibility.cost.value(state)), 0.7, 0.3)
    assert 0 < (weights == 0.7).sum() < len(candidates)
    return weights / weights.sum()


def at_median_value(compatibility: Compatibility, state, candidates) -> Compatibility:
    """V moved between the candidates' Q, so that IDQL's rule tells them apart."""
    q = compatibility.cost.critic.minimum(jnp.broadcast_to(state, (len(candidates), 3)), candidates)
    shift = jnp.sort(q)[2:4].mean() - compatibility.cost.value(state)
    return eqx.tree_at(lambda c: c.cost.value.layers[-1].bias, compatibility, replace_fn=lambda b: b + shift)


def test_before_the_potentials_are_trained_idqls_weights_are_used():
    compatibility = at_median_value(small(trained=False, u=0.2), STATES[0], ACTIONS)
    counts, none = draw(compatibility, STATES[0], ACTIONS, 20_000)
    assert not none.any()  # nothing is missing yet
    assert chisquare(counts, 20_000 * idql_shares(compatibility, STATES[0], ACTIONS)).pvalue > 1e-3
    assert chisquare(counts).pvalue < 1e-6


@pytest.mark.parametrize("rule", ["draw", "highest"])
def test_where_every_compatibility_is_zero_the_nearest_to_it_is_taken_and_that_is_told(rule: Rule):
    compatibility = dataclasses.replace(at_median_value(small(u=-1000.0), STATES[0], ACTIONS), rule=rule)
    assert not np.asarray(compatibility(STATES, ACTIONS)).any()
    counts, none = draw(compatibility, STATES[0], ACTIONS, 100)
    assert none.all()
    c = plain_costs(compatibility.cost)[0] - np.asarray(compatibility.potentials.v(ACTIONS))
    assert counts[np.argmin(c)] == 100


def test_the_highest_compatibility_is_taken():
    compatibility = dataclasses.replace(small(u=0.5), rule="highest")
    H = np.asarray(compatibility(jnp.broadcast_to(STATES[0], (7, 3)), 1.5 * ACTIONS))
    counts, none = draw(compatibility, STATES[0], 1.5 * ACTIONS, 100)
    assert counts[np.argmax(H)] == 100
    assert not none.any()


@pytest.mark.parametrize("u", [0.5, -1000.0])
def test_the_most_central_of_the_better_half_is_taken(u: float):
    compatibility = dataclasses.replace(small(u=u), rule="central")
    candidates = np.asarray(1.5 * ACTIONS)
    excess = np.asarray(compatibility.scores(STATES[0], jnp.asarray(candidates))[0])
    better = np.argsort(-excess)[: -(-len(candidates) // 2)]
    sums = {int(i): sum(np.linalg.norm(candidates[i] - candidates[j]) for j in better) for i in better}
    counts, none = draw(compatibility, STATES[0], jnp.asarray(candidates), 100)
    assert counts[min(sums, key=lambda i: sums[i])] == 100
    assert none.all() == (u < 0)
