from __future__ import annotations

import importlib.util
import subprocess
import sys

import gymnasium
import pytest

from otpr.envs import list_tasks, make_env, make_expert, task_spec
from otpr.errors import OtprError


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
    spec = task_spec("metaworld/peg-insert-side-v3")
    assert spec.id == "metaworld/peg-insert-side-v3"
    assert (spec.extra, spec.installed, spec.expert) == ("metaworld", True, True)
    assert (spec.observation_dim, spec.action_dim, spec.episode_limit) == (39, 4, 200)
    assert spec in list_tasks()


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
    specs = [spec for spec in list_tasks() if spec.extra == "metaworld"]
    assert len(specs) == 50
    assert not any(spec.installed for spec in specs)
    assert {(spec.observation_dim, spec.action_dim) for spec in specs} == {(39, 4)}


def test_importing_it_loads_neither_jax_nor_a_simulator() -> None:
    code = (
        "import otpr.envs, otpr.envs.worker, sys\n"
        "print([name for name in ('jax', 'mujoco', 'metaworld') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_spaces_agree_with_the_spec() -> None:
    spec = task_spec("metaworld/door-open-v3")
    env = make_env(spec.id)
    assert env.observation_space.shape == (spec.observation_dim,)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), "float32")
    env.close()
