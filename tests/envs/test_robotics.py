"""What all suites of gymnasium-robotics must do; what is special to one is tested in a file of its own."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from otpr.envs import ChunkedVectorEnv, list_tasks, make_env, task_spec
from otpr.envs.kitchen import SUBTASKS
from otpr.envs.robotics import environment_class

TASKS = [spec.id for spec in list_tasks() if spec.extra == "robotics"]
SOME_TASKS = ["adroit/relocate", "fetch/pick-and-place", "kitchen/mixed"]  # one of each suite


@functools.cache
def env_of(task_id: str):
    """Kept for the whole module: a kitchen takes half a second to make."""
    return make_env(task_id)


def trajectory(env, seed: int, steps: int) -> np.ndarray:
    """Observations under slowly varying random actions, which reach the limits and touch things."""
    generator = np.random.default_rng(0)
    target = generator.uniform(-1, 1, env.action_space.shape)
    observations = [env.reset(seed=seed)[0]]
    for step in range(steps):
        if step % 10 == 0:
            target = generator.uniform(-1, 1, env.action_space.shape)
        observation, _, terminated, truncated, _ = env.step(target.astype(np.float32))
        observations.append(observation)
        if terminated or truncated:
            break
    return np.stack(observations)


def test_the_tasks_are_those_that_were_promised() -> None:
    adroit = [f"adroit/{name}" for name in ("door", "hammer", "pen", "relocate")]
    fetch = [f"fetch/{name}" for name in ("pick-and-place", "push", "slide")]
    kitchen = [f"kitchen/{name}" for name in ("complete", "mixed", "partial")]
    assert adroit + fetch + kitchen == TASKS
    specs = [task_spec(task_id) for task_id in TASKS]
    assert [spec.id for spec in specs if spec.expert] == ["fetch/pick-and-place", "fetch/push", *kitchen]


@pytest.mark.parametrize("task_id", TASKS)
def test_spaces_agree_with_the_spec(task_id: str) -> None:
    spec, env = task_spec(task_id).spec, env_of(task_id)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (spec.action_dim,), "float32")
    assert env.simulator.env.action_space.shape == (spec.action_dim,)
    observation, info = env.reset(seed=0)
    assert observation.shape == spec.observation["state"].shape
    assert env.observation_space.contains(observation)
    assert info == {"success": False}
    simulator = env.simulator.env
    step = getattr(simulator, "dt", None) or simulator.robot_env.dt  # seconds of simulated time
    assert spec.control_rate == pytest.approx(1 / step)
    assert env.metadata["render_fps"] == simulator.metadata["render_fps"]


# The other two kitchens differ in their reward alone.
@pytest.mark.parametrize(
    "task_id", [name for name in TASKS if name not in ("kitchen/complete", "kitchen/partial")]
)
def test_a_seed_fixes_the_episode_whatever_was_run_before(task_id: str) -> None:
    used, fresh = env_of(task_id), make_env(task_id)
    expected = trajectory(fresh, 7, 40)
    fresh.close()
    assert len(expected) > 10
    trajectory(used, 3, 100)
    trajectory(used, 4, 17)
    np.testing.assert_array_equal(trajectory(used, 7, 40), expected)
    other = trajectory(used, 8, 0)
    # In the kitchen only the noise of the sensors differs.
    assert np.abs(other[0] - expected[0]).max() > (1e-4 if task_id.startswith("kitchen") else 1e-2)


DIGEST = """
import sys
from tests.envs.test_robotics import digest
print(digest())
"""


def digest() -> str:
    """One number for trajectories of all suites."""
    data = b"".join(trajectory(make_env(task_id), 11, 30).tobytes() for task_id in SOME_TASKS)
    return hashlib.sha256(data).hexdigest()


def test_another_process_gets_the_same_and_not_a_word_is_said() -> None:
    # The package prints a notice about Adroit's dense rewards when it is imported, to whomever has the whole.
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", DIGEST],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.split() == [digest()]
    assert result.stderr == ""


PACKAGE_IDS = {
    "adroit/door": ("AdroitHandDoorSparse-v1", {}),
    "adroit/hammer": ("AdroitHandHammerSparse-v1", {}),
    "adroit/pen": ("AdroitHandPenSparse-v1", {}),
    "adroit/relocate": ("AdroitHandRelocateSparse-v1", {}),
    "fetch/push": ("FetchPush-v4", {}),
    "fetch/pick-and-place": ("FetchPickAndPlace-v4", {}),
    "fetch/slide": ("FetchSlide-v4", {}),
    "kitchen/mixed": ("FrankaKitchen-v1", {"tasks_to_complete": list(SUBTASKS["mixed"])}),
}


@pytest.mark.parametrize("task_id", PACKAGE_IDS)
def test_it_is_the_package_s_own_environment(task_id: str) -> None:
    """Step by step as `gymnasium.make` of the newest version makes it."""
    environment_class("fetch.push:MujocoFetchPushEnv")  # imports the package, which registers its ids
    name, keywords = PACKAGE_IDS[task_id]
    reference = gymnasium.make(name, disable_env_checker=True, **keywords)
    env, keys = env_of(task_id), task_spec(task_id).observation_keys

    def flat(observation):
        return observation if not keys else np.concatenate([observation[key] for key in keys])

    expected = flat(reference.reset(seed=0)[0])
    observation, _ = env.reset(seed=0)
    generator = np.random.default_rng(0)
    for _ in range(30):
        np.testing.assert_array_equal(observation, expected.astype(np.float32))
        action = generator.uniform(-1, 1, task_spec(task_id).spec.action_dim).astype(np.float32)
        raw, _, _, _, info = reference.step(action)
        expected = flat(raw)
        observation, _, _, _, ours = env.step(action)
        assert ours["success"] == bool(info.get("is_success", info.get("success", False)))
    reference.close()


@pytest.mark.parametrize("task_id", ["adroit/pen", "adroit/door", "fetch/slide", "kitchen/complete"])
def test_truncated_at_exactly_the_limit(task_id: str) -> None:
    env, limit = env_of(task_id), task_spec(task_id).episode_limit
    assert limit == {"pen": 100, "door": 200, "slide": 50, "complete": 280}[task_id.partition("/")[2]]
    still = np.zeros(task_spec(task_id).spec.action_dim, np.float32)
    for seed in (2, 3):  # in adroit/pen, seed 1 is solved by doing nothing
        env.reset(seed=seed)
        outcomes = [env.step(still)[1:] for _ in range(limit)]
        assert [truncated for _, _, truncated, _ in outcomes] == [False] * (limit - 1) + [True]
        assert {(reward, ended, info["success"]) for reward, ended, _, info in outcomes} == {
            (0.0, False, False)
        }
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(still)


@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_actions_are_clipped(task_id: str) -> None:
    env = env_of(task_id)
    reached = []
    action = (
        np.random.default_rng(1).choice([-1.0, 1.0], task_spec(task_id).spec.action_dim).astype(np.float32)
    )
    for factor in (1, 7):
        env.reset(seed=2)
        for _ in range(5):
            observation, *_ = env.step(factor * action)
        reached.append(observation)
    np.testing.assert_array_equal(*reached)
    env.reset(seed=2)
    for _ in range(5):
        observation, *_ = env.step(0.5 * action)
    assert np.abs(observation - reached[0]).max() > 1e-3


@pytest.mark.long
@pytest.mark.parametrize("task_id", SOME_TASKS)
def test_processes_give_the_same_as_this_process(task_id: str) -> None:
    generator = np.random.default_rng(5)
    chunks = generator.uniform(-1, 1, (4, 2, 5, task_spec(task_id).spec.action_dim)).astype(np.float32)
    results = []
    for processes in (False, True):
        with ChunkedVectorEnv(task_id, 2, 5, processes=processes) as env:
            first = env.reset([5, 6])
            results.append((first, [env.step(chunk) for chunk in chunks]))
    (here, there) = results
    np.testing.assert_equal(here[0], there[0])
    for one, other in zip(here[1], there[1], strict=True):
        np.testing.assert_equal(asdict(one), asdict(other))


RENDER = """
import json, sys
from otpr.envs import make_env
from tests.envs.test_robotics import trajectory

def seen(task_id):
    env = make_env(task_id, render_mode="rgb_array")
    unseen = trajectory(env, 5, 12)
    step, pictures = env.step, []
    def step_and_render(action):
        outcome = step(action)
        if not pictures:  # one is enough: it takes a third of a second
            pictures.append(env.render())
        return outcome
    env.step = step_and_render
    same = bool((trajectory(env, 5, 12) == unseen).all())
    env.close()
    picture, = pictures
    bluish = picture[..., 2] > picture[..., 0].astype(int) + 12
    return {
        "shape": picture.shape, "dtype": str(picture.dtype), "same": same,
        "top": float(picture[:20].mean()), "bottom": float(picture[-20:].mean()),
        "top_spread": float(picture[:20].std((0, 1)).max()),
        "bottom_spread": float(picture[-20:].std((0, 1)).max()),
        "blue_above": float(bluish[:80].mean()), "blue_below": float(bluish[-80:].mean()),
    }

print(json.dumps({task_id: seen(task_id) for task_id in sys.argv[1:]}))
"""


QUICKLY_RENDERED = ["adroit/relocate", "fetch/pick-and-place"]


def check_pictures(task_ids: list[str]) -> None:
    # In a process of its own, because the rendering backend is chosen once, when MuJoCo is imported.
    try:
        import mujoco.egl  # noqa: F401
    except (ImportError, AttributeError) as error:
        pytest.skip(f"no EGL here: {error}")
    result = subprocess.run(
        [sys.executable, "-c", RENDER, *task_ids],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "MUJOCO_GL": "egl"},
    )
    if "EGL" in result.stderr and result.returncode != 0:
        pytest.skip("EGL does not render here")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for task_id, picture in json.loads(result.stdout).items():
        assert (picture["shape"], picture["dtype"]) == ([256, 256, 3], "uint8"), task_id
        assert picture["same"], task_id
        match task_id.split("/")[0]:
            case "adroit":  # black above, a bright table below
                assert picture["top"] < 20 < 35 < picture["bottom"], task_id
            case "fetch":  # the evenly green background above, the edge of a dark floor below
                assert picture["top_spread"] < 5 < 10 < picture["bottom_spread"], task_id
            case "kitchen":  # blue cabinets above, a white table below
                assert picture["blue_below"] < 0.2 < 0.5 < picture["blue_above"], task_id


def test_pictures_are_upright_and_looking_changes_nothing() -> None:
    check_pictures(QUICKLY_RENDERED)


@pytest.mark.slow
def test_pictures_of_the_other_tasks() -> None:
    check_pictures([task_id for task_id in TASKS if task_id not in QUICKLY_RENDERED])


def test_the_extra_pins_the_simulator_that_works() -> None:
    # With MuJoCo 4 neither Fetch nor the kitchen can be made.
    needed = [line for line in importlib.metadata.requires("otpr") or [] if "extra == 'robotics'" in line]
    assert {line.split(";")[0] for line in needed} == {"gymnasium-robotics==1.4.2", "mujoco==3.3.0"}
