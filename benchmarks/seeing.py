"""What it costs to see: encoding frames, collecting with them, learning from them, keeping them."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.machine import peak_memory
from benchmarks.rollout import CHUNK_LENGTH, TASK, against_bare
from benchmarks.rows import Row
from benchmarks.sizes import FULL, Sizes
from benchmarks.subjects import GAMMA, batch_keys, default_agent, default_config, experience
from benchmarks.timing import in_turns, medians, ratio
from otpr.agents.parts.seeing import EncoderConfig, Seeing, new_agent
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.frames import DecisionObservations, spooled
from otpr.data.spool import Spool
from otpr.diffusion import NoiseSchedule
from otpr.envs import task_spec
from otpr.envs.registry import pixels_setup
from otpr.networks.noise import NoiseNetwork
from otpr.policies.denoising import Diffusion, noise_network
from otpr.policies.encoder import Normalizer, VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder
from otpr.spec import STATE, Entry, Spec, zeros
from otpr.training.learning import encode_anew, take_block, update_block

LOOKS = 25
"""Frames of an episode, one before each decision and one at its end."""


def seeing_policy(sizes: Sizes, spec: Spec, network: str = "small") -> Policy:
    """An untrained policy that looks at the images of its spec."""
    (state,) = spec.vectors.values()
    vectors = VectorEncoder({STATE: Normalizer(jnp.zeros(state.shape), jnp.ones(state.shape))})
    encoder = VisionEncoder.new(spec, vectors, network=network, shared=False, sizes={}, key=jax.random.key(0))
    mlp: NoiseNetwork = noise_network(
        {"kind": "mlp", "width": sizes.policy_width, "depth": sizes.policy_depth},
        spec.history * encoder.feature_dim,
        plan_shape(spec),
        jax.random.key(1),
    )
    return Policy(encoder, Diffusion(mlp, NoiseSchedule.cosine(10)), None, spec)


def _spec(side: int) -> Spec:
    """What a robot with one camera exchanges, as in Meta-World."""
    entries = {"corner": Entry((side, side, 3), "uint8", "image"), STATE: Entry((4,), "float32", "vector")}
    bounds = (1.0,) * FULL.action_dim
    low = tuple(-x for x in bounds)
    return Spec(entries, low, bounds, horizon=CHUNK_LENGTH, execute=CHUNK_LENGTH)


def encoding(sizes: Sizes) -> list[Row]:
    """Milliseconds a frame, as episodes are encoded once they are collected."""
    subjects = {
        "small": (sizes.vision_side, sizes.encoded),
        "resnet18": (sizes.resnet_side, sizes.encoded_resnet),
    }
    rows: list[Row] = []
    for network, (side, n) in subjects.items():
        spec = _spec(side)
        encoder, seen = seeing_policy(sizes, spec, network).encoder, _noise(spec, n)
        times = in_turns({"encode": functools.partial(encode, encoder, seen)}, sizes.turns)
        rows.append(
            Row(
                f"encode_{network}",
                1e3 * medians(times)["encode"] / n,
                "ms",
                f"milliseconds to encode a frame of {side} x {side} pixels, of {n} in a row",
                medians(times),
            )
        )
    return rows


def collecting(sizes: Sizes) -> list[Row]:
    """Environment steps a second with a policy that sees, over those without it."""
    setup = pixels_setup(TASK)
    plan = {"horizon": CHUNK_LENGTH, "execute": CHUNK_LENGTH}
    policy = seeing_policy(sizes, dataclasses.replace(task_spec(setup).spec, **plan))
    name = "collect_seeing_vs_bare"
    return against_bare(setup, {name: policy}, {name: 0.6}, sizes)


def updating(sizes: Sizes) -> list[Row]:
    """A gradient step of OTPR on states of features, over one on a task's own; and with a trained encoder."""
    spec = _spec(sizes.vision_side)
    base = seeing_policy(sizes, spec)
    sides: dict[str, Any] = {}
    for name, width in (("state", sizes.observation_dim), ("frozen", base.state_dim)):
        wide = dataclasses.replace(sizes, observation_dim=width)
        agent = default_agent(wide, CHUNK_LENGTH, levels=10)
        data = experience(wide, sizes.growth_replay[0], CHUNK_LENGTH)
        sides[name] = functools.partial(update_block, agent, data, batch_keys(sizes.block), True)
    times = in_turns(sides, max(sizes.turns, sizes.rollout_turns))
    each = {name: seconds / sizes.block for name, seconds in medians(times).items()}
    rows = [
        Row(
            "update_frozen_vs_state",
            ratio(times["frozen"], times["state"]),
            "x",
            f"an OTPR update with a frozen encoder, states of {base.state_dim} numbers / with states of "
            f"{sizes.observation_dim}",
            each,
            at_most=1.05,
        )
    ]
    seeing, data, frames = _seeing(sizes, base)
    n, rows_seen = sizes.seeing_updates, seeing.states_at(seeing.draw(data, jax.random.key(0))).shape[0]
    trained = in_turns(
        {
            "trained": functools.partial(take_block, seeing, data, n, True, frames),
            "frozen": functools.partial(take_block, seeing.agent, data, n, True),
            "encoded anew": functools.partial(encode_anew, seeing, data, frames.episodes),
        },
        sizes.turns,
    )
    rows.append(
        Row(
            "update_trained_vs_frozen",
            ratio(trained["trained"], trained["frozen"]),
            "x",
            "an OTPR update that trains the encoder too, by both losses / with a frozen encoder",
            {name: seconds / n for name, seconds in medians(trained).items() if name != "encoded anew"},
            note=f"{rows_seen} frames of {sizes.vision_side} x {sizes.vision_side} pixels a step, moved at "
            f"random, {1e3 * medians(trained)['trained'] / n:.0f} ms; "
            f"{1e3 * medians(trained)['encoded anew'] / _looks(frames):.2f} ms a frame to encode states anew",
        )
    )
    return rows


def _seeing(sizes: Sizes, base: Policy) -> tuple[Seeing, Experience, DecisionObservations]:
    """An agent at the default settings that trains its encoder, and what it learns from."""
    config = default_config(sizes)
    spool = Spool()
    episodes = [spooled(_episode(base.spec, i), spool) for i in range(max(2, sizes.encoded // LOOKS))]
    features = functools.partial(encode, base.encoder)
    data = Experience.of([episodes], (), features, spec=base.spec, gamma=GAMMA)
    agent = new_agent(base, data, config, EncoderConfig("both"), jax.random.key(1))
    assert isinstance(agent, Seeing)
    return agent, data, DecisionObservations(episodes, base.spec)


def _looks(frames: DecisionObservations) -> int:
    return LOOKS * len(frames.episodes)


def _episode(spec: Spec, seed: int) -> Episode:
    """Noise, looked at before every decision, that ends in success."""
    steps, rng = (LOOKS - 1) * spec.execute, np.random.default_rng(seed)
    looked = np.arange(0, steps + 1, spec.execute, dtype=np.int32)
    state = rng.normal(size=(steps + 1, *spec.observation[STATE].shape)).astype(np.float32)
    frames = rng.integers(0, 256, (LOOKS, *spec.observation["corner"].shape), dtype=np.uint8)
    actions = rng.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = 1
    seen = {STATE: state, "corner": frames}
    return Episode(seen, actions, rewards, True, False, True, seed, looked)


def _noise(spec: Spec, n: int) -> dict[str, np.ndarray]:
    rng, seen = np.random.default_rng(0), zeros(spec.observation, n)
    seen["corner"] = rng.integers(0, 256, seen["corner"].shape, dtype=np.uint8)
    return seen


def memory(sizes: Sizes) -> list[Row]:
    """What frames that an encoder learns from take of memory, in a process of its own."""
    n, side = sizes.kept_frames, sizes.vision_side
    child = [sys.executable, "-m", "benchmarks.seeing", *map(str, (n, side))]
    child += map(str, (sizes.kept_batch, sizes.kept_batches))
    measured = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE).stdout)
    return [
        Row(
            "memory_frames",
            measured["own"] / 1e6,
            "MB",
            f"growth of a process's own memory by {n:,} frames of {side} x {side} pixels, of which "
            f"{sizes.kept_batches} batches of {sizes.kept_batch} were read",
            {"a batch": measured["seconds"]},
            note=f"the frames are {n * side * side * 3 / 1e9:.2g} GB; with pages of the files that lie in "
            f"memory, and that the system takes back when it is short of it, at most "
            f"{measured['peak'] / 1e6:,.0f} MB",
        )
    ]


def measure_memory(n: int, side: int, batch: int, batches: int) -> dict[str, float]:
    """Growth of this process's memory, in bytes, and the seconds that a batch took."""
    spec, spool = _spec(side), Spool()
    episode = _episode(spec, 0)
    before, peak = _own_memory(), peak_memory()
    frames = DecisionObservations([], spec)
    for _ in range(-(-n // LOOKS)):
        frames.add(spooled(episode, spool))
    rows, rng = len(frames.episodes) * (len(episode) + 1), np.random.default_rng(0)
    started = time.perf_counter()
    for _ in range(batches):
        frames.of(rng.integers(0, rows, batch))
    spent = (time.perf_counter() - started) / batches
    return {"own": _own_memory() - before, "peak": peak_memory() - peak, "seconds": spent}


def _own_memory() -> int:
    """Bytes of memory that this process has to itself: pages of files, which come and go, are left out."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status has no line RssAnon; expected Linux 4.5 or later.")
    return int(found[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measure_memory(*map(int, sys.argv[1:]))))
