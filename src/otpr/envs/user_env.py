"""Users' environments: any Gymnasium id (`gym/ID`) and any `module:factory`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from otpr.envs import user_answers as answers
from otpr.envs.cameras import Scene
from otpr.envs.catalog import Geometry
from otpr.envs.image_spaces import IMAGE, Image
from otpr.envs.space_advice import action_advice, leaves
from otpr.envs.task_env import Observation, Outcome
from otpr.errors import OtprError
from otpr.spec import STATE, Entry, Parts, Spec, vector_type

_GYM = "gym/"


def is_user_task(task_id: str) -> bool:
    """Whether a task is a Gymnasium id or a factory instead of a named task."""
    return task_id.startswith(_GYM) or ":" in task_id


@dataclass(frozen=True)
class Declared:
    """The declarations of an environment; the fields are those of `TaskSpec`."""

    spec: Spec
    episode_limit: int | None
    parts: Parts
    facts: Mapping[str, str]
    geometry: Geometry | None


@functools.lru_cache
def declared(task_id: str) -> Declared:
    """The spec and the other declarations of an environment, which is created once.

    Raises:
        OtprError: as in `make_simulator`.
    """
    simulator = make_simulator(task_id, None)
    try:
        return Declared(
            simulator.spec, simulator.episode_limit, simulator.parts, simulator.facts, simulator.geometry
        )
    finally:
        simulator.close()


def make_simulator(task_id: str, render_mode: str | None, episode_limit: int | None = None) -> GymSimulator:
    """Create the environment and check that it is supported.

    Args:
        task_id: `gym/ID`, where ID may be `module:NAME` as in `gymnasium.make`; or `module:factory`, a
            callable that returns a Gymnasium environment. The module is looked up in the current folder
            first.
        render_mode: passed on as a keyword if it is not None.
        episode_limit: steps after which the caller truncates an episode, at least 1: Gymnasium's `TimeLimit`
            wrappers are set to it, so that none cuts an episode off earlier. None: they stay as they are.

    Raises:
        OtprError: it cannot be made; its observations are not vectors and images, or dictionaries of them; or
            its actions are not a bounded vector.
    """
    keywords: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
    if task_id.startswith(_GYM):
        _search_current_folder()

        def make() -> Any:
            return gymnasium.make(task_id.removeprefix(_GYM), **keywords)
    else:
        factory = load_object(task_id, "task")
        if keywords and not _takes(factory, "render_mode"):
            raise OtprError(
                f"{task_id}: the factory takes no render_mode, so it cannot be filmed. Give it a parameter "
                "`render_mode=None` that it passes on, or leave out the video."
            )

        def make() -> Any:
            return factory(**keywords)

    try:
        env = make()
    except Exception as error:  # user code may raise anything
        mend = ""
        if isinstance(error, TypeError) and "required" in str(error):
            mend = (
                " Nothing but render_mode is given to it: give its other parameters defaults, or name a "
                "function that takes none and passes them on."
            )
        raise OtprError(f"{task_id}: cannot be made ({type(error).__name__}: {error}).{mend}") from error
    if not isinstance(env, gymnasium.Env):
        raise OtprError(f"{task_id}: expected a gymnasium.Env, was given {type(env).__name__}.")
    if episode_limit is not None:
        for layer in _layers(env):
            if isinstance(layer, gymnasium.wrappers.TimeLimit):
                setattr(layer, "_max_episode_steps", episode_limit)  # noqa: B010 - it has no other way in
    return GymSimulator(env, task_id)


def load_object(name: str, kind: str) -> Any:
    """The callable that `module:attribute` names, the module looked up in the current folder first.

    Raises:
        OtprError: there is no such module or attribute, importing it fails, or it cannot be called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise OtprError(f"The {kind} {name!r} must have the form module:name, e.g. my_robot:make_env.")
    _search_current_folder()
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # user code may raise anything
        raise OtprError(
            f"The {kind} {name!r} cannot be loaded from {os.getcwd()} or what is installed "
            f"({type(error).__name__}: {error})."
        ) from error
    if not callable(found):
        raise OtprError(f"The {kind} {name!r} is {type(found).__name__}; expected a function or a class.")
    return found


def _search_current_folder() -> None:
    # An installed command does not search the current folder; `python -m` does, and users expect it.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def _takes(function: Any, parameter: str) -> bool:
    parameters = inspect.signature(function).parameters
    return parameter in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class GymSimulator:
    """A Gymnasium environment as a `Simulator`.

    The vectors of dictionaries and tuples are flattened in the space's own order
    (`gymnasium.spaces.flatten`). Images are separate entries: arrays of uint8 with two axes, or with three,
    of which the first or the last has 1, 3 or 4 channels. Actions in [-1, 1] are mapped linearly onto the
    bounds of the action space; where that is of whole numbers, to the nearest one. Reward, termination and
    truncation are the environment's own. Success is `info["success"]` or `info["is_success"]`: a boolean, 0
    or 1, or an array that holds one of them; None stands for nothing. See `otpr.envs.user_answers`.

    Args:
        env: the environment.
        task_id: its name, for errors.

    Attributes:
        spec: what it exchanges: the vectors as the entry "state", each image as one of its own name ("image"
            where the observation is nothing but one, else its path); the bounds are the environment's own,
            the control rate is `metadata["render_fps"]`, if it is there.
        episode_limit: steps after which it truncates an episode; None where it declares no limit.
        parts: the vectors that a dictionary or a tuple holds, in the order in which they are flattened,
            nested ones as `outer/inner`; empty where the observation is one vector.
        facts: `environment`, the id that it is registered by with Gymnasium, if it is.
        geometry: where the vector has positions, as `metadata["positions"]` says; None: it does not.
        raw_observation: the environment's own observation, before it is flattened: what the user's expert
            sees.

    Raises:
        OtprError: as in `make_simulator`.
    """

    def __init__(self, env: gymnasium.Env, task_id: str):
        self.env = env
        self.raw_observation: Any = None
        self._task_id = task_id
        self._low, self._high = self._action_bounds(env.action_space)
        self._images = self._images_of(env.observation_space)
        vectors = {
            name: box for name, box in leaves(env.observation_space).items() if name not in self._images
        }
        entries = {name or IMAGE: image.entry for name, image in self._images.items()}
        if STATE in entries:
            raise OtprError(
                f"{task_id}: an image is called {STATE!r}, as the vectors of an observation are. Give it "
                "another name in a wrapper."
            )
        if vectors:
            length = sum(gymnasium.spaces.flatdim(box) for box in vectors.values())
            entries[STATE] = Entry((length,), vector_type(*(box.dtype for box in vectors.values())))
        self.parts = (
            () if "" in vectors else tuple((k, gymnasium.spaces.flatdim(box)) for k, box in vectors.items())
        )
        self.facts = {} if env.spec is None else {"environment": env.spec.id}
        rate = env.metadata.get("render_fps")
        bounds = tuple(self._low.tolist()), tuple(self._high.tolist())
        self.spec = Spec(entries, *bounds, control_rate=float(rate) if rate else None)
        self.episode_limit = self._limit()
        self.geometry = self._positions(entries.get(STATE))
        self._may_be_black = bool(env.metadata.get("black_frames", False))

    def _positions(self, state: Entry | None) -> Geometry | None:
        columns = self.env.metadata.get("positions")
        if columns is None:
            return None
        length = 0 if state is None else state.shape[0]
        columns = tuple(columns)
        if not all(type(one) is int and 0 <= one < length for one in columns):
            raise OtprError(
                f'{self._task_id}: metadata["positions"] is {columns}; expected the columns of the flat '
                f"observation that are positions in metres, whole numbers from 0 to {length - 1}."
            )
        return Geometry(columns)

    def scene(self) -> Scene:
        """The MuJoCo model and data of the environment, for shifts that change them.

        Raises:
            OtprError: it has none.
        """
        inner = self.env.unwrapped
        model, data = getattr(inner, "model", None), getattr(inner, "data", None)
        if type(model).__module__.partition(".")[0] != "mujoco":
            raise OtprError(
                f"{self._task_id}: this shift needs an environment of MuJoCo's, whose unwrapped form has "
                "`model` and `data`."
            )
        return Scene(model, data)

    def _images_of(self, space: gymnasium.Space[Any]) -> dict[str, Image]:
        try:
            return answers.check_space(space)
        except OtprError as error:
            raise OtprError(f"{self._task_id}: {error}") from error

    def _action_bounds(self, space: gymnasium.Space[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
            raise OtprError(
                f"{self._task_id}: actions must be a vector of numbers (a Box of one axis), and are {space}. "
                f"{action_advice(space)}"
            )
        if not space.is_bounded() or not (space.high > space.low).all():
            raise OtprError(
                f"{self._task_id}: actions must have finite bounds, low below high, and are {space}. "
                f"{action_advice(space)}"
            )
        return space.low.astype(np.float64), space.high.astype(np.float64)

    def _limit(self) -> int | None:
        for layer in _layers(self.env):  # TimeLimit, and environments that tell their own limit
            limit = getattr(layer, "_max_episode_steps", None) or getattr(layer, "max_episode_steps", None)
            if limit:
                return int(limit)
        return None

    def reset(self, seed: int) -> Observation:
        """See `Simulator.reset`. The environment is responsible for reproducibility by the seed."""
        with self._blamed("reset"):
            observation, _ = answers.results(self.env.reset(seed=seed), answers.RESET)
            return self._seen(observation)

    def step(self, action: NDArray[np.float32]) -> Outcome:
        """See `Simulator.step`."""
        raw = self._low + (action.astype(np.float64) + 1.0) / 2.0 * (self._high - self._low)
        raw = np.clip(raw, self._low, self._high)  # rounding must not exceed the bounds
        space = self.env.action_space
        if np.issubdtype(space.dtype, np.integer):
            raw = np.rint(raw)
        with self._blamed("step"):
            answer = answers.results(self.env.step(raw.astype(space.dtype)), answers.STEP)
            observation, reward, terminated, truncated, info = answer
            return Outcome(
                self._seen(observation),
                answers.number(reward, "the reward"),
                answers.success(info),
                answers.flag(terminated, "terminated"),
                answers.flag(truncated, "truncated"),
            )

    @contextlib.contextmanager
    def _blamed(self, method: str) -> Generator[None]:
        """Turn exceptions of the user's environment into errors that name the place."""
        try:
            yield
        except OtprError as error:
            raise OtprError(f"{self._task_id}: {method}(): {error}") from error
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise OtprError(
                f"{self._task_id}: {method}() raised {type(error).__name__}: {error} "
                f"({place.filename}, line {place.lineno}).{answers.advice(error)}"
            ) from error

    def _seen(self, observation: Any) -> Observation:
        self.raw_observation = observation
        found = answers.parts(self.env.observation_space, observation)
        images = {name or IMAGE: image.upright(found.pop(name)) for name, image in self._images.items()}
        for name, frame in images.items():
            if not frame.any() and not self._may_be_black:
                raise OtprError(
                    f"the image {name!r} is black all over: the camera is covered, off, or nothing was "
                    'rendered. Where such images are right, say so with metadata["black_frames"] = True.'
                )
        if not images:
            return np.concatenate(list(found.values()))
        return {**images, **({STATE: np.concatenate(list(found.values()))} if found else {})}

    def to_unit(self, action: Any) -> NDArray[np.float32]:
        """An action in the environment's own bounds, mapped into [-1, 1]."""
        unit = 2.0 * (np.asarray(action, np.float64) - self._low) / (self._high - self._low) - 1.0
        return np.clip(unit, -1.0, 1.0).astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        """See `Simulator.render`."""
        return np.asarray(self.env.render(), np.uint8)

    def close(self) -> None:
        """See `Simulator.close`."""
        self.env.close()


def _layers(env: Any) -> Iterator[Any]:
    """An environment's wrappers from the outermost, then the environment."""
    while env is not None:
        yield env
        env = getattr(env, "env", None)
