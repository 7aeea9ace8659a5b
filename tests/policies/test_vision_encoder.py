"""The encoder of policies that see: its features, its networks, its files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.diffusion import NoiseSchedule
from otpr.errors import OtprError
from otpr.networks.mlp import NoiseMLP
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder, vector_part
from otpr.spec import Entry, Spec
from tiny import arrays, assert_same_arrays, reseal

SPEC = Spec(
    {
        "joints": Entry((3,), "float64"),
        "left": Entry((32, 40, 3), "uint8", "image"),
        "right": Entry((32, 40, 3), "uint8", "image"),
    },
    (-1.0,) * 2,
    (1.0,) * 2,
    history=2,
    horizon=4,
    execute=2,
)
GENERATOR = np.random.default_rng(0)


def observations(n: int) -> dict[str, np.ndarray]:
    return {
        "joints": 1e6 + GENERATOR.normal(size=(n, 3)),
        "left": GENERATOR.integers(0, 256, (n, 32, 40, 3), np.uint8),
        "right": GENERATOR.integers(0, 256, (n, 32, 40, 3), np.uint8),
    }


SEEN = observations(5)
SIZES: dict[str, dict[str, Any]] = {
    "small": {"channels": 8, "depth": 1, "features": 6},
    "resnet18": {"keypoints": 4, "crop_shape": [32, 36], "mean": [0.4] * 3, "std": [0.2] * 3},
}


def encoder(network: str = "small", shared: bool = False, spec: Spec = SPEC) -> VisionEncoder:
    vectors = VectorEncoder.fit(vector_part(spec), {"joints": SEEN["joints"]}) if spec.vectors else None
    sizes = dict.fromkeys(["", *spec.images], SIZES[network])
    return VisionEncoder.new(
        spec, vectors, network=network, shared=shared, sizes=sizes, key=jax.random.key(0)
    )


def policy(made: VisionEncoder, spec: Spec = SPEC) -> Policy:
    state_dim = spec.history * made.feature_dim
    network = NoiseMLP(state_dim, plan_shape(spec), width=8, depth=1, key=jax.random.key(1))
    return Policy(made, Diffusion(network, NoiseSchedule.cosine(3)), None, spec)


def test_features_are_the_vectors_then_each_camera_s_in_the_alphabet_s_order() -> None:
    made = encoder()
    features = encode(made, SEEN)
    assert made.feature_dim == 3 + 6 + 6
    assert made.vectors is not None
    np.testing.assert_allclose(features[:, :3], encode(made.vectors, {"joints": SEEN["joints"]}), rtol=1e-6)
    np.testing.assert_allclose(features[:, :3].std(axis=0), 1, rtol=1e-4)  # float64 keeps its digits
    for i, name in enumerate(("left", "right")):
        expected = made.networks[name](jnp.asarray(SEEN[name]))
        np.testing.assert_allclose(features[:, 3 + 6 * i : 9 + 6 * i], expected, rtol=1e-4, atol=1e-5)


def test_cameras_that_share_a_network_see_alike() -> None:
    shared, apart = encoder(shared=True), encoder()
    alike = {**SEEN, "right": SEEN["left"]}
    left, right = np.split(encode(shared, alike)[:, 3:], 2, axis=1)
    np.testing.assert_array_equal(left, right)
    left, right = np.split(encode(apart, alike)[:, 3:], 2, axis=1)
    assert np.abs(left - right).min() > 0
    assert len(arrays(shared.networks)) * 2 == len(arrays(apart.networks))


def test_cameras_of_several_sizes_cannot_share_a_network() -> None:
    wide = {**SPEC.observation, "right": Entry((32, 48, 3), "uint8", "image")}
    spec = dataclasses.replace(SPEC, observation=wide)
    with pytest.raises(
        OtprError, match=r"left \(32, 40, 3\), right \(32, 48, 3\)\. Leave out --shared-vision"
    ):
        encoder(shared=True, spec=spec)
    assert encoder(spec=spec).feature_dim == 15


def test_there_may_be_no_vectors() -> None:
    spec = dataclasses.replace(SPEC, observation=SPEC.images)
    made = encoder(spec=spec)
    assert encode(made, {name: SEEN[name] for name in spec.images}).shape == (5, 12)


@pytest.mark.long
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("network", ["small", "resnet18"])
def test_it_comes_back_from_disk(network: str, shared: bool, tmp_path: Path) -> None:
    made = policy(encoder(network, shared))
    made.save(tmp_path / "policy", task="a/b")
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(made))
    assert loaded.encoder.about() == made.encoder.about()
    np.testing.assert_array_equal(encode(loaded.encoder, SEEN), encode(made.encoder, SEEN))
    window = {name: rows[:2] for name, rows in SEEN.items()}
    np.testing.assert_array_equal(loaded.act(window, 0), made.act(window, 0))


@pytest.mark.parametrize("shared", [False, True])
def test_a_file_of_format_6_has_one_place_for_the_sizes_of_all_networks(shared: bool, tmp_path: Path) -> None:
    made = policy(encoder("small", shared))
    made.save(tmp_path / "policy", task="a/b")
    file = tmp_path / "policy" / "policy.json"
    document = json.loads(file.read_text())
    document |= {"format": 6, "encoder": {"kind": "vision", "network": "small", "shared": shared}}
    document["encoder"] |= SIZES["small"]
    names = ("betas", "beta_start", "beta_end", "spacing", "clipped_noise", "scaled")
    document["generator"] = {k: v for k, v in document["generator"].items() if k not in names}
    del document["generator"]["network"]["kind"]
    file.write_text(json.dumps(document))
    reseal(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.encoder.about() == made.encoder.about()
    assert_same_arrays(arrays(loaded), arrays(made))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "policy"
    policy(encoder("resnet18")).save(path, task="a/b")
    return path


@pytest.mark.long
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("network", "../small"),
        ("network", 3),
        ("shared", "yes"),
        ("keypoints", 10**9),
        ("crop_shape", [32] * 99),
        ("crop_shape", [32, -1]),
        ("crop_shape", "all"),
        ("mean", [float("1e300")] * 3),
        ("mean", 0.5),
        ("std", [0.0, 1.0, 1.0]),
        ("norm", "layer"),
    ],
)
def test_a_forged_description_is_refused(field: str, value: Any, saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "policy")
    file = tmp_path / "policy" / "policy.json"
    document = json.loads(file.read_text())
    within = document["encoder"] if field in ("network", "shared") else document["encoder"]["images"]["left"]
    within[field] = value
    file.write_text(json.dumps(document))
    reseal(tmp_path / "policy")
    with pytest.raises(OtprError, match=rf"{field}|vision network|deviations, these above 0"):
        load_policy(tmp_path / "policy")


def test_states_of_training_are_those_of_acting_where_nothing_is_random() -> None:
    made = encoder()
    seen = {name: jnp.asarray(array) for name, array in made.on_device(SEEN).items()}
    windows = {name: jnp.stack([array[:2], array[1:3]]) for name, array in seen.items()}
    states = made.training_states(windows, 0, jax.random.key(0))
    features = encode(made, SEEN)
    expected = [features[:2].ravel(), features[1:3].ravel()]
    np.testing.assert_allclose(states, np.stack(expected), rtol=1e-4, atol=1e-5)
    shifted = made.training_states(windows, 4, jax.random.key(0))
    assert np.abs(np.asarray(shifted - states))[:, 3:].max() > 1e-3
    np.testing.assert_allclose(shifted[:, :3], states[:, :3], atol=1e-5)  # vectors stay
