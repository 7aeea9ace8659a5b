from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from otpr.envs import BrokenEnvironmentError, ChunkedVectorEnv, make_env, make_expert
from otpr.errors import OtprError

TASK = "metaworld/peg-insert-side-v3"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def expert_actions(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Actions (T, 4) of a successful episode and the observations (T+1, 39) they lead to."""
    env = make_env(TASK)
    expert = make_expert(TASK, env)
    observation, _ = env.reset(seed=seed)
    observations, actions, terminated = [observation], [], False
    while not terminated:
        actions.append(expert.act(observation))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        assert not truncated
    env.close()
    return np.stack(actions), np.stack(observations)


def chunked(actions: np.ndarray, h: int) -> np.ndarray:
    """(T, 4) -> (ceil(T / h), 1, h, 4), padded with zeros."""
    count = -(-len(actions) // h)
    padded = np.zeros((count * h, 4), np.float32)
    padded[: len(actions)] = actions
    return padded.reshape(count, 1, h, 4)


@pytest.mark.parametrize("h", [1, 8])
def test_chunks_give_the_same_episode_as_single_steps(h: int) -> None:
    actions, observations = expert_actions(seed=1)
    steps = len(actions)
    with ChunkedVectorEnv(TASK, 1, h, processes=False) as env:
        first = env.reset([1])
        np.testing.assert_array_equal(first["state"], observations[:1])
        results = [env.step(chunk) for chunk in chunked(actions, h)]
        reached = np.concatenate([result.observations["state"][0, : result.steps[0]] for result in results])
        rewards = np.concatenate([result.rewards[0] for result in results])
        np.testing.assert_array_equal(reached, observations[1:])
        assert rewards[steps - 1] == 1.0
        assert rewards.sum() == 1.0
        assert [int(result.steps[0]) for result in results] == [h] * (steps // h) + [steps % h] * (
            steps % h > 0
        )
        flags = [(r.terminated[0], r.truncated[0], r.success[0]) for r in results]
        assert flags == [(False, False, False)] * (len(results) - 1) + [(True, False, True)]
        assert not env.running[0]

        # Over: further chunks are ignored, and the last observation stays in view.
        after = env.step(np.ones((1, h, 4), np.float32))
        assert after.steps[0] == 0
        assert not after.rewards.any()
        assert not (after.terminated[0] or after.truncated[0] or after.success[0])
        np.testing.assert_array_equal(after.observations["state"][0], np.repeat(observations[-1:], h, axis=0))


def test_beyond_the_end_of_an_episode_the_last_observation_is_repeated() -> None:
    actions, observations = expert_actions(seed=1)
    h = len(actions) + 5
    with ChunkedVectorEnv(TASK, 1, h, processes=False) as env:
        env.reset([1])
        result = env.step(chunked(actions, h)[0])
    assert result.steps[0] == len(actions)
    np.testing.assert_array_equal(
        result.observations["state"][0, -6:], np.repeat(observations[-1:], 6, axis=0)
    )
    assert not result.rewards[0, len(actions) :].any()


def test_truncation_in_the_middle_of_a_chunk() -> None:
    still = np.zeros((2, 7, 4), np.float32)
    with ChunkedVectorEnv(TASK, 2, 7, processes=False) as env:
        env.reset([0, None])
        results = [env.step(still) for _ in range(29)]
    assert [int(result.steps[0]) for result in results] == [7] * 28 + [4]
    assert [bool(result.truncated[0]) for result in results] == [False] * 28 + [True]
    assert not any(result.terminated.any() or result.success.any() for result in results)
    assert not any(result.steps[1] or result.truncated[1] for result in results)


def test_idle_slots_and_reset_of_all() -> None:
    forward = np.ones((3, 2, 4), np.float32)
    with ChunkedVectorEnv(TASK, 3, 2, processes=False) as env:
        assert env.running.tolist() == [False, False, False]
        assert env.step(forward).steps.tolist() == [0, 0, 0]
        first = env.reset([4, None, 6])
        assert env.running.tolist() == [True, False, True]
        result = env.step(forward)
        assert result.steps.tolist() == [2, 0, 2]
        assert not result.observations["state"][1].any()
        again = env.reset([4, 5, None])
        assert env.running.tolist() == [True, True, False]
        np.testing.assert_array_equal(again["state"][0], first["state"][0])
        assert env.step(forward).steps.tolist() == [2, 2, 0]


def test_processes_give_the_same_results() -> None:
    """Three environments over the processes, twice over, with different ends, against all in this process."""
    actions, _ = expert_actions(seed=1)
    generator = np.random.default_rng(0)
    h = 16
    plans = chunked(actions, h)
    with (
        ChunkedVectorEnv(TASK, 3, h, processes=True) as there,
        ChunkedVectorEnv(TASK, 3, h, processes=False) as here,
    ):
        for seeds in ([1, 2, None], [3, 1, 5]):
            np.testing.assert_equal(there.reset(seeds), here.reset(seeds))
            ended = np.zeros(3, bool)
            for plan in plans:
                chunks = generator.uniform(-1, 1, (3, h, 4)).astype(np.float32)
                chunks[seeds.index(1)] = plan[0]  # the slot whose episode this plan solves
                one, other = there.step(chunks), here.step(chunks)
                np.testing.assert_equal(asdict(one), asdict(other))
                np.testing.assert_array_equal(there.running, here.running)
                ended |= one.success
            assert ended[seeds.index(1)]
            assert ended.sum() == 1
        processes = [group._process for group in there._groups]
        assert [process.poll() for process in processes] == [None] * len(processes)
    assert [process.poll() for process in processes] == [0] * len(processes)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least 1, given 0, 4 and 1"):
        ChunkedVectorEnv(TASK, 0, 4, processes=False)
    with pytest.raises(ValueError, match="at least 1, given 2, 0 and 1"):
        ChunkedVectorEnv(TASK, 2, 0, processes=False)
    with pytest.raises(OtprError, match="Unknown task"):
        ChunkedVectorEnv("metaworld/peg-insert-v3", 2, 4, processes=True)
    with ChunkedVectorEnv(TASK, 2, 4, processes=False) as env:
        with pytest.raises(ValueError, match="Expected 2 seeds, given 3"):
            env.reset([0, 1, 2])
        env.reset([0, None])
        with pytest.raises(ValueError, match=r"\(2, 4, 4\), given \(2, 3, 4\)"):
            env.step(np.zeros((2, 3, 4), np.float32))
        chunks = np.zeros((2, 4, 4), np.float32)
        chunks[1, 0, 0] = np.nan  # an idle slot's row is ignored
        assert env.step(chunks).steps.tolist() == [4, 0]
        chunks[0, 3, 2] = np.inf
        with pytest.raises(ValueError, match="NaN or infinity"):
            env.step(chunks)


def test_killed_process_is_an_error_and_close_still_works() -> None:
    env = ChunkedVectorEnv(TASK, 1, 4, processes=True)
    env.reset([0])
    process = env._groups[0]._process
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(BrokenEnvironmentError, match=r"died in step\(\) \(exit status -9, killed by SIGKILL"):
        env.step(np.zeros((1, 4, 4), np.float32))
    env.close()
    env.close()
    assert process.poll() == -signal.SIGKILL


# No main guard, JAX at the top: what a user's script may look like.
SCRIPT = """
import sys, time
import jax
from otpr.envs import ChunkedVectorEnv

env = ChunkedVectorEnv("metaworld/peg-insert-side-v3", 1, 4, processes=True)
env.reset([0])
print(env._groups[0]._process.pid, flush=True)
sys.stdin.read()
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@linux_only
def test_process_has_no_jax_and_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert "jaxlib" in Path(f"/proc/{parent.pid}/maps").read_text()
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "mujoco" in maps
        assert "jaxlib" not in maps
        parent.kill()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)
