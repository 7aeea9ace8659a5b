"""What docs/architecture.md says of adding things, done: each with the least that works."""

from __future__ import annotations

import dataclasses
import sys
import textwrap
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otpr.agents
from otpr.agents import agent_class, agent_config, algorithm_names
from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv, catalog, make_env, task_spec
from otpr.envs.env_group import EnvGroup
from otpr.envs.task_env import sparse
from otpr.policies import files as tables
from otpr.policies.encoder import Encoder
from otpr.policies.generators import Generator
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training import sinks
from otpr.training.learning import update_block
from otpr.training.run_directory import RunDirectory
from tiny import experience, policy

BASE = policy(observation_dim=3, action_dim=2)


def episode(steps: int = 20) -> Episode:
    rng = np.random.default_rng(0)
    observations = {"state": rng.normal(size=(steps + 1, 3)).astype(np.float32)}
    actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    return Episode(observations, actions, np.zeros(steps, np.float32), False, True, True, seed=0)


# ------------------------------------------------------------------------------------------ an algorithm

ALGORITHM = '''
    import dataclasses
    from typing import ClassVar

    import equinox as eqx
    import jax
    from jaxtyping import PRNGKeyArray

    from otpr.agents.parts.actor_critic import Actor, ActorConfig
    from otpr.agents.parts.agent import OffPolicyAgent


    @dataclasses.dataclass(frozen=True)
    class ClonerConfig(ActorConfig):
        algorithm: ClassVar[str] = "cloner"


    class Cloner(OffPolicyAgent):
        """Imitates demonstrations and its own experience alike."""

        actor: Actor
        key: PRNGKeyArray
        config: ClonerConfig = eqx.field(static=True)

        @classmethod
        def create(cls, base, experience, config, key):
            return cls(actor=Actor.of(base, config), key=key, config=config)

        def deployed(self):
            return self.actor.policy

        def draw(self, experience, key):
            return experience.sample_all(key, self.config.batch_size)

        def update(self, batch, update_policy=True):
            key, noise_key = jax.random.split(self.key)
            actor, metrics = self.actor.imitate(batch.state, batch.plan, noise_key)
            return dataclasses.replace(self, actor=actor, key=key), metrics


    AGENT = Cloner
    PRESETS = {"default": ClonerConfig()}
'''


def test_an_algorithm_is_a_module_in_agents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "cloner.py").write_text(textwrap.dedent(ALGORITHM))
    monkeypatch.setattr(otpr.agents, "__path__", [*otpr.agents.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "otpr.agents.cloner", raising=False)
    assert "cloner" in algorithm_names()
    config = agent_config("cloner", "default", ["batch_size=16", "policy_learning_rate=1e-2"])
    seen = experience(BASE, [episode()])
    agent: Any = agent_class("cloner").create(BASE, seen, config, jax.random.key(0))
    after, metrics = update_block(agent, seen, jax.random.split(jax.random.key(1), 60), True)
    assert metrics["policy/loss"][-10:].mean() < metrics["policy/loss"][:10].mean()
    assert after.deployed().act(np.zeros(3), seed=0).shape == (8, 2)
    sys.modules.pop("otpr.agents.cloner")


# ------------------------------------------------------------------------------ an encoder, a generator


class Doubling(Encoder):
    """Twice each number."""

    dim: int
    kind: ClassVar[str] = "doubling"

    @property
    def feature_dim(self) -> int:
        return self.dim

    def __call__(self, observation: Mapping[str, Any]) -> jax.Array:
        return 2 * jnp.asarray(observation["state"])

    def about(self) -> dict[str, Any]:
        return {"dim": self.dim}

    @classmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> Doubling:
        return cls(about["dim"])


class Echo(Generator):
    """Every action is the first numbers of the state, scaled."""

    scale: jax.Array
    shape: tuple[int, int]
    kind: ClassVar[str] = "echo"

    def propose(self, state: jax.Array, key: jax.Array, n: int) -> jax.Array:
        return jnp.broadcast_to(self.scale * state[: self.shape[1]], (n, *self.shape))

    def about(self) -> dict[str, Any]:
        return {"horizon": self.shape[0], "dim": self.shape[1]}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: jax.Array) -> Echo:
        return cls(jnp.ones(()), (about["horizon"], about["dim"]))


def test_an_encoder_and_a_generator_are_entries_of_their_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(tables.ENCODERS, Doubling.kind, Doubling)
    monkeypatch.setitem(tables.GENERATORS, Echo.kind, Echo)
    spec = Spec.flat(3, 2, horizon=4, execute=2)
    made = Policy(Doubling(3), Echo(jnp.asarray(0.1), (4, 2)), None, spec)
    made.save(tmp_path / "policy", task="toy/task")
    actions = load_policy(tmp_path / "policy").act(np.array([1.0, 2.0, 3.0]), seed=0)
    np.testing.assert_allclose(actions, [[0.2, 0.4]] * 2, rtol=1e-6)


# ------------------------------------------------------------------------------------------- a simulator


class Line:
    """A point that is pushed along a line until it is beyond 1."""

    def reset(self, seed: int) -> np.ndarray:
        self.at = np.random.default_rng(seed).uniform(-0.1, 0.1, 1)
        return self.at

    def step(self, action: np.ndarray) -> Any:
        self.at = self.at + 0.5 * action
        return sparse(self.at, bool(self.at[0] > 1))

    def render(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


def line_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("line_simulator")
    module.make_simulator = lambda name, render_mode: Line()  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "line_simulator", module)
    tasks = {"push": catalog.Task(observation_dim=1, action_dim=1, episode_limit=9, expert=False)}
    suite = catalog.Suite(package="numpy", extra="", module="line_simulator", control_rate=10.0, tasks=tasks)
    monkeypatch.setitem(catalog.SUITES, "line", suite)  # pyright: ignore[reportArgumentType]


def test_a_simulator_is_a_module_and_an_entry_of_the_catalog(monkeypatch: pytest.MonkeyPatch):
    line_suite(monkeypatch)
    assert task_spec("line/push").spec == Spec.flat(1, 1, control_rate=10.0)
    env = make_env("line/push")
    env.reset(seed=3)
    outcomes = [env.step(np.ones(1, np.float32)) for _ in range(3)]
    assert [terminated for _, _, terminated, _, _ in outcomes] == [False, False, True]


# --------------------------------------------------------------------------------- a worker, a logger


def test_a_worker_is_what_answers_as_a_group_of_environments(monkeypatch: pytest.MonkeyPatch):
    """Here one that counts what it is asked, in the place of environments in this process."""
    line_suite(monkeypatch)
    asked: list[str] = []

    class Counting(EnvGroup):
        def send(self, method: str, argument: Any) -> None:
            asked.append(method)
            super().send(method, argument)

    monkeypatch.setattr("otpr.envs.chunked.EnvGroup", Counting)
    with ChunkedVectorEnv("line/push", 2, 3, processes=False) as env:
        env.reset([0, 1])
        step = env.step(np.ones((2, 3, 1), np.float32))
    assert asked == ["reset", "step"]
    assert step.success.all()


@dataclasses.dataclass
class Listed:
    """A logger that keeps the rows in a list."""

    folder: Path
    config: Mapping[str, Any]
    rows: ClassVar[list[dict[str, Any]]] = []

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def replace(self, rows: list[dict[str, Any]]) -> None:
        self.rows[:] = rows

    def close(self) -> None:
        pass


def test_a_logger_is_an_entry_of_the_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sinks.SINKS, "listed", Listed)
    with RunDirectory.open(tmp_path / "run", command="finetune", config={}, log=("listed",)) as run:
        run.log({"env_steps": 1, "rollout/length": 3.0})
        run.log({"env_steps": 2, "rollout/length": 4.0})
        run.rewind("env_steps", 1)
    assert Listed.rows == [{"env_steps": 1, "rollout/length": 3.0}]
