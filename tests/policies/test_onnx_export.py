"""Policies as ONNX models: the same actions from the same noise, with numpy and onnxruntime alone.

The extra `onnx` is not in the locked environment: `make test-onnx` installs it and runs these.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.agents.otpr.compatibility import Rule
from otpr.cli.main import main
from otpr.diffusion import NoiseSchedule
from otpr.diffusion.sampling import Noise
from otpr.errors import OtprError
from otpr.networks.mlp import VelocityNetwork
from otpr.networks.residual_mlp import EmbeddingMLP
from otpr.networks.unet import UNet
from otpr.policies.asked import Asked
from otpr.policies.choosers import ByQ, ExpectileWeights, QRule
from otpr.policies.convert import onnx_export
from otpr.policies.convert.exported import write_files
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.generators import Flow, NoiseDriven, OneStep, TanhGaussian
from otpr.policies.policy import Policy
from otpr.policies.units import in_units
from otpr.policies.vision import VisionEncoder
from otpr.spec import Entry, Spec

KEY = jax.random.key(0)
SPEC = Spec(
    {"state": Entry((5,), "float64")}, (-1, -3), (1, 9), None, history=2, horizon=8, execute=3, offset=1
)
STATE_DIM, PLAN = 10, (8, 2)


def encoder() -> VectorEncoder:
    mean, scale = jnp.arange(5.0) * 100, jnp.linspace(0.5, 2, 5)
    return VectorEncoder({"state": Normalizer(mean, scale, rest=jnp.full(5, 1e-6))})


def diffusion(network: Any, **how: Any) -> Diffusion:
    return Diffusion(network, NoiseSchedule.cosine(6), **how)


def unet() -> UNet:
    return UNet(STATE_DIM, PLAN, down_dims=(8, 16), step_dim=8, key=KEY)


def mlp() -> EmbeddingMLP:
    return EmbeddingMLP(STATE_DIM, PLAN, widths=(16, 16, 16), layer_norm=True, key=KEY)


GENERATORS: dict[str, Any] = {
    "unet, ddpm": lambda: diffusion(unet()),
    "deep unet, ddim": lambda: diffusion(
        UNet(STATE_DIM, PLAN, down_dims=(8,), step_dim=8, deep_condition=True, key=KEY),
        sampler="ddim",
        sampler_steps=3,
        spacing="leading",
    ),
    "embedding mlp, limited": lambda: diffusion(
        mlp(), noise_limit=1.0, low=jnp.full(2, -0.5), high=jnp.ones(2)
    ),
    "dpm++": lambda: diffusion(mlp(), sampler="dpm++", sampler_steps=4),
    "sde-dpm++": lambda: diffusion(mlp(), sampler="sde-dpm++", prediction="velocity", bound=None),
    "tuned": lambda: TunedDiffusion(diffusion(mlp()), mlp(), 2, 0.1),
    "flow": lambda: Flow(VelocityNetwork(STATE_DIM, PLAN, width=16, depth=2, key=KEY), 4),
    "one step": lambda: OneStep.new(STATE_DIM, PLAN, width=16, depth=2, key=KEY),
    "gaussian": lambda: TanhGaussian.new(STATE_DIM, PLAN, width=16, depth=2, key=KEY),
}


def policy_of(name: str) -> Policy:
    return Policy(encoder(), GENERATORS[name](), None, SPEC)


@pytest.mark.parametrize("name", GENERATORS)
def test_given_noise_is_what_is_drawn(name: str) -> None:
    """`from_noise` is `propose` with its noise from outside; needs no extra."""
    generator, state = GENERATORS[name](), jnp.linspace(-1, 1, STATE_DIM)
    assert isinstance(generator, NoiseDriven)
    steps = jax.random.normal(KEY, (generator.noise_steps, 4, *PLAN)) if generator.noise_steps else None
    plans = generator.from_noise(state, Noise(jax.random.normal(KEY, (4, *PLAN)), steps))
    assert plans.shape == (4, *PLAN) and np.abs(plans).max() <= 1
    other = generator.from_noise(state, Noise(-jax.random.normal(KEY, (4, *PLAN)), steps))
    assert np.abs(plans - other).max() > 1e-3


onnxruntime = pytest.importorskip("onnxruntime", reason="make test-onnx")
pytest.importorskip("jax2onnx", reason="make test-onnx")


def drawn(policy: Policy, folder: Path, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What `act.py` draws for a seed, and an observation."""
    random, noise = np.random.default_rng(seed), dict[str, np.ndarray]()
    for entry in onnxruntime.InferenceSession(str(folder / "policy.onnx")).get_inputs():
        if entry.name.startswith("noise/"):
            draw = random.gumbel if entry.name == "noise/choice" else random.standard_normal
            noise[entry.name] = draw(size=entry.shape).astype(np.float32)
    rng, seen = np.random.default_rng(seed + 1), dict[str, np.ndarray]()
    for name, entry in policy.spec.observation.items():
        shape = (policy.spec.history, *entry.shape)
        seen[name] = (
            rng.integers(0, 256, shape).astype(np.uint8)
            if entry.kind == "image"
            else (rng.normal(size=shape) * 100).astype(entry.dtype)
        )
    return seen, noise


def ours(policy: Policy, seen: dict[str, np.ndarray], noise: dict[str, np.ndarray]) -> np.ndarray:
    """The policy's actions for given noise, in its own units, step by step in float64 at the end."""
    generator = policy.generator
    assert isinstance(generator, NoiseDriven)
    state = policy.state({name: jnp.asarray(x) for name, x in policy.encoder.on_device(seen).items()})
    steps = noise.get("noise/steps")
    given = Noise(jnp.asarray(noise["noise/start"]), None if steps is None else jnp.asarray(steps))
    plans = generator.from_noise(state, given)
    plan = plans[0]
    if policy.chooser is not None:
        scores = policy.chooser.scores(state, policy.chunks(plans))
        plan = plans[policy.chooser.pick_by(scores, jnp.asarray(noise["noise/choice"]))[0]]
    return in_units(np.asarray(plan[policy.spec.executed]), policy.spec)


ALONE = """
import sys
for name in ("jax", "otpr", "onnx", "jax2onnx"):
    sys.modules[name] = None  # not to be imported
sys.path.insert(0, sys.argv[1])
import numpy as np
from act import Policy
seen = dict(np.load(sys.argv[2]))
policy = Policy(threads=1)
np.save(sys.argv[3], np.stack([policy.act(seen, seed) for seed in range(3)]))
"""


def check(policy: Policy, tmp_path: Path) -> None:
    """Export, run by `act.py` in a process of its own, and compare."""
    folder = tmp_path / "exported"
    write_files(onnx_export.export_onnx(policy), folder)
    seen = drawn(policy, folder, 0)[0]
    np.savez(tmp_path / "seen.npz", **seen)
    command = [sys.executable, "-c", ALONE, folder, tmp_path / "seen.npz", tmp_path / "actions.npy"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "actions.npy")
    expected = np.stack([ours(policy, seen, drawn(policy, folder, seed)[1]) for seed in range(3)])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.shape == (3, policy.spec.execute, policy.spec.action_dim)
    described = json.loads((folder / "spec.json").read_text())
    assert Spec.from_json(described["spec"]) == policy.spec
    for name, entry in policy.spec.observation.items():
        given = described["inputs"][name]
        assert (given["shape"], given["dtype"]) == ([policy.spec.history, *entry.shape], entry.dtype)


@pytest.mark.parametrize("name", GENERATORS)
def test_actions_are_the_policys(name: str, tmp_path: Path) -> None:
    check(policy_of(name), tmp_path)


@pytest.mark.parametrize("rule", get_args(Rule))
def test_otprs_choice_is_made_in_the_model(rule: Rule, tmp_path: Path) -> None:
    policy = policy_of("embedding mlp, limited")
    chooser = dataclasses.replace(tiny.chooser(STATE_DIM, policy.spec.chunk_dim), rule=rule)
    for i, trained in enumerate((True, False)):
        choosing = policy.choosing(dataclasses.replace(chooser, trained=jnp.asarray(trained)), 8)
        (tmp_path / str(i)).mkdir()
        check(choosing, tmp_path / str(i))


@pytest.mark.parametrize("kind", [*get_args(QRule), "expectile"])
def test_choices_by_critics_are_made_in_the_model(kind: QRule | Literal["expectile"], tmp_path: Path) -> None:
    policy = policy_of("flow")
    of_otpr = tiny.chooser(STATE_DIM, policy.spec.chunk_dim).cost
    chooser = (
        ExpectileWeights(of_otpr.critic, of_otpr.value, 0.8)
        if kind == "expectile"
        else ByQ(of_otpr.critic, "mean", kind)
    )
    check(policy.choosing(chooser, 8), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("network", ["small", "resnet18"])
def test_images_are_seen_in_the_model(network: str, tmp_path: Path) -> None:
    image = Entry((40, 36, 3), "uint8", "image")
    spec = Spec({"state": Entry((5,)), "top": image}, (-1, -1), (1, 1), horizon=8, execute=4)
    vectors = VectorEncoder({"state": Normalizer(jnp.zeros(5), jnp.ones(5))})
    sizes = {"": {"crop_shape": [36, 32]}} if network == "resnet18" else {}
    vision = VisionEncoder.new(spec, vectors, network=network, shared=True, sizes=sizes, key=KEY)
    generator = diffusion(UNet(vision.feature_dim, PLAN, down_dims=(8, 16), step_dim=8, key=KEY))
    check(Policy(vision, generator, None, spec), tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy_of("flow").save(tmp_path / "policy", task="")
    arguments = [
        "policy",
        "export",
        str(tmp_path / "policy"),
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--state-length", "3"]) == 2
    assert "are for --format lerobot" in capsys.readouterr().err
    assert main(arguments) == 0
    assert (
        capsys.readouterr().out == f"Written for onnxruntime, with an example in act.py: {tmp_path / 'out'}\n"
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "SHA256SUMS",
        "act.py",
        "policy.onnx",
        "spec.json",
    ]


def test_a_policy_that_only_answers_is_refused() -> None:
    policy = dataclasses.replace(policy_of("flow"), generator=Asked())
    with pytest.raises(OtprError, match=r"plans are made in another process \('asked'\)"):
        onnx_export.export_onnx(policy)


def test_a_model_that_computes_otherwise_is_not_given_out(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("flow")
    compare, other = onnx_export._compare, dataclasses.replace(policy.generator, steps=3)
    monkeypatch.setattr(onnx_export, "_compare", lambda p, _, *rest: compare(p, other, *rest))
    with pytest.raises(OtprError, match=r"actions differ from the policy's by .* nothing is written"):
        onnx_export.export_onnx(policy)
