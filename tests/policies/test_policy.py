from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otpr
from otpr.diffusion import sample
from otpr.errors import OtprError
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.loading import load_policy, policy_task
from otpr.policies.policy import Policy
from tiny import TASK, arrays, assert_same_arrays, chooser, files, policy

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 39)).astype(np.float32)
KINDS = {
    "one sample": policy(),
    "resampled": policy(chooser=chooser(u=0.5)),
    "guided": policy(chooser=chooser(alpha=0.4, epsilon=0.3, u=0.5)),
    "untrained": policy(chooser=chooser(trained=False)),
    "few steps": policy(chooser=chooser(u=0.5)).with_sampler("dpm++", 3),
}
SMALL = policy(observation_dim=3, action_dim=2, chooser=chooser(3, 16))


@pytest.mark.parametrize("kind", ["one sample", "resampled"])
def test_act_gives_a_chunk_of_actions_and_depends_on_the_seed_alone(kind: str):
    acting = KINDS[kind]
    chunk = acting.act(OBSERVATIONS[0], 3)
    assert chunk.shape == (8, 4)
    assert chunk.dtype == np.float32
    assert np.abs(chunk).max() <= 1.0
    np.testing.assert_array_equal(chunk, acting.act(OBSERVATIONS[0], 3))
    assert np.abs(chunk - acting.act(OBSERVATIONS[0], 4)).max() > 0.1
    assert np.abs(chunk - acting.act(OBSERVATIONS[1], 3)).max() > 1e-3


def test_observations_are_normalised_inside():
    """Raw observations of a policy with statistics are normalised observations of one without."""
    acting = KINDS["one sample"]
    normalizer = acting.encoder.normalizers["state"]
    unit = Normalizer(jnp.zeros(39), jnp.ones(39))
    plain = dataclasses.replace(acting, encoder=VectorEncoder({"state": unit}))
    normalised = (OBSERVATIONS[0] - np.asarray(normalizer.mean)) / np.asarray(normalizer.scale)
    np.testing.assert_allclose(acting.act(OBSERVATIONS[0], 3), plain.act(normalised, 3), atol=1e-5)
    assert np.abs(plain.act(OBSERVATIONS[0], 3) - plain.act(normalised, 3)).max() > 1e-2


def test_with_a_chooser_the_chunk_is_one_of_the_candidates_and_among_the_compatible():
    acting = KINDS["resampled"]
    assert acting.chooser is not None
    compatibility = []
    for observation in OBSERVATIONS:
        chunk = acting.act(observation, 7).reshape(-1)
        propose_key, _ = jax.random.split(jax.random.key(7))
        seen = {"state": observation[None]}
        state = acting.state(seen)
        plans = acting.propose({"state": seen["state"][None]}, propose_key[None], acting.candidates)
        candidates = np.asarray(plans).reshape(acting.candidates, -1)
        distances = np.abs(candidates - chunk).max(axis=1)
        assert distances.min() < 1e-5
        H = acting.chooser(jnp.broadcast_to(state, (len(candidates), 39)), jnp.asarray(candidates))
        compatibility.append(float(H[distances.argmin()]))
    assert min(compatibility) > 0


def test_single_draws_once_from_the_same_network():
    single = KINDS["resampled"].single()
    assert single.chooser is None
    assert_same_arrays(arrays(single), arrays(KINDS["one sample"]))
    np.testing.assert_array_equal(single.act(OBSERVATIONS[0], 3), KINDS["one sample"].act(OBSERVATIONS[0], 3))


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", None), ("ddpm", 2), ("ddim", 2), ("dpm++", 3), ("sde-dpm++", 3)]
)
def test_proposes_by_its_sampler(sampler, steps: int | None):
    acting, key = KINDS["one sample"], jax.random.key(2)
    seen = {"state": OBSERVATIONS[:1]}
    state = acting.state(seen)

    def predict_noise(plans, k):
        return jax.vmap(lambda plan: acting.diffusion.network(state, plan, k))(plans)

    def proposed(acting: Policy) -> jax.Array:
        return acting.propose({"state": seen["state"][None]}, key[None], 5)[0]

    expected = sample(predict_noise, acting.diffusion.schedule, (5, 8, 4), key, method=sampler, steps=steps)
    plans = proposed(acting.with_sampler(sampler, steps))
    np.testing.assert_allclose(plans, expected, atol=1e-6)
    if (sampler, steps) != ("ddpm", None):  # what it does where nothing else is said
        assert np.abs(plans - proposed(acting)).max() > 0.01
    assert acting.with_sampler(sampler, steps).single().diffusion.sampler == sampler


def test_sampler_that_can_not_be_is_refused():
    with pytest.raises(OtprError, match=r"Unknown sampler 'ddmp'\. Did you mean 'ddpm'"):
        SMALL.with_sampler("ddmp")  # pyright: ignore[reportArgumentType]
    for steps in (0, -1, 5):
        with pytest.raises(OtprError, match=rf"sampler_steps must lie in 1\.\.4 .*given {steps}\."):
            SMALL.with_sampler("ddim", steps)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(38), r"observation has shape \(38,\), the policy expects \(39,\)"),
        (np.zeros((1, 39)), r"observation has shape \(1, 39\)"),
        (np.where(np.arange(39) == 5, np.nan, 0.0), r"not finite at indices \[5\]"),
    ],
)
def test_observation_that_does_not_fit_is_refused(observation: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        KINDS["one sample"].act(observation, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_policy_comes_back_bit_for_bit(kind: str, tmp_path: Path):
    saved = KINDS[kind]
    saved.save(tmp_path / "deep" / "policy", task=TASK)
    loaded = otpr.load_policy(tmp_path / "deep" / "policy")
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)  # also all that is not an array
    assert_same_arrays(arrays(loaded), arrays(saved))
    for seed, observation in enumerate(OBSERVATIONS):
        np.testing.assert_array_equal(loaded.act(observation, seed), saved.act(observation, seed))
    assert policy_task(tmp_path / "deep" / "policy") == TASK
    *rest, weights = sorted(files(tmp_path / "deep" / "policy"))
    assert rest == ["README.md", "SHA256SUMS", "policy.json"]
    assert weights.startswith("weights.")


def test_run_directory_stands_for_the_policy_in_it(tmp_path: Path):
    SMALL.save(tmp_path / "policy", task=TASK)
    assert_same_arrays(arrays(load_policy(tmp_path)), arrays(SMALL))
    assert policy_task(str(tmp_path)) == TASK


def test_loading_needs_nothing_but_the_folder(tmp_path: Path):
    """No simulator, no data, no training code: in a process where importing any of them fails."""
    KINDS["resampled"].save(tmp_path / "policy", task=TASK)
    np.save(tmp_path / "observation.npy", OBSERVATIONS[0])
    script = """if True:
        import sys
        for name in ("otpr.training", "otpr.envs", "otpr.data", "otpr.cli", "otpr_bench",
                      "gymnasium", "metaworld", "mujoco", "minari", "tyro", "rich",
                     "tensorboard", "matplotlib"):
            sys.modules[name] = None
        import hashlib
        import numpy as np
        import otpr
        policy = otpr.load_policy("policy")
        chunk = policy.act(np.load("observation.npy"), 5)
        print(chunk.shape, hashlib.sha256(chunk.tobytes()).hexdigest())
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    expected = hashlib.sha256(KINDS["resampled"].act(OBSERVATIONS[0], 5).tobytes()).hexdigest()
    assert done.stdout.split("\n")[0] == f"(8, 4) {expected}"


def test_saving_replaces_an_older_policy_whole(tmp_path: Path):
    KINDS["resampled"].save(tmp_path / "policy", task="old/task")
    SMALL.save(tmp_path / "policy", task=TASK)
    assert_same_arrays(arrays(load_policy(tmp_path / "policy")), arrays(SMALL))
    assert policy_task(tmp_path / "policy") == TASK
    assert len(files(tmp_path)) == 4


def test_failure_while_saving_leaves_the_older_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    SMALL.save(tmp_path / "policy", task=TASK)
    before = files(tmp_path)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    # one of them writes the arrays
    monkeypatch.setattr(np, "savez", disk_full)
    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OtprError, match=r"policy cannot be written \(No space left on device\)"):
        KINDS["resampled"].save(tmp_path / "policy", task=TASK)
    assert files(tmp_path) == before


def test_saving_does_not_delete_what_is_not_a_policy(tmp_path: Path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(OtprError, match="thesis exists and is not a policy"):
        SMALL.save(tmp_path / "thesis", task=TASK)
    assert files(tmp_path) == {"thesis/chapter1.tex": b"years of work"}


def test_policies_of_one_shape_are_one_compiled_program():
    """A deployed policy changes its numbers every round; that must not compile again."""
    other: Policy = policy(chooser=chooser(u=0.5, seed=1), seed=1)
    assert jax.tree.structure(other) == jax.tree.structure(KINDS["resampled"])
