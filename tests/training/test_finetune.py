from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from otpr.agents import agent_config
from otpr.agents.otpr.compatibility import ZERO
from otpr.data.datasets import read_dataset
from otpr.data.seeds import training_seed
from otpr.envs import ChunkedVectorEnv
from otpr.errors import OtprError
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.training import checkpoints, learning
from otpr.training.evaluate import evaluate
from otpr.training.finetune import FineTuning, LoopConfig
from otpr.training.run_directory import RunDirectory, read_rows
from otpr.training.stopping import Stopped
from otpr.training.workers import Lockstep
from tiny import (
    AGENT,
    LOOP,
    POLICY,
    TASK,
    arrays,
    assert_same_arrays,
    demonstrations,
    dying_after,
    files,
    policy,
    sitting,
    weights,
)

BASE = policy()
TIMES = {"seconds", "eval/seconds", "wall_seconds"}


class InterruptedEnv(ChunkedVectorEnv):
    """Sends this process a Ctrl-C when it executes chunk number `interrupt_at`."""

    chunks = 0
    interrupt_at: int | None = None

    def step(self, chunks: Any) -> Any:
        self.chunks += 1
        if self.chunks == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(chunks)


@pytest.fixture(scope="module")
def env() -> Iterator[InterruptedEnv]:
    with InterruptedEnv(TASK, LOOP["num_envs"], POLICY["horizon"], processes=False) as env:
        yield env


@pytest.fixture(autouse=True)
def uninterrupted_env(env: InterruptedEnv) -> None:
    env.chunks, env.interrupt_at = 0, None


def sit(
    path: Path, env: ChunkedVectorEnv, *, resume: bool = False, seed: int = 0, changes: tuple[str, ...] = ()
) -> FineTuning:
    """One sitting of a run: as the command does it, to its end or to the first signal."""
    agent, loop = agent_config("otpr", "default", (*AGENT, *changes)), LoopConfig(**LOOP)
    return sitting(path, BASE, demonstrations(), env, agent=agent, loop=loop, seed=seed, resume=resume)


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def rows(path: Path) -> list[dict[str, Any]]:
    return [timeless(row) for row in read_rows(path)]


def summary(path: Path) -> dict[str, Any]:
    return json.loads((path / "summary.json").read_text())


def checkpoint(path: Path, job: FineTuning) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    """Number, arrays and state of the newest checkpoint on disk."""
    step = checkpoints.latest(path / "checkpoints")
    assert step is not None
    tree, state = checkpoints.load(path / "checkpoints", step, job.agent)
    return step, arrays(tree), timeless(state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, env: InterruptedEnv) -> tuple[Path, FineTuning]:
    """A run that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, sit(path, env)


def assert_equal_runs(path: Path, job: FineTuning, whole: tuple[Path, FineTuning]) -> None:
    expected_path, expected_job = whole
    assert rows(path) == rows(expected_path)
    assert_same_arrays(weights(path / "policy"), weights(expected_path / "policy"))
    number, leaves, state = checkpoint(path, job)
    expected_number, expected_leaves, expected_state = checkpoint(expected_path, expected_job)
    assert (number, state) == (expected_number, expected_state)
    assert_same_arrays(leaves, expected_leaves)
    assert timeless(summary(path)) == timeless(summary(expected_path))
    assert files(path / "experience") == files(expected_path / "experience")


# ---------------------------------------------------------------------------- what a run is


def test_run_collects_learns_follows_and_evaluates_in_its_order(whole: tuple[Path, FineTuning]):
    path, _ = whole
    kinds = [
        next(
            kind
            for kind in ("rollout", "critic", "eval", "otpr")
            if any(key.startswith(f"{kind}/") for key in row)
        )
        for row in rows(path)
    ]
    # 320 updates are due a round, taken in blocks of 250: the first round's after 250 of warm-up
    assert kinds == [
        *("eval", "rollout", "critic", "critic", "otpr"),
        *("rollout", "critic", "otpr", "eval"),
        *("rollout", "critic", "otpr", "eval"),
    ]
    assert [row["env_steps"] for row in rows(path)] == [0, *[400] * 4, *[800] * 4, *[1200] * 4]
    assert [row["row"] for row in rows(path)] == list(range(1, 14))
    assert [row["updates"] for row in rows(path) if "updates" in row] == [250, 500, 750, 1000]
    assert [row["eval/episodes"] for row in rows(path) if "eval/episodes" in row] == [3, 2, 3]


def test_summary_has_what_is_promised(whole: tuple[Path, FineTuning]):
    path, _ = whole
    written = summary(path)
    last_evaluation = [row for row in rows(path) if "eval/success_rate" in row][-1]
    last_round = [row for row in rows(path) if "otpr/marginal_error" in row][-1]
    expected = {
        "task": TASK,
        "algorithm": "otpr",
        "preset": "default",
        "seed": 0,
        "env_steps": 1200,
        "base_success": rows(path)[0]["eval/success_rate"],
        "final_success": last_evaluation["eval/success_rate"],
        "final_success_single": last_evaluation["eval/success_rate_single"],
        # of a task that pays 1 for success the mean return is the success rate
        "base_return": rows(path)[0]["eval/success_rate"],
        "final_return": last_evaluation["eval/success_rate"],
        "final_return_single": last_evaluation["eval/success_rate_single"],
        "eval_episodes": 3,
        "execute": 8,
        **{name: last_round[name] for name in ("otpr/marginal_error", "otpr/row_error")},
    }
    assert {name: written[name] for name in expected} == expected
    assert 0 < written["wall_seconds"] < 600


def test_learning_happened_in_every_part(whole: tuple[Path, FineTuning], tmp_path: Path):
    path, job = whole
    before, after = arrays(BASE), arrays(job.agent.actor.policy)
    moved = {name: np.abs(after[name] - before[name]).max() for name in before if ".network" in name}
    assert min(moved.values()) > 1e-4
    # statistics and noise levels belong to the policy as it was trained, and stay
    assert_same_arrays(
        {name: leaf for name, leaf in after.items() if ".network" not in name},
        {name: leaf for name, leaf in before.items() if ".network" not in name},
    )
    assert bool(job.agent.transport.trained)
    losses = [row["critic/loss"] for row in rows(path) if "critic/loss" in row]
    assert losses[-1] < losses[0]


def test_experience_is_what_the_rollouts_saw(whole: tuple[Path, FineTuning]):
    _, job = whole
    steps_demonstrated = sum(len(episode) for episode in demonstrations())
    store = job.experience.store
    assert int(job.experience.replay.size) == 1200
    assert int(jnp.sum(store.starts() & store.success)) == steps_demonstrated  # no rollout succeeded
    # the last round's first episode starts where its seed says
    with ChunkedVectorEnv(TASK, 1, 8, processes=False) as env:
        start = env.reset([training_seed(0, 4)])["state"]
    row = job.experience.replay.rows[800]
    np.testing.assert_array_equal(store.features[row], encode(BASE.encoder, {"state": start})[0])


def test_saved_policy_acts_as_the_agent_and_not_as_the_base(
    whole: tuple[Path, FineTuning], env: InterruptedEnv
):
    path, job = whole
    saved, in_memory = load_policy(path), job.agent.deployed()
    observation = demonstrations()[0].observations["state"][0]
    for seed in range(3):
        np.testing.assert_array_equal(saved.act(observation, seed), in_memory.act(observation, seed))
        assert np.abs(saved.single().act(observation, seed) - BASE.act(observation, seed)).max() > 1e-2
    outcome = evaluate(saved, Lockstep(env), 3)
    assert outcome == evaluate(in_memory, Lockstep(env), 3)
    last = [row for row in rows(path) if "eval/success_rate" in row][-1]
    assert (outcome.success_rate, outcome.mean_length, outcome.execute) == (
        last["eval/success_rate"],
        last["eval/length"],
        last["eval/execute"],
    )
    assert outcome.metrics == {ZERO: last[f"{ZERO}/eval"]}


# ---------------------------------------------------------------------------- stop and resume


def interrupt_after(monkeypatch: pytest.MonkeyPatch, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """A Ctrl-C just after a row that is `wanted` was logged: in the middle of the step that logs it."""
    log = RunDirectory.log

    def log_and_interrupt(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if wanted(row):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "log", log_and_interrupt)


def test_run_stopped_after_every_single_step_is_the_uninterrupted_run(
    whole: tuple[Path, FineTuning], tmp_path: Path, env: InterruptedEnv, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "run"
    interrupt_after(monkeypatch, lambda row: True)
    expected = rows(whole[0])
    for number in range(len(expected)):
        with pytest.raises(Stopped, match="fine-tuning stopped at"):
            sit(path, env, resume=number > 0)
        assert rows(path) == expected[: number + 1]
        assert not (path / "summary.json").exists()
    # stopped after its last step, there is only the policy left to save
    assert_equal_runs(path, sit(path, env, resume=True), whole)


@pytest.mark.long
def test_run_stopped_while_acting_is_the_uninterrupted_run(
    whole: tuple[Path, FineTuning], tmp_path: Path, env: InterruptedEnv
):
    """An episode takes 25 chunks, an evaluation of three episodes two waves, one of two episodes one."""
    path = tmp_path / "run"
    stops = {
        1: 0,  # in the first evaluation, before anything else: it is done again
        60: 1,  # in the first collection, after the evaluation's 50 chunks: that is done again too
        51: 8,  # in the second evaluation, of the deployed policy, after both collections
        30: 8,  # in the second evaluation again, of the single sample
    }
    for number, (chunk, rows_kept) in enumerate(stops.items()):
        env.chunks, env.interrupt_at = 0, chunk
        with pytest.raises(Stopped):
            sit(path, env, resume=number > 0)
        assert rows(path) == rows(whole[0])[:rows_kept]
    env.interrupt_at = None
    assert_equal_runs(path, sit(path, env, resume=True), whole)


def test_evaluation_is_left_at_once_and_done_again(
    whole: tuple[Path, FineTuning], tmp_path: Path, env: InterruptedEnv
):
    env.interrupt_at = 1
    with pytest.raises(Stopped, match="at 0 environment steps"):
        sit(tmp_path / "run", env)
    assert env.chunks == 1
    assert rows(tmp_path / "run") == []


@pytest.mark.long
def test_run_that_was_killed_goes_on_from_its_last_checkpoint(
    whole: tuple[Path, FineTuning], tmp_path: Path, env: InterruptedEnv
):
    """Killed after rows that no checkpoint holds: at row 3 there is none, at row 11 it is that of row 6."""
    path = tmp_path / "run"
    for row, newest in ((3, None), (11, 6)):
        with dying_after("row", row):
            sit(path, env, resume=path.exists())
        assert rows(path) == rows(whole[0])[:row]
        assert checkpoints.latest(path / "checkpoints") == newest
    assert_equal_runs(path, sit(path, env, resume=True), whole)


def test_finished_run_resumed_changes_nothing(whole: tuple[Path, FineTuning], env: InterruptedEnv):
    path, _ = whole
    before = rows(path), weights(path / "policy"), timeless(summary(path))
    sit(path, env, resume=True)
    after = rows(path), weights(path / "policy"), timeless(summary(path))
    assert after[0] == before[0]
    assert_same_arrays(after[1], before[1])
    assert after[2] == before[2]
    assert env.chunks == 0


def test_collected_episodes_are_a_data_set_and_checkpoints_do_not_grow(whole: tuple[Path, FineTuning]):
    path, job = whole
    found = read_dataset(path / "experience")
    assert found.task_id == TASK
    assert [len(episode) for episode in found.episodes] == [200] * 6
    assert [episode.seed for episode in found.episodes] == [training_seed(0, i) for i in range(6)]
    store = job.experience.store
    features = np.concatenate([encode(BASE.encoder, each.observations) for each in found.episodes])
    np.testing.assert_array_equal(
        store.features[int(job.experience.replay.rows[0]) :][: len(features)], features
    )
    sizes = [size_of(folder) for folder in sorted((path / "checkpoints").iterdir())]
    assert len(sizes) == 2 and abs(sizes[0] - sizes[1]) < 1000


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.long
def test_warm_up_takes_as_many_updates_as_are_set(tmp_path: Path, env: InterruptedEnv):
    """Not whole blocks of them: 300 are 250 and 50."""
    path = tmp_path / "run"
    sit(path, env, changes=("warmup_updates=300",))
    assert [row["updates"] for row in rows(path) if "updates" in row][:3] == [250, 300, 550]


# ---------------------------------------------------------------------------- refusals


@pytest.mark.long
def test_divergence_is_an_error_and_the_state_before_it_is_saved(
    whole: tuple[Path, FineTuning], tmp_path: Path, env: InterruptedEnv, monkeypatch: pytest.MonkeyPatch
):
    """Here it is the block alone that goes wrong: taken one by one its steps do not."""
    path = tmp_path / "run"
    update = learning.update_block

    def diverge(*arguments: Any, **settings: Any) -> Any:
        agent, metrics = update(*arguments, **settings)
        return agent, metrics | {"critic/loss": metrics["critic/loss"] * jnp.nan}

    monkeypatch.setattr(learning, "update_block", diverge)
    with pytest.raises(OtprError) as caught:
        sit(path, env)
    assert "Learning diverged in the gradient steps 1 to 250" in str(caught.value)
    assert "--resume goes on" in str(caught.value)
    assert (path / "faults" / "update-1.safetensors").is_file()
    assert len(rows(path)) == 2
    assert checkpoints.latest(path / "checkpoints") == 2
    assert not (path / "policy").exists()
    monkeypatch.setattr(learning, "update_block", update)
    assert_equal_runs(path, sit(path, env, resume=True), whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env_steps": 0}, "env_steps must be at least 1, given 0."),
        ({"num_envs": -2}, "num_envs must be at least 1, given -2."),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, given -1."),
        ({"update_block": 0}, "update_block must be at least 1, given 0."),
        ({"eval_every": 0}, "eval_every must be at least 1, given 0."),
        ({"eval_episodes": 0}, "eval_episodes must be at least 1, given 0."),
        ({"final_eval_episodes": 0}, "final_eval_episodes must be at least 1, given 0."),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, given 0."),
        ({"env_timeout": 0.0}, "env_timeout must be at least 0.001, given 0.0."),
        (
            {"env_steps": 2000},
            "warmup_steps must be below env_steps, or nothing is learnt; given 2000 and 2000.",
        ),
    ],
)
def test_numbers_that_make_no_loop_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(OtprError) as caught:
        LoopConfig(**changes)
    assert str(caught.value) == message
