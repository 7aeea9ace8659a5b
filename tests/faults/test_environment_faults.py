from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.data.seeds import evaluation_seed, training_seed
from otpr.envs import BrokenEnvironmentError, ChunkedVectorEnv
from otpr.envs.breakages import RESTARTS
from otpr.errors import OtprError
from otpr.policies.encoder import encode
from otpr.training import checkpoints
from otpr.training.evaluate import evaluate
from otpr.training.workers import Lockstep
from tests.faults.small import (
    BASE,
    CHUNK,
    TASK,
    episode_starts,
    fine_tune,
    inject,
    processes,
    rows,
)
from tiny import arrays, assert_same_arrays

CAUSES = {
    "raise": "step() raised ConnectionError: robot unplugged",
    "hang": "step() hung: no answer within 1.5 seconds",
    "exit": "process died in step() (exit status 3)",
    "shape": "an observation has shape (4,), expected (3,)",
}
VICTIM = 6  # episode 2 of round 1: slot 2, which shares a process with slot 0 where there are two


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Any]]:
    """The run without a fault, in two processes."""
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch, processes(patch, 2) as env:
        job = fine_tune(path, env)
    return path, job


def replayed(job: Any) -> Any:
    """The transitions in replay, in their order."""
    replay = job.experience.replay
    return job.experience.store.transitions(replay.rows[: int(replay.size)])


def first_states(job: Any) -> np.ndarray:
    """Of the episodes in replay, in their order: each has six steps."""
    return np.asarray(replayed(job).state)[::6]


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.faults] * (kind in ("raise", "shape"))) for kind in CAUSES]
)
def test_episodes_of_a_broken_process_are_dropped_and_counted_and_the_run_goes_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any, capfd: Any
) -> None:
    inject(monkeypatch, tmp_path, {"kind": kind, "seed": training_seed(0, VICTIM), "step": 3})
    with processes(monkeypatch, 2, timeout=1.5) as env:
        first = [group._process for group in env._groups]  # pyright: ignore[reportAttributeAccessIssue]
        job = fine_tune(tmp_path / "run", env)
        now = [group._process for group in env._groups]  # pyright: ignore[reportAttributeAccessIssue]
        assert (now[0] is first[0], now[1] is first[1]) == (False, True)
        assert first[0].poll() is not None
    counted = [row["rollout/broken_episodes"] for row in rows(tmp_path / "run") if "rollout/length" in row]
    assert counted == [0, 2, 2, 2, 2, 2]  # a round more: two episodes are missing of 120 steps
    # episodes 4 and 6 shared the process; 5 and 7 went on; each starts where its seed says
    kept = [i for i in range(24) if i not in (4, 6)]
    starts = episode_starts([training_seed(0, i) for i in kept])
    np.testing.assert_array_equal(first_states(job), encode(job.base.encoder, {"state": starts}))
    replay, expected = replayed(job), replayed(undisturbed[1])
    both = 6 * 6  # round 0, and episodes 5 and 7, are bit for bit what they were: 4 + 2 episodes
    rows_before = [*range(24), *range(30, 36), *range(42, 48)]
    for name in set(replay._fields) - {"row"}:
        np.testing.assert_array_equal(
            np.asarray(getattr(replay, name))[:both], np.asarray(getattr(expected, name))[rows_before], name
        )
    printed = capfd.readouterr()
    assert CAUSES[kind] in printed.out
    assert printed.out.count(" dropped. ") == 2


def test_undisturbed_run_counts_none(undisturbed: Any) -> None:
    path, _ = undisturbed
    assert {row.get("rollout/broken_episodes", 0) for row in rows(path)} == {0}


def test_run_is_the_same_with_one_and_with_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    with processes(monkeypatch, 1) as env:
        assert len(env._groups) == 1
        job = fine_tune(tmp_path / "run", env)
    assert rows(tmp_path / "run") == rows(undisturbed[0])
    assert_same_arrays(arrays(job.agent), arrays(undisturbed[1].agent))
    assert_same_arrays(arrays(job.experience), arrays(undisturbed[1].experience))


@pytest.mark.long
def test_run_that_learns_is_the_same_with_one_and_with_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Critics, policy and potentials learn from the rounds, and the later rounds act by what was learnt."""
    learning = {"env_steps": 72, "warmup_steps": 24, "warmup_updates": 250, "update_ratio": 6.0}
    runs = {}
    for count in (1, 2):
        with processes(monkeypatch, count) as env:
            assert len(env._groups) == count
            job = fine_tune(tmp_path / f"run-{count}", env, **learning)
        runs[count] = rows(tmp_path / f"run-{count}"), arrays(job.agent), arrays(job.experience)
        # a block of the critics alone, one of critics and policy, and a round of potentials each time
        assert (job.at.updates, job.at.rounds) == (500, 3)
    assert runs[1][0] == runs[2][0]
    assert_same_arrays(runs[1][1], runs[2][1])
    assert_same_arrays(runs[1][2], runs[2][2])


@pytest.mark.parametrize("step", [0, pytest.param(2, marks=pytest.mark.faults)])
def test_round_in_which_every_episode_breaks_adds_nothing(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, tmp_path, {"kind": "raise", "seed": training_seed(0, 5), "step": step})
    with processes(monkeypatch, 1) as env:
        job = fine_tune(tmp_path / "run", env)
    rounds = [row for row in rows(tmp_path / "run") if "rollout/length" in row]
    assert [row["env_steps"] for row in rounds] == [24, 24, 48, 72, 96, 120]
    assert [row["rollout/episodes"] for row in rounds] == [4, 8, 12, 16, 20, 24]
    assert [row["rollout/broken_episodes"] for row in rounds] == [0, 4, 4, 4, 4, 4]
    assert rounds[1]["rollout/success_rate"] is None
    starts = episode_starts([training_seed(0, i) for i in range(24) if not 4 <= i < 8])
    np.testing.assert_array_equal(first_states(job), encode(job.base.encoder, {"state": starts}))


@pytest.mark.faults
def test_environment_that_keeps_breaking_ends_the_run_which_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Any
) -> None:
    """Each third episode breaks, so each second process; as soon as that is mended the run is completed."""
    faults = [{"kind": "exit", "seed": training_seed(0, i), "step": 1} for i in range(4, 400, 4)]
    inject(monkeypatch, tmp_path, *faults)
    monkeypatch.setattr("otpr.envs.breakages.RESTARTS", 2)
    path = tmp_path / "run"
    with processes(monkeypatch, 2) as env, pytest.raises(OtprError) as caught:
        fine_tune(path, env)
    message = str(caught.value)
    assert message.startswith(
        f"{TASK}: the environment broke 3 times within 100 episodes, the last time so: "
    )
    assert "died in step() (exit status 3)" in message
    assert "--resume goes on from there" in message
    before = rows(path)
    assert [row["rollout/broken_episodes"] for row in before if "rollout/length" in row] == [0, 2, 4]
    assert checkpoints.latest(path / "checkpoints") == before[-1]["row"]
    monkeypatch.delenv("OTPR_TEST_FAULTS")
    with processes(monkeypatch, 2) as env:
        job = fine_tune(path, env, resume=True)
    assert rows(path)[: len(before)] == before
    assert job.at.broken_episodes == 4
    kept = [i for i in range(24) if i not in (4, 6, 8, 10)]
    np.testing.assert_array_equal(
        first_states(job)[:20],
        encode(job.base.encoder, {"state": episode_starts([training_seed(0, i) for i in kept])}),
    )


def test_environment_that_never_worked_ends_the_run_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [{"kind": "raise", "seed": evaluation_seed(i), "step": 1, "times": 99} for i in range(6)]
    inject(monkeypatch, tmp_path, *faults)
    with processes(monkeypatch, 2) as env, pytest.raises(OtprError, match="robot unplugged"):
        fine_tune(tmp_path / "run", env)
    assert [len(list((tmp_path / f"fault-{i}").iterdir())) for i in range(6)] == [1, 1, 0, 0, 0, 0]
    assert rows(tmp_path / "run") == []


# ------------------------------------------------------------------------------------------- evaluation


def test_evaluation_runs_a_broken_episode_once_more_and_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with processes(monkeypatch, 2) as env:
        expected = evaluate(BASE, Lockstep(env), 7)
    inject(monkeypatch, tmp_path, {"kind": "exit", "seed": evaluation_seed(2), "step": 4})
    finished: list[int] = []
    with processes(monkeypatch, 2) as env:
        assert evaluate(BASE, Lockstep(env), 7, on_wave=finished.append) == expected
    assert finished == [2, 3, 2]
    assert 0 < expected.successes < 7


@pytest.mark.faults
def test_episode_that_breaks_twice_ends_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, tmp_path, {"kind": "exit", "seed": evaluation_seed(2), "step": 4, "times": 2})
    with processes(monkeypatch, 2) as env, pytest.raises(BrokenEnvironmentError) as caught:
        evaluate(BASE, Lockstep(env), 4)
    assert "broke twice in the evaluation episode of seed" in str(caught.value)
    assert "exit status 3" in str(caught.value)


# ----------------------------------------------------------------------------------------- the processes


def test_hung_environment_is_killed_with_all_it_started_and_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a robot's driver: a hang in the first chunk, when nothing has worked yet, ends it at once."""
    inject(monkeypatch, tmp_path, {"kind": "hang", "seed": 1, "step": 1})
    with processes(monkeypatch, 1, timeout=1.0) as env:
        env.reset([1, 2, 3, 4])
        started = time.monotonic()
        with pytest.raises(BrokenEnvironmentError, match=r"step\(\) hung: no answer within 1 seconds"):
            env.step(np.zeros((4, CHUNK, 2), np.float32))
        assert 1.0 <= time.monotonic() - started < 4.0
        process = env._groups[0]._process  # pyright: ignore[reportAttributeAccessIssue]
        assert process.poll() == -9


def test_closing_does_not_wait_for_a_hung_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, tmp_path, {"kind": "hang", "seed": 1, "step": 1})
    monkeypatch.setattr("otpr.envs.served._CLOSING_SECONDS", 0.3)
    env = processes(monkeypatch, 1)
    env.reset([1, 2, 3, 4])
    group: Any = env._groups[0]
    group.send("step", np.zeros((4, CHUNK, 2), np.float32))
    started = time.monotonic()
    env.close()
    assert time.monotonic() - started < 3.0
    assert group._process.poll() == -9


@pytest.mark.faults
def test_restarts_leave_no_process_and_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [{"kind": "exit", "seed": seed, "step": 1} for seed in range(1, 4)]
    inject(monkeypatch, tmp_path, *faults)
    still = np.zeros((1, CHUNK, 2), np.float32)
    before = len(os.listdir("/proc/self/fd"))
    old = []
    with ChunkedVectorEnv(TASK, 1, CHUNK, processes=True) as env:
        env.reset([0])
        assert env.step(still).steps.tolist() == [6]
        during = len(os.listdir("/proc/self/fd"))
        for seed in range(1, 4):
            old.append(env._groups[0]._process)  # pyright: ignore[reportAttributeAccessIssue]
            env.reset([seed])
            assert env.step(still).steps.tolist() == [0]
            assert list(env.broken) == [0]
            assert not env.running.any()
        env.reset([0])
        assert env.step(still).steps.tolist() == [6]
        assert env.broken == {}
        assert len(os.listdir("/proc/self/fd")) == during
    assert [process.poll() for process in old] == [3, 3, 3]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.faults
def test_rate_limit_forgets_what_was_long_ago(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts as many as are tolerated, again and again, each lot 100 episodes after the last."""
    faults = [{"kind": "raise", "seed": seed, "step": 0} for seed in range(1, 6)]
    inject(monkeypatch, tmp_path, *faults)
    monkeypatch.setattr("otpr.envs.breakages.RESTARTS", 2)
    monkeypatch.setattr("otpr.envs.breakages.WITHIN", 5)
    still = np.zeros((1, CHUNK, 2), np.float32)
    with ChunkedVectorEnv(TASK, 1, CHUNK, processes=True) as env:
        env.reset([0])
        env.step(still)
        for seed in (1, 2, 0, 0, 0, 3, 4):
            env.reset([seed])
            assert list(env.broken) == ([0] if seed else [])
        with pytest.raises(BrokenEnvironmentError, match="broke 3 times within 5 episodes"):
            env.reset([5])
    assert RESTARTS == 10
