"""Fingerprints: a tiny run of every algorithm, and a handful of its numbers kept in tests/golden.

    .venv/bin/python -m benchmarks.golden

writes the fingerprints anew. A test compares them with a fresh run, so that a change of an algorithm's
numbers cannot pass unnoticed: whoever changes them first raises the algorithm's result version in
`otpr_bench.result_versions`. Without a raised version this command refuses to write changed numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from otpr.agents import agent_class, agent_config, algorithm_names
from otpr.agents.parts.agent import OffPolicyAgent, OnPolicyAgent, Round
from otpr.data.episodes import Episode
from otpr.data.experience import Collected, Experience
from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseMLP
from otpr.policies.acting import decision_keys
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training.learning import end_round, learn_round, update_block
from otpr_bench.result_versions import ALGORITHM_VERSIONS

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"

COMMAND = "python -m benchmarks.golden"

TOLERANCE = 1e-4
"""For numbers of size 1. With SSE4.2 instructions in place of AVX none moved by more than 1e-6."""

SPEC, ACTION_SEED = Spec.flat(3, 2, horizon=2, execute=2), 5

SMALL = {
    "batch_size": 16,
    "candidates": 4,
    "critic_depth": 1,
    "critic_width": 16,
    "decisions": 16,
    "depth": 1,
    "ema_rate": 0.5,
    "epochs": 3,
    "learning_rate": 1e-2,
    "offline_updates": 0,
    "ot_batch": 8,
    "ot_block": 16,
    "ot_blocks": 2,
    "policy_depth": 2,
    "policy_learning_rate": 1e-2,
    "policy_width": 16,
    "potentials_depth": 1,
    "potentials_steps": 5,
    "potentials_width": 16,
    "target_rate": 0.5,
    "value_iterations": 1,
    "width": 16,
}
"""Changed fields, for the algorithms that have them: a run is short, and a few steps have visible effects."""


def fingerprint(algorithm: str, changes: Sequence[str] = ()) -> dict[str, list[float]]:
    """The numbers of a tiny run: four episodes of a toy environment, and learning from them.

    Args:
        algorithm: name of the algorithm.
        changes: fields of its settings to change, as "field=value".

    Returns:
        `actions`: of the deployed policy, the mean of its chunk at each of four observations. `policy`: the
        root mean squares of its arrays, sorted. `critics`: the mean of each one's values; empty without any.
    """
    default = agent_config(algorithm)
    known = {field.name for field in dataclasses.fields(default)}
    small = [f"{name}={value}" for name, value in SMALL.items() if name in known]
    config = agent_config(algorithm, "default", [*small, *changes])
    base = _base_policy()
    demonstrated = [each.episode for each in _episodes(base)]
    features = functools.partial(encode, base.encoder)
    spec = config.acting_spec(base.spec)
    experience = Experience.of([demonstrated], (), features, spec=spec, gamma=config.gamma, room=64)
    agent: Any = agent_class(algorithm).create(base, experience, config, jax.random.key(0))
    collected = _episodes(agent.exploring())
    for each in collected:
        experience = experience.add(each)
    if isinstance(agent, OnPolicyAgent):
        for _ in range(2):  # the first one trains the values alone
            agent, _, _ = learn_round(agent, Round(collected, ACTION_SEED))
    elif isinstance(agent, OffPolicyAgent):
        agent, _ = end_round(agent, experience)
        agent, _ = update_block(agent, experience, jax.random.split(jax.random.key(1), 6), True)
    policy, values = agent.deployed(), None
    if isinstance(agent, OffPolicyAgent):
        values = agent.q_values(experience.store.transitions(experience.demonstrations.rows))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(policy, eqx.is_inexact_array))]
    return {
        "actions": _act(policy, np.eye(4, 3, dtype=np.float32), 0).mean(axis=(1, 2)).tolist(),
        "policy": sorted(float(np.sqrt(np.mean(leaf**2))) for leaf in leaves if leaf.size > 1),
        "critics": [] if values is None else np.atleast_1d(np.mean(values, axis=-1)).tolist(),
    }


def _base_policy() -> Policy:
    """An untrained diffusion policy."""
    network = NoiseMLP(3, plan_shape(SPEC), width=16, depth=2, key=jax.random.key(3))
    encoder = VectorEncoder({"state": Normalizer(jnp.full(3, 0.1), jnp.full(3, 1.5))})
    return Policy(encoder, Diffusion(network, NoiseSchedule.cosine(4)), None, SPEC)


def _act(policy: Policy, states: np.ndarray, number: int) -> np.ndarray:
    """The actions of decision `number` in four episodes: (4, execute, action dimension)."""
    keys = decision_keys(ACTION_SEED, np.arange(4, dtype=np.uint32), np.uint32(number))
    return np.asarray(policy.act_batch({"state": states[:, None]}, keys)[0])


def _episodes(policy: Policy) -> list[Collected]:
    """Four episodes of a toy environment, in which actions push a point; every other one succeeds."""
    states = [np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)]
    actions: list[np.ndarray] = []
    for number in range(8 // policy.spec.execute):
        chunks = _act(policy, states[-1], number)
        for step in range(policy.spec.execute):
            action = chunks[:, step]
            push = np.concatenate([action, action.sum(axis=1, keepdims=True)], axis=1)
            states.append((0.9 * states[-1] + 0.3 * push).astype(np.float32))
            actions.append(action)
    collected: list[Collected] = []
    for seed, solved in enumerate((True, False, True, False)):
        rewards = np.zeros(len(actions), np.float32)
        rewards[-1] = solved
        seen, done = {"state": np.stack(states)[:, seed]}, np.stack(actions)[:, seed]
        episode = Episode(seen, done, rewards, solved, not solved, solved, seed)
        collected.append(Collected(episode, encode(policy.encoder, episode.observations)))
    return collected


def moved(stored: Mapping[str, Sequence[float]], found: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of the numbers that differ by more than the tolerance, or that only one side has."""
    return sorted(
        name
        for name in {*stored, *found}
        if len(stored.get(name, ())) != len(found.get(name, ()))
        or not np.allclose(stored.get(name, ()), found.get(name, ()), rtol=TOLERANCE, atol=TOLERANCE)
    )


def check(file: Path, found: Mapping[str, Sequence[float]], version: int) -> str:
    """What is wrong with the stored fingerprint of an algorithm, and what to do; empty if nothing is.

    Args:
        file: the stored fingerprint; its name is the algorithm's.
        found: the present fingerprint.
        version: the present result version of the algorithm.
    """
    if not file.exists():
        return f"There is no fingerprint of {file.stem}: write it with `{COMMAND}`."
    stored = json.loads(file.read_text(encoding="utf-8"))
    names = moved(stored["numbers"], found)
    if names and stored["result_version"] == version:
        return (
            f"The numbers of {file.stem} moved ({', '.join(names)}), and its result version is still "
            f"{version}. If this is intended, raise it in otpr_bench/result_versions.py and run `{COMMAND}`."
        )
    if stored["result_version"] != version:
        return (
            f"The fingerprint of {file.stem} is of result version {stored['result_version']}, and the "
            f"present version is {version}. Run `{COMMAND}`."
        )
    return ""


def renew(file: Path, found: Mapping[str, Sequence[float]], version: int) -> str:
    """Write the fingerprint of an algorithm, unless its numbers moved without a raised result version.

    Returns:
        Why nothing was written; empty if the file is as it should be.
    """
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    wrong = check(file, found, version)
    if wrong and stored is not None and version <= stored["result_version"]:
        return wrong
    if wrong:
        rounded = {name: [round(value, 6) for value in values] for name, values in found.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"result_version": version, "numbers": rounded}, indent=1) + "\n", "utf-8")
    return ""


def main() -> None:
    """Write all fingerprints anew."""
    refused = [
        wrong
        for name in algorithm_names()
        if (wrong := renew(FOLDER / f"{name}.json", fingerprint(name), ALGORITHM_VERSIONS[name]))
    ]
    sys.exit("\n".join(refused) or None)


if __name__ == "__main__":
    main()
