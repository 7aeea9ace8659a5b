from __future__ import annotations

import importlib.util
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from otpr.envs import Setup, list_tasks, make_env, make_expert, task_spec
from otpr.envs.registry import known_task
from otpr.errors import OtprError
from otpr.spec import Spec


def test_lists_exactly_the_tasks_of_the_package_and_their_experts() -> None:
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    everything = [spec.id for spec in list_tasks()]
    assert everything == sorted(everything)
    ids = [task_id for task_id in everything if task_id.startswith("metaworld/")]
    assert len(ids) == 50
    assert ids == sorted(f"metaworld/{name}" for name in ALL_V3_ENVIRONMENTS)
    assert ids == sorted(f"metaworld/{name}" for name in ENV_POLICY_MAP)


def test_spec_of_a_task() -> None:
    task = task_spec("metaworld/peg-insert-side-v3")
    assert task.id == "metaworld/peg-insert-side-v3"
    assert (task.extra, task.installed, task.expert) == ("metaworld", True, True)
    assert task.spec == Spec.flat(39, 4, control_rate=80)
    assert task.episode_limit == 200
    assert task in list_tasks()


@pytest.mark.parametrize("use", [task_spec, make_env, lambda task_id: make_expert(task_id, None)])
def test_misspelt_task_is_answered_with_the_nearest(use) -> None:
    with pytest.raises(
        OtprError, match=r"Unknown task 'metaworld/peg-insert-v3'.*metaworld/peg-insert-side-v3"
    ):
        use("metaworld/peg-insert-v3")


@pytest.mark.parametrize("use", [task_spec, make_env, lambda task_id: make_expert(task_id, None)])
def test_missing_simulator_names_the_extra(use, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "metaworld" else find_spec(name)
    )
    with pytest.raises(OtprError, match=r"pip install 'otpr\[metaworld\]'"):
        use("metaworld/peg-insert-side-v3")
    tasks = [task for task in list_tasks() if task.extra == "metaworld"]
    assert len(tasks) == 50
    assert not any(task.installed for task in tasks)
    assert {task.spec for task in tasks} == {Spec.flat(39, 4, control_rate=80)}
    assert known_task(tasks[0].id) == tasks[0]  # what is known without it is told without it


def test_importing_it_loads_neither_jax_nor_a_simulator() -> None:
    code = (
        "import otpr.envs, otpr.envs.worker, sys\n"
        "print([name for name in ('jax', 'mujoco', 'metaworld') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_spaces_agree_with_the_spec() -> None:
    task = task_spec("metaworld/door-open-v3")
    env = make_env(task.id)
    assert env.observation_space.shape == task.spec.observation["state"].shape
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (task.spec.action_dim,), "float32")
    env.close()


@pytest.mark.parametrize("limit", [3, 300])
def test_a_limit_that_is_given_takes_the_place_of_the_task_s_own(limit: int) -> None:
    task = "metaworld/peg-insert-side-v3"
    assert task_spec(Setup(task, limit)).episode_limit == limit
    env = make_env(Setup(task, limit))
    env.reset(seed=0)
    still = np.zeros(4, np.float32)
    assert [env.step(still)[3] for _ in range(limit)] == [False] * (limit - 1) + [True]
    env.close()


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(OtprError, match="episode limit must be at least 1, given 0"):
        make_env(Setup("metaworld/peg-insert-side-v3", 0))
