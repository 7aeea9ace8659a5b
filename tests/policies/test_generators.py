"""Generators other than diffusion: what they draw, and that they come back from disk as they were."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from otpr.diffusion.sampling import Noise
from otpr.errors import OtprError
from otpr.networks.mlp import VelocityNetwork
from otpr.policies.denoising import Diffusion
from otpr.policies.files import GENERATORS
from otpr.policies.generators import Flow, Generator, OneStep, TanhGaussian
from otpr.policies.loading import load_policy
from tiny import TASK, arrays, assert_same_arrays, policy, reseal

STATE_DIM, PLAN = 39, (8, 4)
SIZES = {"width": 12, "depth": 2}
STATE = jax.random.normal(jax.random.key(2), (STATE_DIM,))
FLOW = Flow(VelocityNetwork(STATE_DIM, PLAN, **SIZES, key=jax.random.key(0)), steps=3)
GAUSSIAN = TanhGaussian.new(STATE_DIM, PLAN, **SIZES, key=jax.random.key(0))
KINDS: dict[str, Generator] = {
    "flow": FLOW,
    "one-step": OneStep.new(STATE_DIM, PLAN, **SIZES, key=jax.random.key(0)),
    "tanh-gaussian": GAUSSIAN,
    "mode": dataclasses.replace(GAUSSIAN, deterministic=True),
}


def test_every_kind_of_generator_is_tested_here_or_with_the_policy():
    assert {type(generator) for generator in KINDS.values()} | {Diffusion} == set(GENERATORS.values())


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_policy_with_it_comes_back_from_disk_and_acts_the_same(name: str, tmp_path: Path):
    saved = dataclasses.replace(policy(), generator=KINDS[name])
    saved.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert type(loaded.generator) is type(saved.generator)
    assert loaded.generator.about() == saved.generator.about()
    assert_same_arrays(arrays(loaded), arrays(saved))
    for seed in range(2):
        observation = np.random.default_rng(seed).normal(size=STATE_DIM).astype(np.float32)
        actions = saved.act(observation, seed)
        np.testing.assert_array_equal(loaded.act(observation, seed), actions)
        assert np.abs(actions).max() <= 1


@pytest.mark.parametrize("name", sorted(KINDS))
def test_plans_differ_among_samples_but_for_the_mode(name: str):
    plans = KINDS[name].propose(STATE, jax.random.key(0), 6)
    assert plans.shape == (6, *PLAN)
    assert len(np.unique(np.asarray(plans), axis=0)) == (1 if name == "mode" else 6)


@pytest.mark.parametrize("name", ["flow", "one-step"])
def test_plans_are_clipped(name: str):
    wide = jax.tree.map(lambda x: 3 * x if hasattr(x, "shape") else x, KINDS[name])
    plans = np.abs(np.asarray(wide.propose(STATE, jax.random.key(0), 6)))
    assert plans.max() == 1
    assert (plans < 1).any()


def test_a_flow_goes_by_euler_steps_from_its_noise():
    noise = jax.random.normal(jax.random.key(4), (2, *PLAN))
    x = noise
    for i in range(3):
        x = x + jnp.stack([FLOW.network(STATE, row, jnp.asarray(i / 3)) for row in x]) / 3
    np.testing.assert_allclose(FLOW.from_noise(STATE, Noise(noise)), jnp.clip(x, -1, 1), atol=1e-5)


def test_the_mode_is_the_tangent_of_the_mean_and_samples_spread_around_it():
    mean, log_std = GAUSSIAN.parameters(STATE)
    mode = KINDS["mode"].propose(STATE, jax.random.key(0), 1)[0]
    np.testing.assert_array_equal(mode.ravel(), jnp.tanh(mean))
    plans = np.asarray(GAUSSIAN.propose(STATE, jax.random.key(0), 4000), np.float64)
    samples = np.arctanh(plans.reshape(4000, -1))
    np.testing.assert_allclose(samples.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(samples.std(axis=0), np.exp(log_std), rtol=0.1)


def test_the_log_density_is_that_of_the_squashed_normal():
    one = TanhGaussian.new(STATE_DIM, (1, 1), **SIZES, key=jax.random.key(1))
    mean, log_std = (float(x[0]) for x in one.parameters(STATE))

    def density(action: float) -> float:
        return float(stats.norm.pdf(np.arctanh(action), mean, np.exp(log_std)) / (1 - action**2))

    assert integrate.quad(density, -1, 1)[0] == pytest.approx(1, abs=1e-4)
    for seed in range(5):
        action, log_density = one.sample_with_log_density(STATE, jax.random.key(seed))
        assert float(log_density) == pytest.approx(np.log(density(float(action[0]))), abs=1e-3)
    # entries are independent: logarithms add up
    chunk, log_density = GAUSSIAN.sample_with_log_density(STATE, jax.random.key(0))
    means, log_stds = (np.asarray(x, np.float64) for x in GAUSSIAN.parameters(STATE))
    x = np.arctanh(np.asarray(chunk, np.float64))
    expected = stats.norm.logpdf(x, means, np.exp(log_stds)) - np.log(1 - np.tanh(x) ** 2)
    assert float(log_density) == pytest.approx(expected.sum(), abs=1e-2)


def test_the_log_density_is_finite_where_the_tangent_rounds_to_one():
    far = jax.tree.map(lambda x: 100 * x if hasattr(x, "shape") else x, GAUSSIAN)
    chunk, log_density = far.sample_with_log_density(STATE, jax.random.key(0))
    assert np.abs(np.asarray(chunk)).max() == 1
    assert np.isfinite(log_density)


def test_a_file_with_an_impossible_generator_is_refused(tmp_path: Path):
    dataclasses.replace(policy(), generator=FLOW).save(tmp_path / "policy", task=TASK)
    file = tmp_path / "policy" / "policy.json"
    document = json.loads(file.read_text())
    document["generator"]["steps"] = 0
    file.write_text(json.dumps(document))
    reseal(tmp_path / "policy")
    with pytest.raises(OtprError, match="steps"):
        load_policy(tmp_path / "policy")
