from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents import agent_config
from otpr.data.experience import Experience
from otpr.data.seeds import evaluation_seed, training_seed
from otpr.envs import ChunkedVectorEnv
from otpr.errors import OtprError
from otpr.training import checkpoints
from otpr.training.faults import NotFiniteError, bad_update, load_update
from otpr.training.learning import update_keys
from otpr.training.rollout import run_episodes
from otpr.trees import read_arrays
from tests.faults.small import BASE, CHUNK, LOOP, TASK, fine_tune, inject, rows
from tiny import AGENT

LEARNING = {"warmup_steps": 48, "warmup_updates": 250, "env_steps": 72}


FILES = {
    "episode-": "runs/finetune/faults/episode-1073741830.safetensors",
    "update-": "runs/finetune/faults/update-3017.safetensors",
}


def documented(kind: str, instead: dict[str, str]) -> dict[str, Any]:
    """Run the piece of docs/run-directory.md that replays this kind, with other names; its variables."""
    page = (Path(__file__).parents[2] / "docs" / "run-directory.md").read_text()
    (code,) = [part for part in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if FILES[kind] in part]
    for name, other in instead.items():
        assert name in code
        code = code.replace(name, other)
    variables: dict[str, Any] = {}
    exec(code, variables)
    return variables


@pytest.fixture
def env() -> Iterator[ChunkedVectorEnv]:
    with ChunkedVectorEnv(TASK, LOOP["num_envs"], CHUNK, processes=False) as env:
        yield env


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run that has taken 250 gradient steps of its critics, of a replay of 72 transitions."""
    with ChunkedVectorEnv(TASK, LOOP["num_envs"], CHUNK, processes=False) as env:
        return fine_tune(tmp_path_factory.mktemp("learner") / "run", env, **LEARNING)


# ---------------------------------------------------------------------------------- of the environment


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("nan_observation", 0, "observation not finite at step 0"),
        ("nan_observation", 4, "observation not finite at step 4"),
        ("infinite_reward", 6, "reward not finite at step 6"),
    ],
)
def test_bad_number_of_the_environment_stops_the_run_and_can_be_replayed(
    kind: str,
    step: int,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: ChunkedVectorEnv,
) -> None:
    seed, path = training_seed(0, 6), tmp_path / "run"  # round 1, slot 2
    inject(monkeypatch, tmp_path, {"kind": kind, "seed": seed, "step": step, "times": 2})
    with pytest.raises(OtprError) as caught:
        fine_tune(path, env)
    message = str(caught.value)
    assert f"{TASK}: {expected} of the episode of seed {seed} (environment 2)" in message
    file = path / "faults" / f"episode-{seed}.safetensors"
    assert str(file) in message
    assert len(rows(path)) == 2  # nothing of that round
    assert checkpoints.latest(path / "checkpoints") == 2
    replayed = documented("episode-", {"metaworld/peg-insert-side-v3": TASK, FILES["episode-"]: str(file)})
    saved = read_arrays(file)
    observations = saved["observations/state"]
    assert not (np.isfinite(observations).all() and np.isfinite(saved["rewards"]).all())
    assert len(observations) == len(saved["actions"]) + 1 == 6 * (step > 0) + 1
    np.testing.assert_array_equal(replayed["first"], observations[0])
    for t, (observation, reward, *_) in enumerate(replayed["steps"]):
        np.testing.assert_array_equal(observation, observations[t + 1])
        assert reward == saved["rewards"][t]
    # the request of `times` 2 is used up
    # the environment mended, the run goes on with that very round
    job = fine_tune(path, env, resume=True)
    assert job.at.episodes == 20
    assert np.isfinite(np.asarray(job.experience.store.features)).all()


def test_bad_number_in_an_evaluation_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: ChunkedVectorEnv
) -> None:
    seed = evaluation_seed(3)
    inject(monkeypatch, tmp_path, {"kind": "nan_observation", "seed": seed, "step": 6})
    with pytest.raises(OtprError, match=f"observation not finite at step 6 of the episode of seed {seed}"):
        fine_tune(tmp_path / "run", env)
    assert rows(tmp_path / "run") == []


# --------------------------------------------------------------------------------------- of the policy


def test_actions_that_are_not_finite_never_reach_the_environment(env: ChunkedVectorEnv) -> None:
    bad = eqx.tree_at(
        lambda p: p.generator.network.body.mlp.layers[-1].bias, BASE, replace_fn=lambda bias: bias * jnp.nan
    )
    with pytest.raises(NotFiniteError) as caught:
        run_episodes(env, bad, [7, 8], action_seed=0)
    assert "the policy's actions are not finite after step 0 of the episode of seed 7" in str(caught.value)
    assert caught.value.name == "episode-7"
    assert caught.value.arrays["refused_actions"].shape == (CHUNK, 2)
    assert caught.value.arrays["observations/state"].shape == (1, 3)
    simulators: Any = [e.simulator for e in env._groups[0]._envs]  # pyright: ignore[reportAttributeAccessIssue]
    assert [simulator.env.steps for simulator in simulators[:2]] == [0, 0]


def test_actions_out_of_bounds_reach_the_environment_clipped(env: ChunkedVectorEnv) -> None:
    """Which refuses others."""
    env.reset([1, 2, 3, None])
    assert env.step(np.full((4, CHUNK, 2), [7.0, -1e30])).steps.tolist() == [6, 6, 6, 0]


# --------------------------------------------------------------------------------------- of learning


@pytest.mark.faults
def test_loss_that_overflows_stops_the_run_at_its_gradient_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: ChunkedVectorEnv
) -> None:
    path = tmp_path / "run"
    inject(monkeypatch, tmp_path, {"kind": "huge_reward", "seed": training_seed(0, 6), "step": 6})
    with pytest.raises(OtprError) as caught:
        fine_tune(path, env, **LEARNING)
    found = re.search(r"Learning diverged at gradient step (\d+): critic/loss not finite", str(caught.value))
    assert found, str(caught.value)
    file = path / "faults" / f"update-{found[1]}.safetensors"
    assert str(file) in str(caught.value)
    assert checkpoints.latest(path / "checkpoints") == len(rows(path)) == 3
    BASE.save(tmp_path / "base", task=TASK)
    paths = {"runs/pretrain": str(tmp_path / "base"), FILES["update-"]: str(file)}
    replayed = documented("update-", {**paths, '"default"': f'"default", {AGENT}'})
    assert float(replayed["batch"].replay.reward.max()) > 1e29
    assert not replayed["update_policy"]
    metrics = replayed["metrics"]
    assert np.isinf(metrics["critic/loss"])
    assert np.isfinite(metrics["critic/value_loss"])


def with_bad_row(experience: Experience, row: int) -> Experience:
    """With NaN as the reward of the agent's own step of this number."""
    rewards = experience.store.rewards.at[experience.replay.rows[row]].set(jnp.nan)
    return eqx.tree_at(lambda e: e.store.rewards, experience, rewards)


@pytest.mark.long
@pytest.mark.parametrize("row", [3, 40, 71])
def test_first_bad_gradient_step_is_found(row: int, learner: Any) -> None:
    experience = with_bad_row(learner.experience, row)
    _, keys, _ = update_keys(learner.agent, 250)
    draw = eqx.filter_jit(lambda key: learner.agent.draw(experience, key).replay.reward)
    first = next(i for i, key in enumerate(keys, start=1) if bool(jnp.isnan(draw(key)).any()))
    error = bad_update(learner.agent, experience, 250, False, 1000)
    assert f"diverged at gradient step {1000 + first:,}: replay.reward of the batch not" in str(error)
    assert error.name == f"update-{1000 + first}"
    assert np.isfinite(
        error.arrays["agent.critics.trained_value.model.layers[0].weight"]
    ).all()  # as it was before


@pytest.mark.long
def test_gradient_that_is_not_finite_where_the_losses_are_stops_the_run(
    learner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's second moment made negative: its root is NaN, in the step after losses that are none."""
    second = lambda agent: agent.critics.critics.trained.state[0].nu.members.out.weight  # noqa: E731
    agent = eqx.tree_at(second, learner.agent, replace_fn=lambda nu: nu - 1.0)
    error = bad_update(agent, learner.experience, 250, False, 500)
    assert "diverged at gradient step 501: critics.critics.trained after its gradient step not finite" in str(
        error
    )
    file = error.save(tmp_path / "faults")
    before, batch, update_policy = load_update(file, BASE, agent_config("otpr", "default", AGENT))
    after, metrics = before.update(batch, update_policy)
    assert np.isfinite(metrics["critic/loss"])
    assert np.isnan(np.asarray(after.critics.critics.trained.model.members.out.weight)).any()
    # and the loop asks for more than the losses, which do not know yet at the last step of a block
    monkeypatch.setattr(learner, "loop", dataclasses.replace(learner.loop, update_block=1))
    monkeypatch.setattr(learner, "agent", agent)
    monkeypatch.setattr(learner, "at", dataclasses.replace(learner.at, warmup_updates=0))
    with pytest.raises(NotFiniteError, match=r"critics\.critics\.trained after its gradient step"):
        learner._learn(SimpleNamespace())


@pytest.mark.long
@pytest.mark.parametrize("damage", ["cut", "other policy", "no update"])
def test_file_that_does_not_fit_is_refused(damage: str, learner: Any, tmp_path: Path) -> None:
    error = bad_update(learner.agent, with_bad_row(learner.experience, 3), 250, False, 0)
    if damage == "no update":
        error.arrays = {"seed": np.asarray(3)}
    file = error.save(tmp_path)
    config = agent_config(
        "otpr", "default", AGENT if damage != "other policy" else (*AGENT, "critic_width=24")
    )
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(
        OtprError, match="is damaged" if damage == "cut" else "holds no gradient step of this"
    ):
        load_update(file, BASE, config)


# --------------------------------------------------------------------------------- divergence of critics


@pytest.mark.long
def test_share_beyond_the_bounds_is_reported_and_stops_the_run_if_wanted(
    learner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(row for row in rows(learner.run.path) if "critic/beyond_bound" in row)
    assert row["critic/beyond_bound"] == 0.0
    assert row["critic/bound_low"] == 0.0
    # no chunk of six steps was all reward: less than the 1 / (1 - gamma) of a reward of 1 at every step
    assert 1.0 < row["critic/bound_high"] < 1 / (1 - learner.agent.config.gamma)
    bias = lambda agent: agent.critics.critics.trained.model.members.out.bias  # noqa: E731
    wild = eqx.tree_at(bias, learner.agent, replace_fn=lambda bias: bias + 1000.0)
    monkeypatch.setattr(learner, "agent", wild)
    logged: list[dict[str, Any]] = []
    monkeypatch.setattr(learner, "_log", logged.append)
    monkeypatch.setattr(learner, "at", dataclasses.replace(learner.at, warmup_updates=0))
    learner._learn(SimpleNamespace())
    assert logged[0]["critic/beyond_bound"] == 1.0
    monkeypatch.setattr(learner, "agent", wild)
    monkeypatch.setattr(learner, "at", dataclasses.replace(learner.at, warmup_updates=0, updates=250))
    monkeypatch.setattr(learner, "loop", dataclasses.replace(learner.loop, stop_on_divergence=True))
    with pytest.raises(OtprError, match=r"The critics diverged by gradient step 500: 100% of their values"):
        learner._learn(SimpleNamespace())
    assert learner.agent is wild
    assert len(logged) == 1
