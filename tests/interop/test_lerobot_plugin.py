"""The plugin `lerobot_policy_otpr`: LeRobot acts as otpr does, choice included (`make interop`)."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseMLP
from otpr.policies.acting import recent
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.policies.units import in_units
from otpr.policies.vision import VisionEncoder
from otpr.spec import Entry, Spec

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("OTPR_INTEROP", ROOT / ".venv-interop")) / "bin" / "python"
STEPS, ENVIRONMENTS = 7, 2

pytestmark = pytest.mark.interop


def run(*arguments: Any) -> str:
    """In LeRobot's environment, where otpr and the plugin are installed."""
    environment = {**os.environ, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": "", "SDL_VIDEODRIVER": "dummy"}
    command = [str(PYTHON), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def choosing(spec: Spec, images: bool = False) -> Policy:
    """A policy that chooses among eight plans."""
    size = spec.observation["state"].shape[0]
    encoder: Any = VectorEncoder({"state": Normalizer(jnp.zeros(size), jnp.ones(size))})
    if images:
        encoder = VisionEncoder.new(
            spec, encoder, network="small", shared=True, sizes={}, key=jax.random.key(2)
        )
    state_dim = spec.history * encoder.feature_dim
    plan = (spec.horizon, spec.action_dim)
    network = NoiseMLP(state_dim, plan, width=16, depth=2, key=jax.random.key(1))
    policy = Policy(encoder, Diffusion(network, NoiseSchedule.cosine(4)), None, spec)
    return policy.choosing(tiny.chooser(state_dim, spec.chunk_dim), 8)


IMAGE = Entry((40, 36, 3), "uint8", "image")
CASES = {
    "state": (Spec.flat(5, 2, history=2, horizon=8, execute=3, offset=1), ["--state-length", "3"]),
    "images": (
        Spec({"state": Entry((3,)), "top": IMAGE}, (0, 0), (512, 512), horizon=8, execute=4),
        ["--image-key", "top=observation.image"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_lerobot_acts_as_otpr_does(name: str, tmp_path: Path) -> None:
    spec, options = CASES[name]
    policy = choosing(spec, images=name == "images")
    policy.save(tmp_path / "policy", task="")
    run("-m", "lerobot_policy_otpr.folder", tmp_path / "policy", "--out", tmp_path / "theirs", *options)
    run(Path(__file__).with_name("plugin_side.py"), tmp_path / "theirs", tmp_path / "actions.npy")
    found = np.load(tmp_path / "actions.npy")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    shapes = {key: tuple(feature["shape"]) for key, feature in config["input_features"].items()}
    for episode in range(2):
        for i in range(ENVIRONMENTS):
            seen = [_ours(config, step, i) for step in _observations(shapes)]
            expected = _episode(policy, seen, episode + 1, i)
            np.testing.assert_allclose(found[episode, :, i], expected, atol=1e-4 * np.ptp(expected))


def _observations(shapes: dict[str, tuple[int, ...]]) -> list[dict[str, np.ndarray]]:
    """As `plugin_side.observations` makes them."""
    rng = np.random.default_rng(0)
    steps: list[dict[str, np.ndarray]] = []
    for _ in range(STEPS):
        step: dict[str, np.ndarray] = {}
        for name, (first, *rest) in shapes.items():
            shape = (ENVIRONMENTS, *rest, first)
            step[name] = (
                rng.integers(0, 256, shape).astype(np.uint8)
                if rest
                else rng.normal(size=shape).astype(np.float32)
            )
        steps.append(step)
    return steps


def _ours(config: dict[str, Any], step: dict[str, np.ndarray], i: int) -> dict[str, np.ndarray]:
    vectors = [step[key][i] for key in config["state_keys"]]
    images = {name: step[key][i] for name, key in config["image_keys"].items()}
    return {"state": np.concatenate(vectors), **images}


def _episode(policy: Policy, seen: list[dict[str, np.ndarray]], episode: int, i: int) -> np.ndarray:
    """The actions of an episode, in their own units."""
    spec, actions = policy.spec, list[np.ndarray]()
    for step in range(len(seen)):
        if step % spec.execute == 0:
            words = (0, episode, i, step // spec.execute)
            seed = int(np.random.SeedSequence(words).generate_state(1)[0])
            given = recent(seen[: step + 1], spec.history)
            given = given[spec.only_vector] if spec.only_vector else given
            chunk = in_units(policy.act(given, seed), spec)
        actions.append(chunk[step % spec.execute])
    return np.stack(actions)


def test_lerobot_eval_runs_a_policy_that_chooses(tmp_path: Path) -> None:
    spec = dataclasses.replace(
        Spec.flat(18, 2, horizon=8, execute=8), action_low=(0.0, 0.0), action_high=(512.0, 512.0)
    )
    choosing(spec).save(tmp_path / "policy", task="")
    folder = tmp_path / "theirs"
    run("-m", "lerobot_policy_otpr.folder", tmp_path / "policy", "--state-length", 2, "--out", folder)
    of_env = ("--env.type=pusht", "--env.obs_type=environment_state_agent_pos", "--env.episode_length=24")
    how = ("--eval.n_episodes=2", "--eval.batch_size=2", f"--output_dir={tmp_path / 'out'}")
    run("-m", "lerobot.scripts.lerobot_eval", f"--policy.path={folder}", *of_env, *how, "--seed=3")
    told = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert told["overall"]["n_episodes"] == 2
