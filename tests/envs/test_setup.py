"""A task as it is set up: what is seen of it, and for how long."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from otpr.data.collect import collect
from otpr.envs import Setup, cameras_of, make_env, make_expert, task_spec
from otpr.envs.cameras import Camera
from otpr.envs.registry import pixels_setup
from otpr.errors import OtprError

TASK = "metaworld/door-open-v3"
SEEN = Setup.seen(TASK, observe="proprioception", cameras=("corner:32x48", "gripperPOV:32x32"))


def test_what_is_seen_is_what_the_spec_says() -> None:
    spec = task_spec(SEEN).spec
    assert {name: str(entry) for name, entry in spec.observation.items()} == {
        "corner": "image (32, 48, 3) uint8",
        "gripperPOV": "image (32, 32, 3) uint8",
        "state": "vector (8,) float32",
    }
    env, plain = make_env(SEEN), make_env(TASK)
    expert = make_expert(TASK, env)
    seen, whole = env.reset(seed=3)[0], plain.reset(seed=3)[0]
    for _ in range(12):
        assert env.observation_space.contains(seen)
        np.testing.assert_array_equal(seen["state"], whole[[*range(4), *range(18, 22)]])
        np.testing.assert_array_equal(env.whole_observation, whole)
        assert seen["corner"].std() > 10
        action = expert.act(env.whole_observation)
        seen, whole = env.step(action)[0], plain.step(action)[0]
    assert list(env.step(action, look=False)[0]) == ["state"]
    env.close()
    plain.close()


def test_images_alone_can_be_seen() -> None:
    setup = dataclasses.replace(SEEN, observe="images")
    assert list(task_spec(setup).spec.observation) == ["corner", "gripperPOV"]
    env = make_env(setup)
    assert sorted(env.reset(seed=0)[0]) == ["corner", "gripperPOV"]
    assert env.step(np.zeros(4, np.float32), look=False)[0] == {}
    env.close()


def test_parts_are_those_that_are_kept() -> None:
    task = task_spec(Setup("robosuite/can", observe="proprioception"))
    assert [name for name, _ in task.parts] == ["robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"]
    assert task.spec.observation["state"].shape == (9,)
    task = task_spec(Setup("fetch/push", observe="proprioception"))
    assert task.parts == (("observation", 10),)


def test_a_view_is_written_down_and_read() -> None:
    assert SEEN.view() == {"observe": "proprioception", "cameras": ["corner:32x48", "gripperPOV:32x32"]}
    assert Setup(TASK).viewing(SEEN.view()) == SEEN
    for bad in ({}, {"observe": "everything", "cameras": []}, {"observe": "state", "cameras": ["a:1x1"]}):
        with pytest.raises(ValueError, match="what is seen cannot be read"):
            Setup(TASK).viewing(bad)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Setup(TASK, 0), "episode limit must be at least 1, given 0"),
        (lambda: Setup(TASK, observe="proprioceptive"), "Did you mean 'proprioception'?"),  # pyright: ignore
        (lambda: Setup(TASK, observe="images"), "Nothing would be seen"),
        (lambda: Setup.seen(TASK, cameras=("corner", "corner:32x32")), "camera 'corner' is given twice"),
        (lambda: Setup(TASK, cameras=(Camera("state"),)), "cannot be told from the observation entry"),
        (lambda: make_env(Setup.seen(TASK, cameras=("corner5",))), "corner"),
        (lambda: pixels_setup("kitchen/mixed"), "no camera of it is known to show what is done"),
        (lambda: pixels_setup("gym/Pendulum-v1"), "no camera of it is known to show what is done"),
    ],
)
def test_what_cannot_be_seen_is_refused(made, message: str) -> None:
    with pytest.raises(OtprError) as caught:
        made()
    assert message in str(caught.value)


def test_the_usual_view_of_each_suite_shows_something() -> None:
    for task in ("metaworld/peg-insert-side-v3", "fetch/push", "ogbench/cube-single", "robosuite/lift"):
        setup = pixels_setup(task)
        assert setup.cameras[0].name in cameras_of(task)


def test_demonstrations_that_are_looked_at_are_those_that_are_not() -> None:
    """Attempts are made blind; those that succeed are repeated to be looked at."""
    blind = collect(TASK, episodes=2, noise=0.3, seed=0)
    seen = collect(SEEN, episodes=2, noise=0.3, seed=0)
    for one, other in zip(blind, seen, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        own = one.observations["state"][:, [*range(4), *range(18, 22)]]
        np.testing.assert_array_equal(own, other.observations["state"])
        assert other.observations["corner"].shape == (len(other) + 1, 32, 48, 3)
        assert (other.observations["corner"][0] != other.observations["corner"][-1]).any()
