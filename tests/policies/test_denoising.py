"""The generator of diffusion policies: plans in units of their own, and what its file may say."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.policies.denoising import Diffusion
from otpr.policies.loading import load_policy
from tiny import policy, reseal


def scaled(**others: Any) -> Diffusion:
    ends = {"low": jnp.array([-0.5, 0.2, -3.0, -1.0]), "high": jnp.array([0.1, 0.2, 5.0, 1.0])}
    return dataclasses.replace(policy().diffusion, **ends, **others)


def test_what_a_network_sees_and_the_actions_are_mapped_into_each_other():
    generator = scaled()
    seen = jax.random.uniform(jax.random.key(0), (6, 8, 4), minval=-1.0)
    actions = generator.unscaled(seen)
    np.testing.assert_allclose(actions[..., 0], (seen[..., 0] + 1) * 0.3 - 0.5, atol=1e-6)
    np.testing.assert_allclose(actions[..., 1], 0.2)
    back = generator.scaled(actions)
    np.testing.assert_allclose(back[..., [0, 2, 3]], seen[..., [0, 2, 3]], atol=1e-5)
    np.testing.assert_array_equal(back[..., 1], -1)  # there is but one action: the network sees -1


def test_plans_are_proposed_in_actions_and_clipped_to_their_bounds():
    given, plain = scaled(), policy().diffusion
    state, key = jnp.zeros(39), jax.random.key(2)
    plans = given.propose(state, key, 3)
    expected = jnp.clip(given.unscaled(plain.propose(state, key, 3)), -1, 1)
    np.testing.assert_allclose(plans, expected, atol=1e-6)
    assert np.abs(plans[..., 2]).max() == 1


def test_losses_are_those_of_what_the_network_sees():
    given, plain = scaled(), policy().diffusion
    states, key = jnp.zeros((5, 39)), jax.random.key(1)
    plans = jax.random.uniform(key, (5, 8, 4), minval=-1.0)
    np.testing.assert_allclose(
        given.losses(given.network, states, plans, key),
        plain.losses(plain.network, states, given.scaled(plans), key),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("betas", "cosine", "Unknown beta schedule 'cosine'"),
        ("spacing", "trailing", "Unknown spacing 'trailing'"),
        (
            "network",
            {"kind": "transformer"},
            "'transformer'. Known: embedding-mlp, mlp, unet",
        ),
        ("network", {"kind": "unet", "down_dims": [8, 10**9]}, r"down_dims is \[8, 1000000000\]"),
        ("scaled", 1, "generator.scaled is 1"),
    ],
)
def test_what_no_file_can_say_is_named(tmp_path: Path, name: str, value: Any, message: str):
    policy().save(tmp_path / "policy", task="toy/task")
    file = tmp_path / "policy" / "policy.json"
    document = json.loads(file.read_text())
    document["generator"][name] = value
    file.write_text(json.dumps(document))
    reseal(tmp_path / "policy")
    with pytest.raises(OtprError, match=message):
        load_policy(tmp_path / "policy")


def test_a_scaled_policy_comes_back_from_disk(tmp_path: Path):
    made = policy().with_generator(scaled())
    made.save(tmp_path / "policy", task="toy/task")
    seen = np.zeros(39, np.float32)
    np.testing.assert_array_equal(load_policy(tmp_path / "policy").act(seen, 0), made.act(seen, 0))
