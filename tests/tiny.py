"""Small things that several test modules share: two demonstrations, a policy of few weights, a short run.

All use the same shapes, so that what one test compiles the others reuse.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Generator
from pathlib import Path
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents.otpr.compatibility import Compatibility, TransportCost
from otpr.agents.parts.agent import AgentConfig
from otpr.agents.parts.seeing import EncoderConfig
from otpr.data.collect import collect
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.diffusion import NoiseSchedule
from otpr.envs import ChunkedVectorEnv
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseMLP
from otpr.ot import Potentials
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training.finetune import FineTuning
from otpr.training.loop import LoopConfig
from otpr.training.run_directory import RunDirectory
from otpr.training.workers import Lockstep, Workers
from otpr.trees import read_arrays

TASK = "metaworld/peg-insert-side-v3"
COLLECT = {"episodes": 2, "noise": 0.1, "seed": 0}
POLICY = {"width": 16, "depth": 2, "denoising_steps": 4, "horizon": 8}
AGENT = (
    "critic_width=16",
    "potentials_width=16",
    "batch_size=32",
    "ot_block=32",
    "ot_batch=16",
    "ot_blocks=2",
    "potentials_steps=10",
    "candidates=4",
    "update_ratio=0.8",
    "warmup_updates=250",
)
LOOP: dict[str, Any] = {
    "env_steps": 1200,  # three rounds: a policy of few weights never succeeds, so an episode has 200 steps
    "num_envs": 2,
    "warmup_steps": 400,
    "eval_every": 800,
    "eval_episodes": 2,
    "final_eval_episodes": 3,
    "checkpoint_every": 700,
}


def sitting(
    path: Path,
    base: Policy,
    episodes: list[Episode],
    env: ChunkedVectorEnv | Workers,
    *,
    agent: AgentConfig,
    loop: LoopConfig,
    encoder: EncoderConfig = EncoderConfig(),
    seed: int = 0,
    resume: bool = False,
    devices: int = 1,
) -> FineTuning:
    """One sitting of a run, as the command does it: to its end, or to the first signal or error."""
    config = {"seed": seed, "loop": dataclasses.asdict(loop)}
    with RunDirectory.open(path, command="finetune", config=config, resume=resume) as run:
        job = FineTuning(
            base,
            [episodes],
            preset="default",
            seed=seed,
            agent=agent,
            encoder=encoder,
            loop=loop,
            run=run,
            workers=env if isinstance(env, Workers) else Lockstep(env),
            devices=devices,
        )
        if resume:
            job.restore()
        job.run_to_end()
    return job


@contextlib.contextmanager
def dying_after(name: str, number: int) -> Generator[None]:
    """A run dies at once after the row of metrics whose `name` is that; what no checkpoint holds is lost."""
    log = RunDirectory.log

    def log_and_die(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if row[name] == number:
            raise SystemExit

    with mock.patch.object(RunDirectory, "log", log_and_die), pytest.raises(SystemExit):
        yield


def options(settings: dict[str, Any]) -> list[str]:
    """As on the command line."""
    return [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def batch_keys(updates: int) -> jax.Array:
    """Keys of the batches of so many gradient steps."""
    return jax.random.split(jax.random.key(5), updates)


@functools.cache
def demonstrations() -> list[Episode]:
    return collect(TASK, **COLLECT)


def policy(
    *,
    observation_dim: int = 39,
    action_dim: int = 4,
    chooser: Compatibility | None = None,
    seed: int = 0,
    **plan: int,
) -> Policy:
    """An untrained policy; `plan` may have another `history`, `horizon` and `execute` than 1, 8 and 8."""
    spec = Spec.flat(observation_dim, action_dim, **{"horizon": POLICY["horizon"], "execute": 8, **plan})
    normalizer = Normalizer(jnp.linspace(-0.5, 0.5, observation_dim), jnp.linspace(0.5, 2.0, observation_dim))
    network = NoiseMLP(
        spec.history * observation_dim,
        plan_shape(spec),
        width=POLICY["width"],
        depth=POLICY["depth"],
        key=jax.random.key(seed),
    )
    return Policy(
        encoder=VectorEncoder({"state": normalizer}),
        generator=Diffusion(network, NoiseSchedule.cosine(POLICY["denoising_steps"])),
        chooser=chooser,
        spec=spec,
        candidates=1 if chooser is None else 6,
    )


def experience(
    policy: Policy, episodes: list[Episode], gamma: float = 0.99, room: int = 0, spec: Spec | None = None
) -> Experience:
    """Demonstrations as a policy sees them, one data set of them."""
    features = functools.partial(encode, policy.encoder)
    return Experience.of([episodes], (), features, spec=spec or policy.spec, gamma=gamma, room=room)


def chooser(
    state_dim: int = 39,
    chunk_dim: int = 32,
    *,
    alpha: float = 0.0,
    epsilon: float = 0.2,
    trained: bool = True,
    u: float = 0.0,
    seed: int = 0,
) -> Compatibility:
    """An untrained compatibility; `u` is added to its potential of the states."""
    critic_key, value_key, potential_key, data_key = jax.random.split(jax.random.key(seed), 4)
    cost = TransportCost(
        critic=QEnsemble(state_dim, chunk_dim, size=2, width=16, depth=2, key=critic_key),
        value=eqx.nn.MLP(state_dim, "scalar", 16, 1, jax.nn.relu, key=value_key),
        scale=jnp.asarray(0.7, jnp.float32),
        keypoint_states=jax.random.normal(data_key, (5, state_dim)),
        keypoint_actions=jax.random.normal(jax.random.fold_in(data_key, 1), (5, chunk_dim)),
        alpha=alpha,
        temperature=0.3,
    )
    potentials = Potentials(state_dim, chunk_dim, width=16, depth=2, key=potential_key)
    potentials = eqx.tree_at(
        lambda p: p.state_network.layers[-1].bias, potentials, replace_fn=lambda bias: bias + u
    )
    return Compatibility(cost, potentials, jnp.asarray(trained), epsilon)


def arrays(tree: Any) -> dict[str, np.ndarray]:
    """The array leaves of a pytree by path, PRNG keys as their words."""

    def plain(leaf: Any) -> np.ndarray:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    leaves = jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_array))
    return {jax.tree_util.keystr(path): plain(leaf) for path, leaf in leaves}


def assert_same_arrays(given: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal bit for bit, and there is something to compare."""
    assert given.keys() == expected.keys()
    assert given
    different = [name for name in expected if not _same_bits(given[name], expected[name])]
    assert different == []


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def weights(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a saved policy."""
    return read_arrays(folder / "weights.safetensors")


def files(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, to see that nothing was written."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def reseal(folder: Path) -> None:
    """Write the checksums of what is in a folder now, as somebody does who forges it."""
    files = [file for file in sorted(folder.iterdir()) if file.name not in ("SHA256SUMS", "README.md")]
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (folder / "SHA256SUMS").write_text("".join(sums))
