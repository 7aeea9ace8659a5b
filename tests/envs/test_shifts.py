"""Each shift by what it does to the simulator, not by success."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import gymnasium
import numpy as np
import pytest

from otpr.envs import Setup, make_env, make_expert
from otpr.envs.cameras import Camera
from otpr.envs.shifts import LEVELS, SHIFTS, Shift, parse_all
from otpr.envs.shifts.physics import object_joints, robot_trees
from otpr.envs.task_env import TaskEnv
from otpr.errors import OtprError

PEG = "metaworld/peg-insert-side-v3"
DOOR = "metaworld/door-open-v3"
FETCH = "fetch/pick-and-place"
SEEDS = (3, 4)


def shifted(task: str, *shifts: str, **setup: Any) -> TaskEnv:
    return make_env(Setup(task, shifts=parse_all(shifts), **setup))


@functools.cache
def nominal_start(task: str, seed: int = 3) -> np.ndarray:
    """The first observation of an unshifted episode."""
    env = make_env(task)
    observation, _ = env.reset(seed=seed)
    env.close()
    return observation


class Recorder(gymnasium.Env[Any, Any]):
    """Shows the last two actions that reached it, and two positions that stay."""

    metadata = {"render_modes": [], "positions": [2, 3]}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.array([0.0, 0.0, 0.5, -0.5]), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return np.array([*action, 0.5, -0.5]), 0.0, False, False, {"success": False}


class Unknown(Recorder):
    """The same, which does not say which numbers are positions."""

    metadata = {"render_modes": []}  # noqa: RUF012


RECORDER, UNKNOWN = f"{__name__}:Recorder", f"{__name__}:Unknown"


def executed(*shifts: str, seed: int = 3, steps: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """The actions asked for, and those that reached the environment; (steps, 2)."""
    env = shifted(RECORDER, *shifts, episode_limit=1000)
    env.reset(seed=seed)
    asked = np.random.default_rng(0).uniform(-0.4, 0.4, (steps, 2)).astype(np.float32)
    return asked, np.array([env.step(action)[0][:2] for action in asked])


# ------------------------------------------------------------------------------------------------ actions


@pytest.mark.parametrize("level", LEVELS)
def test_gain_is_the_factor(level: int) -> None:
    asked, done = executed(f"gain:{level}")
    np.testing.assert_allclose(done, asked * (0.8, 0.6, 0.4)[level - 1], rtol=1e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_latency_is_so_many_steps(level: int) -> None:
    asked, done = executed(f"latency:{level}", steps=20)
    late = (1, 2, 4)[level - 1]
    np.testing.assert_array_equal(done[:late], 0)
    np.testing.assert_array_equal(done[late:], asked[:-late])


@pytest.mark.parametrize("level", [1, 2])
def test_action_noise_has_its_spread_and_stays_in_bounds(level: int) -> None:
    asked, done = executed(f"action-noise:{level}")
    noise = done - asked
    assert noise.std() == pytest.approx((0.1, 0.2)[level - 1], rel=0.1)
    assert abs(noise.mean()) < 0.02
    assert np.abs(executed("action-noise:3")[1]).max() <= 1


def test_noise_repeats_with_the_seed_alone() -> None:
    first, again, other = (executed("action-noise:1", seed=seed)[1] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_shifts_add_up() -> None:
    asked, done = executed("gain:3", "latency:1", steps=20)
    np.testing.assert_allclose(done[1:], 0.4 * asked[:-1], rtol=1e-6)


# ------------------------------------------------------------------------------------------------ sensors


def seen(shift: str, steps: int = 300) -> np.ndarray:
    """What is off in the observations of an episode of the recorder, (steps, 4)."""
    env = shifted(RECORDER, shift, episode_limit=1000)
    env.reset(seed=3)
    still = np.zeros(2, np.float32)
    return np.array([env.step(still)[0] - [0, 0, 0.5, -0.5] for _ in range(steps)])


@pytest.mark.parametrize("level", LEVELS)
def test_sensor_noise_is_fresh_and_on_positions_alone(level: int) -> None:
    off = seen(f"sensor-noise:{level}")
    np.testing.assert_array_equal(off[:, :2], 0)
    np.testing.assert_allclose(off[:, 2:].std(0), (0.002, 0.005, 0.01)[level - 1], rtol=0.15)
    assert abs(np.corrcoef(off[:-1, 2], off[1:, 2])[0, 1]) < 0.15


@pytest.mark.parametrize("level", LEVELS)
def test_sensor_offset_is_one_all_through_an_episode(level: int) -> None:
    off = seen(f"sensor-offset:{level}", 5)
    np.testing.assert_array_equal(off[:, :2], 0)
    np.testing.assert_allclose(off, np.tile(off[:1], (5, 1)))
    np.testing.assert_allclose(np.abs(off[:, 2:]), (0.002, 0.005, 0.01)[level - 1])


def test_what_metaworld_repeats_is_what_was_read_before() -> None:
    env = shifted(PEG, "sensor-noise:3")
    before, _ = env.reset(seed=3)
    for _ in range(3):
        now = env.step(np.zeros(4, np.float32))[0]
        np.testing.assert_allclose(now[18:36], before[:18], atol=1e-6)
        before = now
    env.close()


def test_an_object_that_is_not_there_stays_at_zero() -> None:
    nominal = nominal_start(PEG)
    now, _ = shifted(PEG, "sensor-noise:3").reset(seed=3)
    np.testing.assert_array_equal(nominal[11:18], 0)
    np.testing.assert_array_equal(now[11:18], 0)
    assert (now[[0, 1, 2, 4, 5, 6, 36, 37, 38]] != nominal[[0, 1, 2, 4, 5, 6, 36, 37, 38]]).all()


@pytest.mark.long
def test_ogbench_counts_in_tens_of_centimetres() -> None:
    nominal = nominal_start("ogbench/cube-single")
    now, _ = shifted("ogbench/cube-single", "sensor-offset:3").reset(seed=3)
    off = np.flatnonzero(now != nominal)
    np.testing.assert_array_equal(off, [12, 13, 14, 19, 20, 21])
    np.testing.assert_allclose(np.abs(now - nominal)[off], 0.1, rtol=1e-4)


# ----------------------------------------------------------------------------------------------- physics


def model_of(env: TaskEnv) -> Any:
    return env.simulator.scene().model  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("task", [PEG, FETCH, "gym/Pusher-v5"])
def test_friction_is_the_factor_of_every_contact_and_is_undone(task: str) -> None:
    usual = model_of(make_env(task)).geom_friction
    env = shifted(task, "friction:2")
    for seed in SEEDS:  # not once more at each reset
        env.reset(seed=seed)
        np.testing.assert_allclose(model_of(env).geom_friction, 0.5 * usual)
    model = model_of(env)
    env.close()
    np.testing.assert_array_equal(model.geom_friction, usual)


def test_a_block_that_slides_slides_further_with_less_friction() -> None:
    def slid(*shifts: str) -> float:
        env = shifted("fetch/push", *shifts)
        env.reset(seed=3)
        scene = env.simulator.scene()  # pyright: ignore[reportAttributeAccessIssue]
        joint = scene.model.joint("object0:joint")
        start = scene.data.qpos[joint.qposadr[0] : joint.qposadr[0] + 2].copy()
        scene.data.qvel[joint.dofadr[0]] = 0.5
        for _ in range(10):
            env.step(np.zeros(4, np.float32))
        return float(np.linalg.norm(scene.data.qpos[joint.qposadr[0] : joint.qposadr[0] + 2] - start))

    assert slid("friction:3") > 1.5 * slid() > 0


@pytest.mark.parametrize("task", [PEG, DOOR, FETCH])
def test_mass_is_the_objects_alone(task: str) -> None:
    nominal = model_of(make_env(task))
    env = shifted(task, "mass:2")
    for seed in SEEDS:
        env.reset(seed=seed)
    model = model_of(env)
    objects = {int(model.jnt_bodyid[joint]) for joint in object_joints(model)}
    robots = [body for body in range(model.nbody) if int(model.body_rootid[body]) in robot_trees(model)]
    assert objects and robots
    for body in objects:
        assert model.body_mass[body] == pytest.approx(4 * nominal.body_mass[body])
        np.testing.assert_allclose(model.body_inertia[body], 4 * nominal.body_inertia[body])
        # what MuJoCo derives of it
        assert model.body_subtreemass[body] == pytest.approx(4 * nominal.body_subtreemass[body])
    np.testing.assert_array_equal(model.body_mass[robots], nominal.body_mass[robots])
    env.close()
    np.testing.assert_array_equal(model.body_mass, nominal.body_mass)
    np.testing.assert_allclose(model.dof_invweight0, nominal.dof_invweight0)


def test_a_robot_that_a_mocap_body_drags_is_a_robot() -> None:
    model = model_of(make_env("fetch/push"))
    assert [model.joint(joint).name for joint in object_joints(model)] == ["object0:joint"]


@pytest.mark.parametrize("level", LEVELS)
def test_push_displaces_the_object_once_by_so_much(level: int) -> None:
    amount = (0.02, 0.04, 0.08)[level - 1]
    env = shifted(PEG, f"push:{level}")
    for seed in SEEDS:
        places = [env.reset(seed=seed)[0][4:6]]
        places += [env.step(np.zeros(4, np.float32))[0][4:6] for _ in range(70)]
        moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
        when = int(moved.argmax())
        assert 10 <= when <= 60  # 5 to 30% of 200 steps
        assert np.linalg.norm(places[when + 1] - places[when]) == pytest.approx(amount, abs=0.006)
        assert np.delete(moved, range(when, min(when + 12, len(moved)))).max() < 0.005
    env.close()


# ------------------------------------------------------------------------------------------------- starts


@pytest.mark.parametrize("task", [PEG, FETCH])
@pytest.mark.parametrize("level", LEVELS)
def test_the_hand_starts_so_far_away(task: str, level: int) -> None:
    amount = (0.02, 0.05, 0.1)[level - 1]
    env = shifted(task, f"robot-start:{level}")
    directions = []
    for seed in SEEDS:
        off = env.reset(seed=seed)[0][:3] - nominal_start(task, seed)[:3]
        assert np.linalg.norm(off) == pytest.approx(amount, abs=0.006)
        directions.append(off / np.linalg.norm(off))
    assert abs(np.dot(*directions)) < 0.999
    assert env.steps_left == (200 if task == PEG else 50)


def box(simulator: Any) -> tuple[np.ndarray, np.ndarray]:
    space = simulator._simulator._random_reset_space
    return space.low, space.high


@pytest.mark.parametrize("level", LEVELS)
def test_metaworld_starts_outside_its_usual_box_in_a_wider_one(level: int) -> None:
    low, high = box(make_env(PEG).simulator)
    factor = (1.25, 1.5, 2.0)[level - 1]
    env = shifted(PEG, f"object-start:{level}")
    simulator: Any = env.simulator
    horizontal = np.arange(6) % 3 != 2
    for seed in range(20):
        env.reset(seed=seed)
        drawn = simulator._simulator._last_rand_vec
        assert ((drawn < low) | (drawn > high)).any()
        reach = np.where(horizontal, factor, 1.0) * (high - low) / 2 + 1e-9
        assert (np.abs(drawn - (low + high) / 2) <= reach).all()
    env.close()
    np.testing.assert_array_equal(box(simulator), (low, high))
    simulator.reset(0)
    assert (simulator._simulator._last_rand_vec <= high).all()


def test_fetchs_block_starts_outside_its_usual_square() -> None:
    env = shifted(FETCH, "object-start:2")
    inner: Any = env.simulator
    for seed in range(20):
        block = env.reset(seed=seed)[0][3:5]
        off = np.abs(block - inner.env.initial_gripper_xpos[:2])
        assert 0.15 - 1e-6 <= off.max() <= 0.225 + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("task", ["robosuite/lift", "robosuite/can", "robosuite/square"])
def test_robosuites_objects_are_placed_outside_their_usual_region_in_a_wider_one(task: str) -> None:
    env = make_env(task)
    start = env.reset(seed=0)[0]
    simulator: Any = env.simulator
    placing = simulator.env.placement_initializer
    samplers = [one for one in getattr(placing, "samplers", {"": placing}).values() if one.mujoco_objects]
    for sampler in samplers:
        usual = np.array([sampler.x_range, sampler.y_range], np.float64)
        if not np.ptp(usual, axis=1).any():
            continue  # of marks that have one place each
        with simulator.widened(2.0):
            assert np.ptp([sampler.x_range, sampler.y_range], axis=1) == pytest.approx(
                2 * np.ptp(usual, axis=1)
            )
            places = [found for _ in range(50) for found in sampler.sample().values()]
        for (x, y, _), _, thing in places:
            at = np.array([x, y]) - sampler.reference_pos[:2]
            radius = thing.horizontal_radius if sampler.ensure_object_boundary_in_range else 0.0
            assert ((at < usual[:, 0] + radius) | (at > usual[:, 1] - radius)).any()
        np.testing.assert_array_equal([sampler.x_range, sampler.y_range], usual)
    np.testing.assert_array_equal(env.reset(seed=0)[0], start)  # nothing is left of it


# -------------------------------------------------------------------------------------------------- looks


@pytest.fixture(scope="module")
def frames() -> dict[str, np.ndarray]:
    """What a camera shows at the start of one episode, nominally and shifted, and nominally again."""
    shown: dict[str, np.ndarray] = {}
    for name in ("nominal", "camera:3", "light:2", "texture:2", "again"):
        shifts = (name,) if ":" in name else ()
        try:
            env = shifted(DOOR, *shifts, cameras=(Camera("corner", 48, 48),))
        except OtprError as error:
            pytest.skip(str(error))
        shown[name] = env.reset(seed=3)[0]["corner"].astype(np.int64)
        env.close()
    return shown


def test_light_is_dimmer_and_textures_and_cameras_change_the_picture(frames: dict[str, np.ndarray]) -> None:
    nominal = frames["nominal"]
    np.testing.assert_array_equal(frames["again"], nominal)
    assert 0.3 < frames["light:2"].sum() / nominal.sum() < 0.7
    for name in ("camera:3", "texture:2"):
        assert 3 < np.abs(frames[name] - nominal).mean() < 80


def test_shifts_of_the_picture_need_a_camera() -> None:
    with pytest.raises(OtprError, match="no camera is looked through, so light:1 would change nothing"):
        shifted(PEG, "light:1")


# --------------------------------------------------------------------------------------------- in general


@pytest.mark.parametrize("name", [name for name in SHIFTS if not SHIFTS[name].images])
def test_a_shifted_episode_repeats_and_leaves_nothing_behind(name: str) -> None:
    def episode(env: TaskEnv, seed: int) -> np.ndarray:
        rng = np.random.default_rng(0)
        shown = [env.reset(seed=seed)[0]]
        shown += [env.step(rng.uniform(-1, 1, 4).astype(np.float32))[0] for _ in range(25)]
        return np.array(shown)

    env = shifted(PEG, f"{name}:2")
    first = episode(env, 3)
    episode(env, 4)
    np.testing.assert_array_equal(episode(env, 3), first)
    env.close()


def test_random_draws_all_there_is_and_nothing_too() -> None:
    env: Any = shifted(PEG, "random:2")
    drawn = [env._acting._draw(seed) for seed in range(400)]
    assert {len(shifts) for shifts in drawn} == {0, 1}
    named = [shifts[0] for shifts in drawn if shifts]
    assert {name for name, _ in named} == {name for name in SHIFTS if not SHIFTS[name].images}
    assert {effect.amount for name, effect in named if name == "gain"} == {0.8, 0.6}
    assert 20 < len(drawn) - len(named) < 60  # one in eleven
    for seed in range(10):
        env.reset(seed=seed)
    env.close()


def test_an_expert_acts_in_a_shifted_task() -> None:
    env = shifted(PEG, "gain:1")
    expert = make_expert(PEG, env)
    env.reset(seed=3)
    expert.reset()
    for _ in range(200):
        _, _, terminated, truncated, info = env.step(expert.act(env.whole_observation))
        if terminated or truncated:
            break
    assert info["success"]


@pytest.mark.parametrize(
    ("task", "shift", "why"),
    [
        (DOOR, "push:1", "no object in it moves freely"),
        ("ogbench/cube-single", "object-start:1", "no region of initial conditions that otpr can widen"),
        (UNKNOWN, "sensor-noise:1", r"nothing says which numbers .* metadata\[\"positions\"\]"),
        (RECORDER, "friction:1", "needs an environment of MuJoCo's"),
        (RECORDER, "robot-start:1", "nothing says where its observation has the position"),
        ("gym/InvertedPendulum-v5", "mass:1", "nothing moves in it but the robot"),
    ],
)
def test_what_a_task_cannot_have_is_said(task: str, shift: str, why: str) -> None:
    with pytest.raises(OtprError, match=why):
        shifted(task, shift, episode_limit=100)


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (("pusch:1",), "'push'"),
        (("push",), "needs a level, 1, 2 or 3, e.g. 'push:2'"),
        (("push:4",), "levels 1, 2 and 3; given push:4"),
        (("push:x",), "NAME:LEVEL"),
        (("push:1", "push:2"), "given twice"),
        (("random", "push:2"), "give it alone"),
    ],
)
def test_what_is_no_shift_is_refused(texts: tuple[str, ...], why: str) -> None:
    with pytest.raises(OtprError, match=why):
        parse_all(texts)


def test_a_shift_is_read_as_it_is_written() -> None:
    for name in SHIFTS:
        for level in LEVELS:
            shift = Shift(name, level)
            assert Shift.parse(str(shift)) == shift
    assert Shift.parse("random") == Shift("random", 3)


def test_positions_of_an_environment_of_ones_own_are_columns() -> None:
    class Wrong(Recorder):
        metadata = {"render_modes": [], "positions": [2, 4]}  # noqa: RUF012

    from otpr.envs.user_env import GymSimulator

    with pytest.raises(OtprError, match=r"whole numbers from 0 to 3"):
        GymSimulator(Wrong(), "mine")


def test_a_setup_with_shifts_is_another_one() -> None:
    setup = Setup(PEG)
    other = dataclasses.replace(setup, shifts=parse_all(["push:1"]))
    assert setup != other and setup.view() == other.view()
