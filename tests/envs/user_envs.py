"""Environments and experts as users write them, good and bad, for the tests of `module:factory`."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Text, Tuple
from gymnasium.wrappers import TimeLimit, TransformObservation

LIMIT = 20


class Reach(gymnasium.Env):
    """A point is moved onto a goal; the bounds of the action are no symmetric ones."""

    observation_space: gymnasium.Space = Dict({"z_point": Box(-9, 9, (2,)), "a_goal": Box(-9, 9, (2,))})
    action_space: gymnasium.Space = Box(np.array([-0.1, 0.0]), np.array([0.3, 0.2]), dtype=np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point = np.zeros(2)
        self.goal = self.np_random.uniform(0.5, 1.0, 2)
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.point = self.point + action
        success = bool(np.abs(self.point - self.goal).max() < 0.1)
        return self.observe(), float(success), success, False, {"success": success}

    def observe(self):
        return {"a_goal": self.goal.astype(np.float32), "z_point": self.point.astype(np.float32)}


class ReachExpert:
    """Answers in the environment's own units, from its own dictionary."""

    def act(self, observation):
        return np.clip(observation["a_goal"] - observation["z_point"], [-0.1, 0.0], [0.3, 0.2])


class Five(gymnasium.Env):
    """Two of five numbers are moved; the others are random."""

    observation_space = Box(-9, 9, (5,))
    action_space = Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1, 1, 5).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        self.seen = np.concatenate([self.seen[:3], self.seen[3:] + 0.1 * action]).astype(np.float32)
        success = bool(np.abs(self.seen[3:]).max() < 0.1)
        return self.seen, float(success), success, False, {"success": success}


def make_five():
    return TimeLimit(Five(), LIMIT)


def make_reach():
    return TimeLimit(Reach(), LIMIT)


def filmed(render_mode=None):
    env = Reach()
    env.metadata = {"render_modes": ["rgb_array"], "render_fps": 12}
    env.render_mode = render_mode
    env.render = lambda: np.full((32, 48, 3), 7, np.uint8)
    return TimeLimit(env, LIMIT)


class WholeNumbers(Reach):
    """Its actions are whole numbers, those of its second dimension few."""

    action_space = Box(np.array([-5, 0]), np.array([10, 1]), dtype=np.int64)

    def step(self, action):
        assert self.action_space.contains(action), action
        self.point = action
        return self.observe(), 0.0, False, False, {"success": False}


def whole_numbers():
    return TimeLimit(WholeNumbers(), LIMIT)


class FarAway(Reach):
    """Its observations have an offset beside which float32 has no digits."""

    observation_space = Dict(
        {"z_point": Box(-np.inf, np.inf, (2,), np.float64), "a_goal": Box(-9, 9, (2,), np.float32)}
    )

    def observe(self):
        seen = super().observe()
        return {**seen, "z_point": np.asarray(seen["z_point"], np.float64) + 1e9}


def far_away():
    return TimeLimit(FarAway(), LIMIT)


class FarAwayExpert:
    def act(self, observation):
        return ReachExpert().act({**observation, "z_point": observation["z_point"] - 1e9})


class EndsByItself(Reach):
    """Knows its own limit and truncates itself; success is reported on and on, and does not end it."""

    max_episode_steps = 6

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.steps += 1
        observation, reward, _, _, _ = super().step(action)
        return observation, reward, False, self.steps == 6, {"is_success": self.steps >= 3}


class SeeingReach(Reach):
    """Sees itself in a picture, channels first, and tells where its point is, but not where the goal is."""

    observation_space = Dict(
        {"eyes": Dict({"top": Box(0, 255, (3, 32, 40), np.uint8)}), "arm": Box(-9, 9, (2,))}
    )
    action_space = Box(-0.2, 0.2, (2,))

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.point, self.goal = self.np_random.uniform(0.1, 0.9, (2, 2))
        return self.observe(), {}

    def step(self, action):
        self.point = np.clip(self.point + action, 0, 1)
        success = bool(np.abs(self.point - self.goal).max() < 0.08)
        return self.observe(), float(success), success, False, {"success": success}

    def observe(self):
        picture = np.zeros((3, 32, 40), np.uint8)
        for channel, place in enumerate((self.point, self.goal)):
            row, column = (np.clip(place, 0, 1) * [27, 35]).astype(int)
            picture[channel, row : row + 5, column : column + 5] = 255
        return {"eyes": {"top": picture}, "arm": self.point.astype(np.float32)}


class SeeingExpert:
    """Looks for the goal, in the second channel."""

    def act(self, observation):
        rows, columns = np.nonzero(observation["eyes"]["top"][1])
        goal = np.array([rows.min() / 27, columns.min() / 35])
        return np.clip(goal - observation["arm"], -0.2, 0.2)


def seeing():
    return TimeLimit(SeeingReach(), LIMIT)


def picture():
    """The second channel alone, without an axis for it."""
    space = Box(0, 255, (32, 40), np.uint8)
    return TransformObservation(seeing(), lambda seen: seen["eyes"]["top"][1], space)


# --------------------------------------------------------------------------------------- what goes wrong


def _with_spaces(observation_space=None, action_space=None):
    env = Reach()
    env.observation_space = observation_space or env.observation_space
    env.action_space = action_space or env.action_space
    return TimeLimit(env, LIMIT)


def float_image():
    return _with_spaces(Box(0, 1, (64, 64, 3)))


def stacked_images():
    return _with_spaces(Dict({"arm": Box(-1, 1, (3,)), "pixels": Box(0, 255, (8, 8, 9), np.uint8)}))


def image_called_state():
    return _with_spaces(Dict({"arm": Box(-1, 1, (3,)), "state": Box(0, 255, (8, 8, 3), np.uint8)}))


def matrix_observation():
    return _with_spaces(Box(-1, 1, (4, 4)))


def discrete_observation():
    return _with_spaces(Discrete(5))


def text_observation():
    return _with_spaces(Tuple((Box(-1, 1, (2,)), Text(5))))


def discrete_action():
    return _with_spaces(action_space=Discrete(4))


def binary_action():
    return _with_spaces(action_space=MultiBinary(3))


def matrix_action():
    return _with_spaces(action_space=Box(-1, 1, (2, 2)))


def unbounded_action():
    return _with_spaces(action_space=Box(-np.inf, np.inf, (2,)))


def fixed_action():
    return _with_spaces(action_space=Box(0, 0, (2,)))


def never_ends():
    return Reach()


def no_env():
    return {"not": "an environment"}


def needs_argument(robot):
    return Reach()


def raises_when_made():
    raise RuntimeError("no robot on the bus")


class RaisesOnReset(Reach):
    def reset(self, *, seed=None, options=None):
        raise OSError("camera unplugged")


class RaisesOnStep(Reach):
    def step(self, action):
        raise ZeroDivisionError("inverse kinematics")


class ChangesShape(Reach):
    observation_space = Box(-9, 9, (2,))

    def observe(self):
        return np.zeros(2 if (self.point == 0).all() else 3, np.float32)


class NoSuccess(Reach):
    def step(self, action):
        return (*super().step(action)[:4], {})


class FourResults(Reach):
    def step(self, action):
        return super().step(action)[:4]


class ResetWithoutInfo(Reach):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class MissingKey(Reach):
    def observe(self):
        return {"a_goal": np.zeros(2, np.float32)}


def raises_on_reset():
    return TimeLimit(RaisesOnReset(), LIMIT)


def raises_on_step():
    return TimeLimit(RaisesOnStep(), LIMIT)


def changes_shape():
    return TimeLimit(ChangesShape(), LIMIT)


def no_success():
    return TimeLimit(NoSuccess(), LIMIT)


def four_results():
    return TimeLimit(FourResults(), LIMIT)


def reset_without_info():
    return TimeLimit(ResetWithoutInfo(), LIMIT)


def missing_key():
    return TimeLimit(MissingKey(), LIMIT)


class Idle:
    def act(self, observation):
        return np.zeros(2)


class NoAct:
    pass


class WrongLength:
    def act(self, observation):
        return np.zeros(3)


class NotFinite:
    def act(self, observation):
        return [np.nan, 0.0]


class Raises:
    def act(self, observation):
        raise KeyError("gripper")


class NeedsArgument:
    def __init__(self, gain):
        self.gain = gain


not_callable = 3
