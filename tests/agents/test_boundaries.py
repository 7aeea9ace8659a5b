"""Every algorithm with states of two observations, and plans of which a part is executed.

Whatever is in `otpr.agents` has to pass, without being named here.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import reference
import small

from otpr.agents import agent_class, agent_config, algorithm_names
from otpr.agents.parts.agent import AgentConfig, OffPolicyAgent
from otpr.data.experience import Experience
from otpr.data.store import Transitions

SIZES = {
    "batch_size": 32,
    "candidates": 4,
    "critic_width": 16,
    "keypoints": 8,
    "num_critics": 3,
    "pairs": 64,
    "policy_width": 16,
    "potentials_width": 16,
    "target_candidates": 2,
    "width": 16,
}
OFF_POLICY = [name for name in algorithm_names() if issubclass(agent_class(name), OffPolicyAgent)]


def config_of(algorithm: str) -> AgentConfig:
    config = agent_config(algorithm)
    known = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{name: size for name, size in SIZES.items() if name in known})


@functools.cache
def drawing(algorithm: str) -> Any:
    """Its `draw`, one compiled program for all tests."""
    return eqx.filter_jit(agent_class(algorithm).draw)


@pytest.fixture(scope="module", params=OFF_POLICY)
def drawn(request: pytest.FixtureRequest) -> tuple[Any, Experience, Any]:
    """An agent as a block of its gradient steps begins, what it has seen, and a batch."""
    config = config_of(request.param)
    spec = config.acting_spec(small.BASE.spec)
    seen = small.experience(spec=spec, gamma=config.gamma)
    agent = small.created(config)
    begun = eqx.filter_jit(type(agent).begin_block)(agent, seen)
    return begun, seen, drawing(request.param)(agent, seen, jax.random.key(1))


def transitions_in(batch: Any) -> list[Transitions]:
    """Those of any batch."""
    leaves = jax.tree.leaves(batch, is_leaf=lambda leaf: isinstance(leaf, Transitions))
    return [leaf for leaf in leaves if isinstance(leaf, Transitions)]


@pytest.mark.long
def test_a_batch_is_gathered_from_episodes_as_a_loop_over_them_does(drawn):
    agent, seen, batch = drawn
    spec, gamma = agent.config.acting_spec(small.BASE.spec), agent.config.gamma
    assert seen.store.spec == spec
    expected = {}
    for _, each, t in small.rows_of(small.EPISODES):
        walked = small.walked(each, t, spec, gamma)
        expected[walked.state.tobytes()] = walked
    fields = [name for name in Transitions._fields if name != "row"]
    found = transitions_in(batch)
    assert found
    for data in found:
        walked = [expected[np.asarray(state).tobytes()] for state in data.state]
        for name in fields:
            wanted = [getattr(each, name) for each in walked]
            np.testing.assert_allclose(getattr(data, name), wanted, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_array_equal(seen.store.states(data.row), data.state)


def altered(batch: Any, **fields: Any) -> Any:
    """The batch with fields of its transitions replaced, each by a function of itself."""

    def alter(leaf: Any) -> Any:
        if not isinstance(leaf, Transitions):
            return leaf
        return leaf._replace(**{name: change(getattr(leaf, name)) for name, change in fields.items()})

    return jax.tree.map(alter, batch, is_leaf=lambda leaf: isinstance(leaf, Transitions))


def critics_of(agent: Any) -> Any:
    """What judges: Q and V, or V alone."""
    return agent.critics if hasattr(agent, "critics") else agent.trained_value


@pytest.mark.long
def test_critics_learn_from_what_was_executed_and_the_policy_from_whole_plans(drawn):
    agent, _, batch = drawn
    update, execute = eqx.filter_jit(type(agent).update), agent.deployed().spec.execute
    updated, metrics = update(agent, batch)
    assert all(np.isfinite(value) for value in metrics.values())

    def last_turned(plans: jax.Array) -> jax.Array:
        return plans.at[:, execute:].multiply(-1)

    other, _ = update(agent, altered(batch, plan=last_turned))
    assert reference.same(critics_of(other), critics_of(updated))
    plans_are_learnt = agent.deployed().spec.horizon > execute
    assert reference.same(other, updated) != plans_are_learnt  # something else than the critics differs
    # and what was executed does matter to Q
    if hasattr(agent, "critics"):
        other, _ = update(agent, altered(batch, chunk=lambda chunks: -chunks))
        assert not reference.same(critics_of(other), critics_of(updated))


@pytest.mark.long
@pytest.mark.parametrize("algorithm", algorithm_names())
def test_policies_act_on_two_observations_and_come_back_from_disk(algorithm: str, tmp_path: Path):
    agent = small.created(config_of(algorithm))
    spec = agent.config.acting_spec(small.BASE.spec)
    observations = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    for name, acting in (("deployed", agent.deployed()), ("exploring", agent.exploring())):
        assert acting.spec == spec
        actions = acting.act(observations, 0)
        assert actions.shape == (spec.execute, spec.action_dim)
        other = np.stack([observations[0] + 0.5, observations[1]])
        assert (acting.act(other, 0) != actions).any()  # the observation before has a say
        small.assert_comes_back_from_disk(acting, tmp_path / name)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_a_batch_from_the_demonstrations_alone_is_of_them(algorithm: str):
    """Offline updates draw before there is a replay."""
    config = config_of(algorithm)
    seen = small.experience((), config.acting_spec(small.BASE.spec), config.gamma)
    agent = small.created(config)
    batch = drawing(algorithm)(agent, seen, jax.random.key(1))
    shown = [
        small.walked(each, t, seen.store.spec).state.tobytes()
        for _, each, t in small.rows_of(small.DEMONSTRATIONS)
    ]
    for data in transitions_in(batch):
        states = {np.asarray(state).tobytes() for state in data.state}
        assert states <= set(shown)
        # many of them, and not one over and over
        assert len(states) > min(len(data.reward) / 4, len(shown) / 2)
