from __future__ import annotations

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from otpr.cli.main import main
from otpr.data.datasets import read_dataset
from otpr.envs import ChunkedVectorEnv, Setup, make_env, make_expert, task_spec
from otpr.envs.user_env import GymSimulator
from otpr.errors import OtprError
from otpr.policies.encoder import VectorEncoder, encode
from otpr.spec import Entry, Spec
from tests.envs import user_envs

HERE = "tests.envs.user_envs"
TASK = f"{HERE}:make_reach"


def test_spec_of_a_factory() -> None:
    task = task_spec(TASK)
    assert task.spec == Spec({"state": Entry((4,))}, (-0.1, 0.0), (0.3, 0.2))
    assert (task.episode_limit, task.installed, task.expert, task.extra) == (user_envs.LIMIT, True, False, "")


def test_what_the_environment_shows_in_float64_keeps_its_digits_up_to_the_policy(tmp_path: Path) -> None:
    far, near = f"{HERE}:far_away", TASK
    assert task_spec(far).spec.observation == {"state": Entry((4,), "float64")}
    for task, expert in ((far, "FarAwayExpert"), (near, "ReachExpert")):
        out = tmp_path / task.rpartition(":")[2]
        command = ["collect", task, "--expert", f"{HERE}:{expert}", "--episodes", "3", "--noise", "0.1"]
        assert main([*command, "--out", str(out)]) == 0
    found, plain = (read_dataset(tmp_path / name).episodes for name in ("far_away", "make_reach"))
    offset = np.array([0, 0, 1e9, 1e9])
    for one, other in zip(found, plain, strict=True):
        # the same episodes but for rounding of 1e-7, which is that of float64 at 1e9
        np.testing.assert_allclose(
            one.observations["state"], other.observations["state"] + offset, atol=1e-6, rtol=0
        )
    encoders = [
        VectorEncoder.fit(
            task_spec(task).spec, {"state": np.concatenate([e.observations["state"] for e in of])}
        )
        for task, of in ((far, found), (near, plain))
    ]
    for one, other in zip(found, plain, strict=True):
        features = [encode(e, of.observations) for e, of in zip(encoders, (one, other), strict=True)]
        np.testing.assert_allclose(*features, atol=1e-5)


def test_actions_of_whole_numbers_are_the_nearest_ones() -> None:
    env = make_env(f"{HERE}:whole_numbers")
    simulator = env.simulator
    assert isinstance(simulator, GymSimulator)
    env.reset(seed=0)
    for wanted in range(-5, 11):
        observation, *_ = env.step(simulator.to_unit([wanted, wanted % 2]))
        assert observation[2:].tolist() == [wanted, wanted % 2]
    # -5 + 15 * 0.93 / 2 = 1.975, and 0.465
    observation, *_ = env.step(np.array([-0.07, -0.07], np.float32))
    assert observation[2:].tolist() == [2, 0]
    env.close()


def test_the_control_rate_is_what_the_environment_says() -> None:
    assert task_spec(f"{HERE}:filmed").spec.control_rate == 12
    assert task_spec(TASK).spec.control_rate is None


def truncations(task: str, limit: int | None, steps: int) -> list[bool]:
    """Whether each of so many steps of an episode that never succeeds is its last."""
    env = make_env(Setup(task, limit))
    env.reset(seed=0)
    outcomes = [env.step(np.full(env.action_space.shape, -1, np.float32)) for _ in range(steps)]
    env.close()
    return [truncated for *_, truncated, _ in outcomes]


@pytest.mark.parametrize(
    ("task", "limit"),
    [
        (f"{HERE}:never_ends", 7),  # declares none
        (TASK, 7),  # a TimeLimit of 20
        (TASK, 33),
        (f"{HERE}:EndsByItself", 4),  # truncates by itself at 6
    ],
)
def test_a_limit_that_is_given_is_the_limit(task: str, limit: int) -> None:
    assert truncations(task, limit, limit) == [False] * (limit - 1) + [True]
    assert task_spec(Setup(task, limit)).episode_limit == limit
    with ChunkedVectorEnv(Setup(task, limit), 2, limit + 3, processes=True) as envs:
        envs.reset([0, None])
        result = envs.step(np.full((2, limit + 3, 2), -1, np.float32))
    assert (envs.episode_limit, result.steps.tolist(), bool(result.truncated[0])) == (limit, [limit, 0], True)


def test_a_limit_that_is_given_takes_the_place_of_the_registered_one() -> None:
    env = make_env(Setup("gym/Pendulum-v1", 230))  # registered with 200
    env.reset(seed=0)
    assert not any(env.step(np.zeros(1, np.float32))[3] for _ in range(229))
    with pytest.raises(OtprError, match="neither 'success' nor"):  # only at its end; it never tells success
        env.step(np.zeros(1, np.float32))


def test_where_the_environment_truncates_earlier_by_itself_it_does() -> None:
    assert truncations(f"{HERE}:EndsByItself", 50, 6) == [False] * 5 + [True]


def test_without_any_limit_the_task_is_told_but_not_run() -> None:
    task = f"{HERE}:never_ends"
    assert task_spec(task).episode_limit is None
    for run in (make_env, lambda task: ChunkedVectorEnv(task, 1, 2, processes=True)):
        with pytest.raises(OtprError, match=r"never_ends: nothing limits .*--episode-limit N"):
            run(task)


def test_dictionary_is_flattened_in_the_space_s_own_order() -> None:
    env = make_env(TASK)
    observation, _ = env.reset(seed=3)
    raw, _ = user_envs.make_reach().reset(seed=3)
    order = list(user_envs.Reach.observation_space.spaces)
    np.testing.assert_array_equal(observation, np.concatenate([raw[key] for key in order]))
    assert observation.dtype == np.float32


def test_actions_are_mapped_onto_the_environment_s_bounds() -> None:
    env = make_env(TASK)
    first = next(iter(user_envs.Reach.observation_space.spaces))
    point = slice(2, 4) if first == "a_goal" else slice(0, 2)
    for unit, raw in (
        ([-1, -1], [-0.1, 0.0]),
        ([1, 1], [0.3, 0.2]),
        ([0, 0], [0.1, 0.1]),
        ([9, -9], [0.3, 0.0]),
    ):
        env.reset(seed=0)
        observation, *_ = env.step(np.array(unit, np.float32))
        np.testing.assert_allclose(observation[point], raw, atol=1e-6)


def test_a_seed_fixes_the_episode_and_another_is_another() -> None:
    env = make_env(TASK)
    first, _ = env.reset(seed=5)
    env.step(np.ones(2, np.float32))
    other, _ = env.reset(seed=6)
    again, _ = env.reset(seed=5)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_termination_truncation_and_success_are_the_environment_s_own() -> None:
    env = make_env(f"{HERE}:EndsByItself")
    env.reset(seed=0)
    outcomes = [env.step(np.full(2, -1, np.float32))[2:] for _ in range(6)]
    assert [(terminated, truncated) for terminated, truncated, _ in outcomes] == [(False, False)] * 5 + [
        (False, True)
    ]
    assert [info["success"] for *_, info in outcomes] == [False] * 2 + [True] * 4
    limited = make_env(TASK)
    limited.reset(seed=0)
    outcomes = [limited.step(np.full(2, -1, np.float32))[2:4] for _ in range(user_envs.LIMIT)]
    assert outcomes == [(False, False)] * (user_envs.LIMIT - 1) + [(False, True)]


def test_gymnasium_ids_work_and_flatten() -> None:
    task = task_spec("gym/Pendulum-v1")
    assert task.spec == Spec({"state": Entry((3,))}, (-2,), (2,), control_rate=30)
    assert task.episode_limit == 200
    env = make_env("gym/Pendulum-v1")
    reference = gymnasium.make("Pendulum-v1")
    observation, _ = env.reset(seed=4)
    expected, _ = reference.reset(seed=4)
    np.testing.assert_array_equal(observation, expected)
    observation, reward, *_ = env.step(np.array([0.5], np.float32))
    expected, expected_reward, *_ = reference.step(np.array([1.0], np.float32))  # torque in [-2, 2]
    np.testing.assert_array_equal(observation, expected)
    assert reward == expected_reward


def test_expert_of_the_user_s_sees_and_answers_in_the_environment_s_own_terms() -> None:
    env = make_env(TASK)
    expert = make_expert(TASK, env, f"{HERE}:ReachExpert")
    observation, _ = env.reset(seed=1)
    expert.reset()
    terminated = truncated = False
    while not (terminated or truncated):
        action = expert.act(observation)
        assert env.action_space.contains(action)
        observation, _, terminated, truncated, _ = env.step(action)
    assert terminated


def test_expert_of_the_user_s_in_a_named_task_sees_the_flat_observation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flat_expert.py").write_text(
        "import numpy as np\nclass Expert:\n    def act(self, observation):\n"
        "        assert observation.shape == (39,)\n        return np.array([2.0, 0.0, -0.5, 0.0])\n"
    )
    monkeypatch.chdir(tmp_path)  # found in the current folder
    task = "metaworld/reach-v3"
    env = make_env(task)
    observation, _ = env.reset(seed=0)
    action = make_expert(task, env, "flat_expert:Expert").act(observation)
    np.testing.assert_array_equal(action, np.array([1.0, 0.0, -0.5, 0.0], np.float32))
    sys.path.remove(str(tmp_path))


def test_processes_give_the_same_results() -> None:
    chunks = np.random.default_rng(0).uniform(-1, 1, (4, 3, 5, 2)).astype(np.float32)
    results = []
    for processes in (False, True):
        with ChunkedVectorEnv(TASK, 3, 5, processes=processes) as env:
            results.append([env.reset([1, 2, 3]), *(env.step(chunk).observations for chunk in chunks)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_equal(one, other)


def test_factory_is_told_the_render_mode() -> None:
    env = make_env(f"{HERE}:filmed", "rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (32, 48, 3)
    assert env.metadata["render_fps"] == 12
    with pytest.raises(OtprError, match="takes no render_mode"):
        make_env(TASK, "rgb_array")


def test_collect_with_an_expert_of_one_s_own(tmp_path: Path) -> None:
    out = tmp_path / "set"
    arguments = ["--expert", f"{HERE}:ReachExpert", "--episodes", "3", "--noise", "0.1", "--out", str(out)]
    assert main(["collect", TASK, *arguments]) == 0
    demonstrations = read_dataset(out)
    assert demonstrations.task_id == TASK
    assert all(
        episode.success and episode.observations["state"].shape[1] == 4 for episode in demonstrations.episodes
    )


BAD_ENVIRONMENTS = {
    "float_image": "an observation is an image of float32; images must be uint8, from 0 to 255. Wrap the",
    "stacked_images": "the part 'pixels' of an observation has shape (8, 8, 9), and no end is 1, 3 or 4",
    "image_called_state": "an image is called 'state', as the vectors of an observation are",
    "matrix_observation": "must be vectors and images, and hold arrays of shape (4, 4). Make a vector",
    "discrete_observation": "must be made of Box spaces, and hold Discrete(5). Wrap the environment with",
    "text_observation": "must be made of Box spaces, and the part '1' holds Text(",
    "discrete_action": "actions must be a vector of numbers (a Box of one axis), and are Discrete(4)",
    "binary_action": "actions must be a vector of numbers (a Box of one axis), and are MultiBinary(3)",
    "matrix_action": "actions must be a vector of numbers (a Box of one axis)",
    "unbounded_action": "actions must have finite bounds",
    "fixed_action": "actions must have finite bounds, low below high",
    "never_ends": "nothing limits the length of an episode",
    "no_env": "expected a gymnasium.Env, was given dict",
    "needs_argument": "cannot be made (TypeError",
    "raises_when_made": "cannot be made (RuntimeError: no robot on the bus)",
    "not_callable": "is int; expected a function or a class",
    "missing": "cannot be loaded",
    "raises_on_reset": "reset() raised OSError: camera unplugged (",
    "raises_on_step": "step() raised ZeroDivisionError: inverse kinematics (",
    "changes_shape": "an observation has shape (3,), expected (2,)",
    "no_success": "neither 'success' nor 'is_success'",
    "four_results": "step() must return observation, reward, terminated, truncated, info",
    "reset_without_info": "reset(): returned one dict, expected 2: return observation, info,",
    "missing_key": "an observation has the entries ['a_goal'], expected ['a_goal', 'z_point']",
}


@pytest.mark.parametrize("name", BAD_ENVIRONMENTS)
def test_bad_environment_is_an_error_that_says_what_to_mend(name: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "set"
    task = f"{HERE}:{name}"
    assert main(["collect", task, "--expert", f"{HERE}:Idle", "--episodes", "1", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert BAD_ENVIRONMENTS[name] in message
    assert task in message
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []  # nothing half-written


@pytest.mark.parametrize("name", ["raises_on_step", "raises_on_reset"])
def test_bad_environment_in_a_process_is_the_same_error(name: str) -> None:
    def run() -> None:
        with ChunkedVectorEnv(f"{HERE}:{name}", 2, 3, processes=True) as env:
            env.reset([0, 1])
            env.step(np.zeros((2, 3, 2), np.float32))

    with pytest.raises(OtprError, match=re.escape(BAD_ENVIRONMENTS[name])):
        run()


@pytest.mark.parametrize(
    ("expert", "message"),
    [
        (f"{HERE}:NoAct", "has no method act"),
        (f"{HERE}:WrongLength", "expected (2,) finite numbers"),
        (f"{HERE}:NotFinite", "expected (2,) finite numbers"),
        (f"{HERE}:Raises", "failed (KeyError: 'gripper')"),
        (f"{HERE}:NeedsArgument", "cannot be made (TypeError"),
        ("no.such.module:Expert", "cannot be loaded"),
        ("Expert", "must have the form module:name"),
    ],
)
def test_bad_expert_is_an_error(expert: str, message: str, tmp_path: Path, capsys) -> None:
    arguments = ["collect", TASK, "--expert", expert, "--episodes", "1", "--out", str(tmp_path / "set")]
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unknown_gymnasium_id_is_an_error(capsys) -> None:
    assert main(["collect", "gym/Pendulum-v99", "--expert", f"{HERE}:ReachExpert"]) == 2
    assert "gym/Pendulum-v99: cannot be made" in capsys.readouterr().err


def test_task_without_expert_says_what_to_do(tmp_path: Path, capsys) -> None:
    assert main(["collect", TASK, "--out", str(tmp_path / "set")]) == 2
    message = capsys.readouterr().err
    assert "--expert module:Class" in message
    assert "otpr data convert" in message


def test_images_stand_beside_the_vectors() -> None:
    task = task_spec(f"{HERE}:seeing")
    assert {name: str(entry) for name, entry in task.spec.observation.items()} == {
        "eyes/top": "image (32, 40, 3) uint8",
        "state": "vector (2,) float32",
    }
    assert task.parts == (("arm", 2),)
    env = make_env(task.id)
    observation, _ = env.reset(seed=1)
    raw = env.simulator.raw_observation
    assert env.observation_space.contains(observation)
    np.testing.assert_array_equal(observation["state"], raw["arm"])
    np.testing.assert_array_equal(observation["eyes/top"], np.moveaxis(raw["eyes"]["top"], 0, -1))
    assert "eyes/top" not in env.step(np.zeros(2, np.float32), look=False)[0]


def test_an_environment_that_shows_one_image_has_no_vectors() -> None:
    env = user_envs.picture()
    simulator = GymSimulator(env, "task")
    assert {name: entry.shape for name, entry in simulator.spec.observation.items()} == {"image": (32, 40, 1)}
    assert simulator.parts == ()
    seen = simulator.reset(0)["image"]
    np.testing.assert_array_equal(seen[..., 0], simulator.raw_observation)


@pytest.mark.parametrize("setup", [Setup(TASK, observe="proprioception"), Setup.seen(TASK, cameras=("top",))])
def test_what_an_environment_of_the_users_shows_is_its_own_business(setup: Setup) -> None:
    with pytest.raises(OtprError, match=r"shows what its observation space says\. Leave out"):
        task_spec(setup)
