"""Every algorithm in the loop: whatever is in `otpr.agents` has to pass, without being named here.

A tiny run of each in an environment that costs nothing: a point that is moved onto a goal.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents import agent_class, agent_config, algorithm_names, preset_names
from otpr.agents.parts.agent import Agent, AgentConfig, OffPolicyAgent, OnPolicyAgent
from otpr.data.collect import collect
from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv
from otpr.errors import OtprError
from otpr.networks.mlp import NoiseMLP
from otpr.policies.encoder import Normalizer
from otpr.policies.generators import plan_shape
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.training import checkpoints
from otpr.training import evaluate as evaluation
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.run_directory import read_rows
from tiny import arrays, assert_same_arrays, chooser, dying_after, experience, policy, sitting, weights

ROOT = Path(__file__).parents[2]
HERE = "tests.envs.user_envs"
TASK = f"{HERE}:make_reach"
BASE = policy(observation_dim=4, action_dim=2)
TIMES = {"seconds", "eval/seconds", "wall_seconds"}
LOOP = LoopConfig(
    env_steps=200,  # an episode has 20 at most
    num_envs=2,
    warmup_steps=40,
    eval_every=100,
    eval_episodes=2,
    final_eval_episodes=3,
    checkpoint_every=60,
    update_block=10,
)
BLOCK = LOOP.update_block
LEARNING = [
    name for name in algorithm_names() if issubclass(agent_class(name), OffPolicyAgent | OnPolicyAgent)
]
SMALL = {
    "actor_depth": 1,
    "actor_width": 16,
    "batch_size": 4,
    "candidates": 4,
    "critic_width": 16,
    "decisions": 8,
    "epochs": 2,
    "keypoints": 8,
    "num_critics": 2,
    "offline_updates": BLOCK,
    "ot_batch": 16,
    "ot_block": 32,
    "ot_blocks": 2,
    "policy_width": 16,
    "potentials_steps": 10,
    "potentials_width": 16,
    "update_ratio": 0.25,
    "value_iterations": 1,
    "warmup_updates": BLOCK,
    "width": 16,
}
"""What settings of such a name are in these runs, where they are not smaller by themselves."""


@functools.cache
def demonstrations() -> list[Episode]:
    return collect(TASK, episodes=3, noise=0.2, seed=0, user_expert=f"{HERE}:ReachExpert")


def small(algorithm: str, preset: str = "default") -> AgentConfig:
    """A preset with its sizes made small; what it leaves out stays out."""
    config = agent_config(algorithm, preset)
    changes = {
        name: size
        for name, size in SMALL.items()
        if isinstance(getattr(config, name, None), int | float) and getattr(config, name) > size
    }
    return dataclasses.replace(config, **changes)


def created(base: Policy, config: AgentConfig) -> Agent:
    """An agent that knows nothing yet."""
    seen = experience(base, demonstrations(), config.gamma, spec=config.acting_spec(base.spec))
    return agent_class(config.algorithm).create(base, seen, config, jax.random.key(0))


def sit(path: Path, algorithm: str, *, resume: bool = False, base: Policy = BASE) -> FineTuning:
    """One sitting of a run, as the command does it."""
    config = small(algorithm)
    execute = config.acting_spec(base.spec).execute
    with ChunkedVectorEnv(TASK, LOOP.num_envs, execute, processes=False) as env:
        return sitting(path, base, demonstrations(), env, agent=config, loop=LOOP, resume=resume)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def rows(path: Path) -> list[dict[str, Any]]:
    return [timeless(row) for row in read_rows(path)]


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run that nothing interrupted."""

    algorithm: str
    path: Path
    job: FineTuning


@pytest.fixture(scope="module", params=algorithm_names())
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    path = tmp_path_factory.mktemp(request.param) / "run"
    return Whole(request.param, path, sit(path, request.param))


@pytest.mark.long
def test_run_logs_finite_numbers_and_leaves_a_policy_that_acts(whole: Whole):
    job, agent = whole.job, whole.job.agent
    learns = whole.algorithm in LEARNING
    for row in rows(whole.path):
        assert all(np.isfinite(value) for value in row.values() if value is not None), row
    kinds = {name.partition("/")[0] for row in rows(whole.path) for name in row}
    assert "eval" in kinds
    assert ({"rollout", "policy"} <= kinds) == learns
    assert (job.at.env_steps >= LOOP.env_steps) == (job.at.updates > 0) == learns
    summary = json.loads((whole.path / "summary.json").read_text())
    assert (summary["algorithm"], summary["eval_episodes"]) == (whole.algorithm, 3)
    assert summary["final_success"] is not None

    saved, observation = load_policy(whole.path), demonstrations()[0].observations["state"][0]
    for seed in range(3):
        chunk = saved.act(observation, seed)
        np.testing.assert_array_equal(chunk, agent.deployed().act(observation, seed))
        assert chunk.shape == (small(whole.algorithm).acting_spec(BASE.spec).execute, 2)
        assert np.abs(chunk).max() <= 1


@pytest.mark.long
def test_learning_changes_the_policy_itself(whole: Whole):
    """And not its chooser alone. The statistics of the observations are the base's for ever."""
    first, last = created(BASE, small(whole.algorithm)).deployed(), whole.job.agent.deployed()
    before, after = arrays(first.generator), arrays(last.generator)
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before) == (whole.algorithm in LEARNING)
    assert_same_arrays(arrays(last.encoder), arrays(BASE.encoder))


class Picky(NoiseMLP):
    """Gives NaN for states that are not as its policy's generator normalises them."""

    def many(self, state: Any, plans: Any, k: Any) -> Any:
        return jnp.where(jnp.mean(state) > 50, super().many(state, plans, k), jnp.nan)

    def __call__(self, state: Any, plan: Any, k: Any) -> Any:
        return self.many(state, plan[None], k)[0]


@pytest.mark.long
@pytest.mark.parametrize("algorithm", LEARNING)
def test_network_sees_states_as_it_normalises_them(algorithm: str, tmp_path: Path):
    size = BASE.state_dim
    network = Picky(size, plan_shape(BASE.spec), width=8, depth=1, key=jax.random.key(0))
    normalizer = Normalizer(jnp.zeros(size), jnp.ones(size), shift=jnp.full(size, 100.0))
    generator = dataclasses.replace(BASE.diffusion, network=network, states=normalizer)
    sit(tmp_path / "run", algorithm, base=BASE.with_generator(generator))
    for row in rows(tmp_path / "run"):
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float)), row


@pytest.mark.parametrize("algorithm", LEARNING)
def test_chooser_of_the_base_policy_is_left_behind(algorithm: str):
    """It is of other critics: neither what learns nor what explores and is saved may go by it."""
    base = dataclasses.replace(BASE, chooser=chooser(), candidates=4)
    given, alone = created(base, small(algorithm)), created(BASE, small(algorithm))
    for acts in ("deployed", "exploring"):
        assert_same_arrays(arrays(getattr(given, acts)()), arrays(getattr(alone, acts)()))


def test_algorithm_that_does_not_learn_is_evaluated_as_it_is_deployed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With its chooser; of one that learns, the first evaluation is of one sample, and without it."""
    base = dataclasses.replace(BASE, chooser=chooser(4, 16), candidates=4)
    evaluate, evaluated = evaluation.evaluate, []

    def recording(policy: Policy, *args: Any, **named: Any) -> Any:
        evaluated.append(policy.candidates)
        return evaluate(policy, *args, **named)

    monkeypatch.setattr(evaluation, "evaluate", recording)
    sit(tmp_path / "bc", "bc", base=base)
    assert evaluated == [4, 1]  # and one sample beside it, as at the end of every run
    evaluated.clear()
    sit(tmp_path / "dawr", "dawr", base=base)
    assert set(evaluated) == {1}


def assert_resumed_is_whole(path: Path, whole: Whole) -> None:
    job = sit(path, whole.algorithm, resume=True)
    assert rows(path) == rows(whole.path)
    assert_same_arrays(weights(path / "policy"), weights(whole.path / "policy"))
    assert_same_arrays(arrays(job.agent), arrays(whole.job.agent))
    assert_same_arrays(arrays(job.experience), arrays(whole.job.experience))


@pytest.mark.long
def test_killed_and_resumed_run_is_the_uninterrupted_run(whole: Whole, tmp_path: Path):
    path, number = tmp_path / "run", len(rows(whole.path)) * 3 // 4
    if whole.algorithm in LEARNING:
        with dying_after("row", number):
            sit(path, whole.algorithm)
        newest = checkpoints.latest(path / "checkpoints")
        assert newest is not None and 0 < newest < number
    else:
        sit(path, whole.algorithm)
    assert_resumed_is_whole(path, whole)


@pytest.mark.slow
def test_run_killed_after_any_row_is_the_uninterrupted_run(whole: Whole, tmp_path: Path):
    for number in range(1, len(rows(whole.path)) + 1):
        path = tmp_path / f"run-{number}"
        with dying_after("row", number):
            sit(path, whole.algorithm)
        assert_resumed_is_whole(path, whole)


# --------------------------------------------------------------------------------------- its page


def page(algorithm: str) -> str:
    """Of the algorithm, and the pages that are for all of them."""
    own = (ROOT / "docs" / "algorithms" / f"{algorithm}.md").read_text()
    return own + (ROOT / "docs" / "run-directory.md").read_text()


@pytest.mark.long
def test_every_metric_is_explained(whole: Whole):
    text = page(whole.algorithm)
    logged = {name for row in rows(whole.path) for name in row if "/" in name}
    assert sorted(name for name in logged if f"`{name}`" not in text) == []


@pytest.mark.parametrize("algorithm", algorithm_names())
def test_algorithm_has_a_page_and_tests(algorithm: str):
    own = (ROOT / "docs" / "algorithms" / f"{algorithm}.md").read_text()
    assert f"otpr finetune {algorithm}" in own
    tests = ROOT / "tests" / "agents"
    assert (tests / f"test_{algorithm}.py").is_file() or any((tests / algorithm).glob("test_*.py"))


# OTPR's many are gone through by subject, in docs/fidelity.md
@pytest.mark.parametrize("algorithm", sorted({*algorithm_names()} - {"otpr"}))
def test_every_setting_of_its_own_is_explained(algorithm: str):
    text = page(algorithm)
    shared = {field.name for field in dataclasses.fields(AgentConfig)}
    shared |= {"critic_depth", "critic_width", "num_critics"}  # most pages put these sizes into words
    own = {field.name for field in dataclasses.fields(agent_config(algorithm))} - shared
    assert sorted(name for name in own if f"`{name}`" not in text) == []


# --------------------------------------------------------------------------------------- its settings

PRESETS = [(algorithm, preset) for algorithm in algorithm_names() for preset in preset_names(algorithm)]


def text_of(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.long
@pytest.mark.parametrize(("algorithm", "preset"), PRESETS)
def test_every_preset_builds_and_its_policy_acts(algorithm: str, preset: str):
    config = small(algorithm, preset)
    assert config.algorithm == algorithm
    agent, h = created(BASE, config), config.acting_spec(BASE.spec).execute
    observation = demonstrations()[0].observations["state"][0]
    for acting in (agent.deployed(), agent.exploring(), agent.exploring().single()):
        assert acting.act(observation, 0).shape == (h, 2)


@pytest.mark.parametrize(("algorithm", "preset"), PRESETS)
def test_every_setting_can_be_given_as_text(algorithm: str, preset: str):
    config = agent_config(algorithm, preset)
    values = dataclasses.asdict(config)
    assert agent_config(algorithm, preset, [f"{n}={text_of(v)}" for n, v in values.items()]) == config
    for name in values:
        with pytest.raises(OtprError, match=name):
            agent_config(algorithm, preset, [f"{name}=no such value"])
