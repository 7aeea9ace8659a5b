"""Validation of what a user's environment returns; unambiguous values are converted, others refused.

Each function raises OtprError if a value does not follow Gymnasium's interface. The message says what was
given, what was expected and what to do; the caller adds the task.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from otpr.envs.image_spaces import Image, image_of, is_image
from otpr.envs.space_advice import leaves, observation_advice
from otpr.errors import OtprError

STEP = ("observation", "reward", "terminated", "truncated", "info")
RESET = ("observation", "info")
_KEEP = "The environment must keep to its observation space."
# Number of characters of an invalid value that are shown.
_SHOWN = 80


def results(answer: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The result of `step` or `reset`, checked to be a tuple with one value for each name."""
    if not isinstance(answer, tuple) or len(answer) != len(names):
        given = f"{len(answer)} values" if isinstance(answer, tuple) else f"one {type(answer).__name__}"
        raise OtprError(
            f"returned {given}, expected {len(names)}: return {', '.join(names)}, as Gymnasium asks for."
        )
    return answer


def advice(error: Exception) -> str:
    """Advice on an error that indicates an interface older than Gymnasium's; "" for any other."""
    text = str(error)
    if isinstance(error, ValueError) and "values to unpack" in text:
        return (
            f" step() must return {', '.join(STEP)}, and reset() {', '.join(RESET)}, as Gymnasium asks for."
        )
    if isinstance(error, TypeError) and "unexpected keyword argument" in text:
        return (
            " reset() must take the keywords seed and options: def reset(self, *, seed=None, options=None)."
        )
    return ""


def flag(value: Any, name: str) -> bool:
    """A boolean, 0 or 1, or an array that holds one of them, as a bool."""
    array = _one(value)
    if array is None or array.item() not in (0, 1):
        raise OtprError(
            f"{name} is {_shown(value)}, expected True or False, 0 or 1, or an array that holds one of them: "
            "make one of it in a wrapper's step()."
        )
    return bool(array.item())


def number(value: Any, name: str) -> float:
    """A real number, or an array that holds one. NaN is accepted here and reported by the caller."""
    array = _one(value)
    if array is None:
        raise OtprError(
            f"{name} is {_shown(value)}, expected one real number: make one of it in a wrapper's step()."
        )
    return float(array.item())


def success(info: Any) -> bool | None:
    """Success as stated in `info` under `success` or `is_success`; None if it is not stated.

    An environment leaves success open by omitting both keys, or by None.
    """
    if not isinstance(info, Mapping):
        raise OtprError(f"info is {_shown(info)}, expected a dictionary: return one in a wrapper's step().")
    told = {
        name: flag(info[name], f"info[{name!r}]")
        for name in ("success", "is_success")
        if info.get(name) is not None
    }
    if len(set(told.values())) > 1:
        raise OtprError(
            f"info['success'] is {told['success']} and info['is_success'] is {told['is_success']}: leave out "
            "the one that does not say whether the task is solved now, in a wrapper's step()."
        )
    return next(iter(told.values()), None)


def parts(space: gymnasium.Space[Any], observation: Any, name: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of an observation of Boxes, dictionaries and tuples of them, in the space's own order.

    Args:
        space: the declared space.
        observation: the observation; lists count as arrays.
        name: the name of the current part.

    Returns:
        Arrays by path: images unchanged, all others as vectors of float64.
    """
    if isinstance(space, gymnasium.spaces.Dict):
        if not isinstance(observation, Mapping) or set(observation) != set(space):
            given = sorted(map(str, observation)) if isinstance(observation, Mapping) else _shown(observation)
            raise OtprError(f"{_part(name)} has the entries {given}, expected {sorted(space)}. {_KEEP}")
        inside = [(key, part, observation[key]) for key, part in space.items()]
    elif isinstance(space, gymnasium.spaces.Tuple):
        if not isinstance(observation, tuple | list) or len(observation) != len(space):
            raise OtprError(f"{_part(name)} is {_shown(observation)}, expected {len(space)} parts. {_KEEP}")
        inside = [(str(i), *pair) for i, pair in enumerate(zip(space, observation, strict=True))]
    else:
        return {name: _checked(space, observation, name)}
    found: dict[str, NDArray[Any]] = {}
    for key, part, given in inside:
        found |= parts(part, given, f"{name}/{key}" if name else key)
    return found


def _checked(space: gymnasium.Space[Any], observation: Any, name: str) -> NDArray[Any]:
    """One array of an observation, checked against its Box."""
    array = _array(observation)
    if array is None or array.dtype.kind not in "biuf":
        raise OtprError(f"{_part(name)} is {_shown(observation)}, expected an array of numbers. {_KEEP}")
    if array.shape != space.shape:
        raise OtprError(f"{_part(name)} has shape {array.shape}, expected {space.shape}. {_KEEP}")
    if is_image(space):
        if array.dtype != np.uint8:
            raise OtprError(f"{_part(name)} is an image of {array.dtype}, expected uint8. {_KEEP}")
        return array
    large = array[np.isfinite(array) & (np.abs(array.astype(np.float64)) > np.finfo(np.float32).max)]
    if large.size:
        raise OtprError(
            f"{_part(name)} holds {large[0]:g}, too large for float32. Scale it in a wrapper: "
            "gymnasium.wrappers.TransformObservation(env, function, space)."
        )
    return array.astype(np.float64).reshape(-1)


def check_space(space: gymnasium.Space[Any]) -> dict[str, Image]:
    """The images of an observation space by path.

    Refuses a space that is not made of vectors and images, with a wrapper that makes it so.
    """
    images: dict[str, Image] = {}
    for name, part in leaves(space).items():
        if not isinstance(part, gymnasium.spaces.Box):
            raise OtprError(
                f"observations must be made of Box spaces, and {_held(name)} {part}. "
                f"{observation_advice(space)}"
            )
        if is_image(part):
            images[name] = image_of(part.shape, part.dtype, _part(name))
        elif len(part.shape) > 1:
            raise OtprError(
                f"observations must be vectors and images, and {_held(name)} arrays of shape {part.shape}. "
                "Make a vector of them in a wrapper: gymnasium.wrappers.FlattenObservation(env) where there "
                "are no images, gymnasium.wrappers.TransformObservation in any case."
            )
    return images


def _one(value: Any) -> NDArray[Any] | None:
    """The value as an array of one number, if it is a number or such an array; lists are neither."""
    array = None if isinstance(value, list | tuple) else _array(value)
    return array if array is not None and array.size == 1 and array.dtype.kind in "biuf" else None


def _array(value: Any) -> NDArray[Any] | None:
    """The value as an array, if it is a number, an array or nested lists of numbers; else None."""
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # lists of unequal lengths; tensors of other libraries
        return None


def _part(name: str) -> str:
    return f"the part {name!r} of an observation" if name else "an observation"


def _held(name: str) -> str:
    return f"the part {name!r} holds" if name else "hold"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
