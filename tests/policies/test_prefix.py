"""Plans that begin with what a robot executes while they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.policies.acting import act_key
from otpr.policies.generators import TanhGaussian
from otpr.policies.prefix import Prefix
from tiny import chooser, policy

ONE = policy(execute=4)
MANY = policy(chooser=chooser(chunk_dim=16), execute=4)
OBSERVATION = np.linspace(-1, 1, 39, dtype=np.float32)
GIVEN = np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_the_actions_after_the_prefix_are_those_of_a_plan_that_begins_with_it(d: int):
    found = ONE.act(OBSERVATION, 3, prefix=GIVEN[:d])
    propose_key, _ = jax.random.split(act_key(3))
    state = ONE.state({"state": OBSERVATION[None]})
    [plan] = ONE.generator.complete(state, Prefix.of(GIVEN[:d], ONE.spec), propose_key, 1)
    np.testing.assert_array_equal(plan[:d], GIVEN[:d])
    np.testing.assert_allclose(found, plan[d : d + 4], atol=1e-6)
    assert found.shape == (4, 4)


def test_without_a_prefix_nothing_changes():
    for shown in (ONE, MANY):
        expected = shown.act(OBSERVATION, 3)
        for empty in (None, np.zeros((0, 4))):
            np.testing.assert_array_equal(shown.act(OBSERVATION, 3, prefix=empty), expected)


@pytest.mark.parametrize("budget", [None, 60.0])
def test_a_chooser_scores_what_will_be_executed_from_the_observation_on(budget: float | None):
    assert MANY.chooser is not None
    seen: list[Any] = []

    class Spy(type(MANY.chooser)):
        """Notes the candidates that it is shown."""

        def scores(self, state: Any, candidates: Any) -> Any:
            jax.debug.callback(lambda rows: seen.append(np.asarray(rows)), candidates)
            return super().scores(state, candidates)

    fields = {field.name: getattr(MANY.chooser, field.name) for field in dataclasses.fields(MANY.chooser)}
    spied = MANY.choosing(Spy(**fields), 6)
    found = spied.act(OBSERVATION, 3, prefix=GIVEN[:2], budget_seconds=budget)
    jax.effects_barrier()
    rows = np.concatenate(seen)
    np.testing.assert_array_equal(rows[:, :8], np.broadcast_to(GIVEN[:2].ravel(), (len(rows), 8)))
    # what is executed in the first four steps: two of the prefix, and the first two that come back
    assert any(np.allclose(row[8:], found[:2].ravel(), atol=1e-6) for row in rows)


def test_each_of_several_decisions_has_its_own_prefix():
    seen = {"state": jnp.stack([OBSERVATION, OBSERVATION * 2])[:, None]}
    keys = jax.random.split(jax.random.key(0), 2)
    given = jnp.stack([GIVEN[:2], -GIVEN[:2]])
    plans, _ = ONE.plan_batch(seen, keys, Prefix.of(given, ONE.spec))
    np.testing.assert_array_equal(plans[:, :2], given)
    for i in range(2):
        alone, _ = ONE.plan_batch(
            {"state": seen["state"][i : i + 1]}, keys[i : i + 1], Prefix.of(given[i : i + 1], ONE.spec)
        )
        np.testing.assert_allclose(alone[0], plans[i], atol=1e-5)


def test_the_network_sees_the_prefix_with_the_noise_of_each_level():
    """Whatever it predicts: here that there is no noise anywhere."""
    seen: dict[int, np.ndarray] = {}

    class Spy(eqx.Module):
        plan_shape: tuple[int, int] = (8, 4)

        def many(self, state: Any, plans: Any, k: Any) -> Any:
            jax.debug.callback(lambda rows, k: seen.update({int(k): np.asarray(rows)}), plans, k)
            return jnp.zeros_like(plans)

    generator = dataclasses.replace(ONE.diffusion, network=Spy())
    plans = generator.complete(jnp.zeros(39), Prefix.of(GIVEN[:3], ONE.spec), jax.random.key(0), 4000)
    jax.effects_barrier()
    schedule = generator.schedule
    assert sorted(seen) == list(range(schedule.steps))
    # at the noisiest level everything is noise; from there on the prefix has its share
    for k in range(schedule.steps - 1):
        rows = seen[k][:, :3]
        np.testing.assert_allclose(rows.mean(axis=0), schedule.signal(jnp.asarray(k)) * GIVEN[:3], atol=0.08)
        np.testing.assert_allclose(rows.std(axis=0), schedule.sigma(jnp.asarray(k)), atol=0.08)
    np.testing.assert_array_equal(plans[:, :3], np.broadcast_to(GIVEN[:3], (4000, 3, 4)))


def test_in_plans_that_begin_before_the_present_the_prefix_begins_at_the_present():
    early = policy(history=2, execute=2, offset=1)
    two = np.stack([OBSERVATION, OBSERVATION])
    found = early.act(two, 3, prefix=GIVEN[:3])
    plans, _ = early.plan_batch(
        {"state": jnp.asarray(two)[None]}, act_key(3)[None], Prefix.of(GIVEN[None, :3], early.spec)
    )
    np.testing.assert_array_equal(plans[0, 1:4], GIVEN[:3])
    np.testing.assert_allclose(found, plans[0, 4:6], atol=1e-6)
    assert early.spec.spare == 5
    np.testing.assert_array_equal(Prefix.left(plans, 3, early.spec), plans[:, 3:6])
    with pytest.raises(
        ValueError, match="at most 5 actions of 4 numbers: its plans have 7 from the present on"
    ):
        early.act(two, 3, prefix=np.zeros((6, 4)))


def test_in_plans_of_units_of_their_own_the_prefix_is_in_the_policys():
    """The network sees -1 to 1 where the actions are between `low` and `high`."""
    low, high = jnp.full(4, -0.5), jnp.full(4, 0.25)
    scaled = ONE.with_generator(dataclasses.replace(ONE.diffusion, low=low, high=high))
    given = 0.2 * GIVEN[:2]
    [plan] = scaled.generator.complete(jnp.zeros(39), Prefix.of(given, ONE.spec), jax.random.key(0), 1)
    np.testing.assert_array_equal(plan[:2], given)
    noise = scaled.diffusion.scaled(jnp.asarray(given))
    np.testing.assert_allclose(scaled.diffusion.unscaled(noise), given, atol=1e-6)
    assert (plan[2:] >= -0.5).all() and (plan[2:] <= 0.25).all()


def test_a_generator_that_cannot_go_on_from_a_prefix_has_it_put_in():
    mode = TanhGaussian.new(39, (8, 4), width=8, depth=1, key=jax.random.key(0))
    state, key = jnp.asarray(OBSERVATION), jax.random.key(1)
    plans = mode.propose(state, key, 3)
    found = mode.complete(state, Prefix.of(GIVEN[:2], ONE.spec), key, 3)
    np.testing.assert_array_equal(found[:, :2], np.broadcast_to(GIVEN[:2], (3, 2, 4)))
    np.testing.assert_array_equal(found[:, 2:], plans[:, 2:])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((5, 4)), r"shape \(5, 4\); the policy takes at most 4 actions of 4 numbers"),
        (np.zeros((2, 3)), r"shape \(2, 3\); the policy takes at most 4 actions"),
        (np.zeros(4), r"shape \(4,\); the policy takes"),
        (np.full((2, 4), np.nan), "prefix must be finite"),
        (np.full((2, 4), 1.01), r"in \[-1, 1\]"),
        ("abc", "prefix is no array of numbers"),
    ],
)
def test_what_is_no_prefix_is_refused(given: Any, said: str):
    with pytest.raises(ValueError, match=said):
        ONE.act(OBSERVATION, 0, prefix=given)
