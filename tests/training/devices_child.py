"""The learner on several devices, in a process that takes its processor for eight; for `test_devices.py`.

    python -m tests.training.devices_child FOLDER

It writes what came of each algorithm on 1, 2, 4 and 8 devices as arrays, and prints the rest as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from otpr.agents import agent_class, agent_config
from otpr.agents.parts.seeing import EncoderConfig
from otpr.data.experience import Collected, Experience
from otpr.data.row_sets import BLOCK
from otpr.data.store import _insert
from otpr.devices import mesh_of, on_each
from otpr.envs import ChunkedVectorEnv
from otpr.policies.encoder import encode
from otpr.training.learning import beyond_bound, end_round, take_block, update_block, update_keys
from otpr.trees import arrays_of, to_bytes
from tests.faults import small
from tests.faults.faulty_envs import LIMIT
from tests.training import pixels
from tiny import AGENT, dying_after, sitting

COUNTS = {"otpr": (1, 2, 4, 8), "idql": (1, 4)}
ROOM = 3001
UPDATES = 40
FEW = "pairs=64"  # of many, one or the other is drawn differently if H differs in its last bit
# 6 rounds of 4 episodes
LOOP: dict[str, Any] = {
    "env_steps": 144,
    "warmup_steps": 24,
    "warmup_updates": 20,
    "update_ratio": 1.0,
    "update_block": 20,
    "checkpoint_every": 24,
}


def config(algorithm: str) -> Any:
    known = set(agent_config(algorithm).__dataclass_fields__)
    changes = [change for change in (*AGENT, FEW) if change.partition("=")[0] in known]
    return agent_config(algorithm, "default", changes)


def episodes() -> list[Any]:
    """Those of a random walk; every other one succeeds."""
    generator, found = np.random.default_rng(1), []
    (first, _) = small.demonstrations()
    for seed in range(300):
        rewards = np.zeros(LIMIT, np.float32)
        rewards[-1] = seed % 2
        observations = {"state": generator.normal(size=(LIMIT + 1, 3)).astype(np.float32)}
        actions = generator.uniform(-1, 1, (LIMIT, 2)).astype(np.float32)
        found.append(
            type(first)(observations, actions, rewards, bool(seed % 2), not seed % 2, bool(seed % 2), seed)
        )
    return found


def learnt(algorithm: str, count: int) -> tuple[Any, Experience, dict[str, float]]:
    """An agent after a round and two blocks of gradient steps, its experience, and the metrics."""
    mesh, settings = mesh_of(count), config(algorithm)

    def features(observations: Any) -> Any:
        return encode(small.BASE.encoder, observations)

    experience = Experience.of(
        [small.demonstrations()], (), features, spec=small.BASE.spec, gamma=0.99, room=ROOM, mesh=mesh
    )
    for episode in episodes():
        experience = experience.add(Collected.of(episode, features))
    agent = agent_class(algorithm).create(small.BASE, experience, settings, jax.random.key(0))
    agent = on_each(agent, mesh)
    agent, first = take_block(agent, experience, UPDATES, False)
    agent, at_end = end_round(agent, experience)
    agent, last = take_block(agent, experience, UPDATES, True)
    return (
        agent,
        experience,
        {**{f"warm-up {name}": value for name, value in first.items()}, **at_end, **last},
    )


def compiled(agent: Any, experience: Experience) -> dict[str, list[str]]:
    """Arrays in all that is compiled of a run: with the rows of the whole store, and of a share."""
    _, keys, _ = update_keys(agent, UPDATES)
    rows = experience.store.rewards.shape[0]
    text = update_block.lower(agent, experience, keys, True).compile().compiled.as_text()
    text += type(agent).end_round.lower(agent, experience).compile().compiled.as_text()
    text += beyond_bound.lower(agent, experience, keys[0]).compile().compiled.as_text()
    store = experience.store
    columns = [
        field.name for field in dataclasses.fields(store) if getattr(getattr(store, field.name), "ndim", 0)
    ]
    block = {name: np.asarray(getattr(store, name)[:BLOCK]) for name in columns}
    text += _insert.lower(store, block, BLOCK).compile().as_text()
    found = {}
    for name, count in (("whole", rows), ("share", rows // len(agent.key.sharding.device_set))):
        found[name] = sorted(set(re.findall(rf"\w+\[{count}(?:,\d+)*\]", text)))
    return found


def arrays(agent: Any, experience: Experience) -> dict[str, np.ndarray]:
    size = int(experience.store.size)
    found = {f"agent{name}": array for name, array in arrays_of(agent).items()}
    for name, array in arrays_of(experience).items():
        filled = name.startswith((".store", ".replay.rows")) and array.ndim
        n = size if name.startswith(".store") else int(experience.replay.size)
        found[f"experience{name}"] = array[:n] if filled else array
    return found


def runs(folder: Path) -> dict[str, Any]:
    """A run on one device, one on four, and one that goes on with two after it died on four."""
    with ChunkedVectorEnv(small.TASK, 4, small.CHUNK, processes=False) as env:
        small.fine_tune(folder / "one", env, agent=(FEW,), **LOOP)
        small.fine_tune(folder / "four", env, agent=(FEW,), devices=4, **LOOP)
        with dying_after("row", 12):
            small.fine_tune(folder / "resumed", env, agent=(FEW,), devices=4, **LOOP)
        small.fine_tune(folder / "resumed", env, agent=(FEW,), devices=2, resume=True, **LOOP)
    return {name: small.rows(folder / name) for name in ("one", "four", "resumed")}


def seeing_runs(folder: Path) -> dict[str, Any]:
    """A run whose encoder of images learns with the policy and the critics, on one device and on four."""
    shown = pixels.demonstrations()
    base = pixels.imitated(folder / "seeing", pixels.CONFIG, shown)
    encoder, agent = EncoderConfig("both", random_shift=2), pixels.settings("otpr")
    loop = pixels.LOOP
    found = {}
    for name, devices in (("seeing-one", 1), ("seeing-four", 4)):
        with ChunkedVectorEnv(pixels.TASK, loop.num_envs, base.spec.execute, processes=False) as env:
            options: dict[str, Any] = {"agent": agent, "encoder": encoder, "loop": loop, "devices": devices}
            sitting(folder / name, base, shown, env, **options)
        found[name] = small.rows(folder / name)
    return found


def main() -> None:
    folder, told = Path(sys.argv[1]), dict[str, Any]()
    for algorithm, counts in COUNTS.items():
        for count in counts:
            agent, experience, metrics = learnt(algorithm, count)
            (folder / f"{algorithm}-{count}.safetensors").write_bytes(to_bytes(arrays(agent, experience)))
            columns = [leaf for leaf in jax.tree.leaves(experience.store) if leaf.ndim]
            leaves = jax.tree.leaves(eqx.filter(agent, eqx.is_array))
            told[f"{algorithm}-{count}"] = {
                "metrics": metrics,
                "bytes": sum(leaf.nbytes for leaf in columns),
                "bytes_of_a_device": sum(leaf.addressable_shards[0].data.nbytes for leaf in columns),
                "devices_of_agent": sorted({len(leaf.sharding.device_set) for leaf in leaves}),
                "agent_is_whole": all(leaf.is_fully_replicated for leaf in leaves),
            }
            if count > 1 and algorithm == "otpr":
                told[f"{algorithm}-{count}"]["columns"] = compiled(agent, experience)
    told["runs"] = runs(folder) | seeing_runs(folder)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
