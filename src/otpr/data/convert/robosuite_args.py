"""The facts of the data in `env_args` of a robomimic file, and the order of `object`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from otpr.envs.robosuite_objects import FORMER, LATER, residual
from otpr.errors import OtprError

_SIMULATORS = {1: "robosuite", 2: "gym", 3: "igibson"}
"""`type` in env_args."""
# With the right order, relative positions agree with the poses up to rounding, or up to one step's motion if
# they lag. With a wrong order they differ by the distance between objects, in metres.
_AGREES = 0.02
_DISAGREES = 5.0  # times the error of the right order


def read_env_args(path: Path, data: h5py.Group) -> dict[str, Any]:
    """The simulator and its arguments from a file's attribute `env_args`; {} if it is missing."""
    if "env_args" not in data.attrs:
        return {}
    try:
        text = data.attrs["env_args"]
        env_args = json.loads(text if isinstance(text, bytes) else str(text))
    except (ValueError, TypeError) as error:
        raise OtprError(
            f"{path}: attribute env_args of 'data' is not JSON ({error}); mend or delete it."
        ) from error
    if not isinstance(env_args, dict):
        raise OtprError(f"{path}: attribute env_args of 'data' is not a JSON object; mend or delete it.")
    if not isinstance(env_args.get("env_kwargs", {}), dict) or not isinstance(
        env_args.get("env_name", ""), str
    ):
        raise OtprError(
            f"{path}: attribute env_args of 'data' is not as robomimic writes it; mend or delete it."
        )
    return env_args


def facts(env_args: dict[str, Any]) -> dict[str, str]:
    """The facts of `otpr.data.meaning.FACTS` that env_args states; values left to defaults are unknown."""
    found: dict[str, str] = {}
    if env_args.get("env_name"):
        found["environment"] = env_args["env_name"]
    if (simulator := _SIMULATORS.get(env_args.get("type", -1))) is not None:
        found["simulator"] = simulator
    kwargs = env_args.get("env_kwargs", {})
    robots = kwargs.get("robots")
    if isinstance(robots, str):
        robots = [robots]
    if isinstance(robots, list) and robots:
        found["robot"] = ", ".join(map(str, cast("list[Any]", robots)))
    controllers = kwargs.get("controller_configs")
    if isinstance(controllers, list):
        controllers = controllers[0] if controllers else None
    if isinstance(controllers, dict):
        arms = len(found.get("robot", "").split(", "))
        found["controller"] = _controller(_arm(controllers), arms, version(env_args))
    return found


def version(env_args: dict[str, Any]) -> tuple[int, int] | None:
    """The version of robosuite, e.g. (1, 5); None if it is not stated."""
    match = re.match(r"(\d+)\.(\d+)", str(env_args.get("env_version", "")))
    return (int(match[1]), int(match[2])) if match else None


def _arm(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of an arm; since robosuite 1.5 they are nested in those of the body."""
    parts = config.get("body_parts")
    if isinstance(parts, dict):
        parts = cast(dict[str, Any], parts)
        parts = parts.get("arms", parts)
        arm = parts.get("right") if isinstance(parts, dict) else None
        if isinstance(arm, dict):
            return cast(dict[str, Any], arm)
    return config


def _controller(config: dict[str, Any], arms: int, version: tuple[int, int] | None) -> str:
    """A controller in words; robosuite's usual one is `otpr.envs.catalog.OSC_POSE`."""
    kind = str(config.get("type", "not named"))
    delta = config.get("control_delta", config.get("input_type", "delta") == "delta")
    words = [kind, "relative" if delta else "absolute"]
    if kind.startswith("OSC") and delta:
        words.append(_scale(config))
    if kind.startswith(("OSC", "IK")):
        later = version is not None and version >= (1, 5)
        frame = config.get("input_ref_frame", "base" if later else "world")
        # in these tasks a single arm's base is not rotated; the two arms of `transport` are
        own = frame == "base" and arms > 1
        words.append("along the axes of each arm's base" if own else "along the world's axes")
    if config.get("impedance_mode", "fixed") != "fixed":
        words.append(f"{config['impedance_mode']} impedance")
    if (stiffness := config.get("kp", 150)) != 150:
        words.append(f"stiffness {stiffness}")
    return ", ".join(words)


def _scale(config: dict[str, Any]) -> str:
    """The displacement that 1 represents in each dimension of a relative command."""
    usual = [0.05] * 3 + [0.5] * 3
    ends = [config.get("output_min", [-x for x in usual]), config.get("output_max", usual)]
    low, high = (np.broadcast_to(np.asarray(end, np.float64), 6) for end in ends)
    span = np.ptp([config.get("input_min", -1), config.get("input_max", 1)])
    each = (high - low) / span
    if np.ptp(each[:3]) < 1e-9 and np.ptp(each[3:]) < 1e-9:
        return f"1 is {each[0]:g} m and {each[3]:g} rad"
    return "1 is " + " ".join(f"{x:g}" for x in each) + " m and rad"


def order(
    task: str,
    env_args: dict[str, Any],
    objects: NDArray[np.float64],
    hands: dict[str, NDArray[np.float64]],
    where: str,
) -> str:
    """The order of `object`, derived from its numbers, which must agree with the file's version.

    Args:
        task: the name of the robosuite task.
        env_args: as the file has them.
        objects: (T, dim) of an episode.
        hands: see `otpr.envs.robosuite_objects.residual`.
        where: the place in the file, for errors.

    Raises:
        OtprError: the numbers agree with neither order, with both, or with another order than the version's.
    """
    off = {order: residual(task, order, objects, hands) for order in (FORMER, LATER)}
    fits = [order for order in off if off[order] < _AGREES]
    best = min(off, key=lambda order: off[order])
    stated = version(env_args)
    expected = None if stated is None else (LATER if stated >= (1, 5) else FORMER)
    clear = best in fits and max(off.values()) > _DISAGREES * max(off[best], 1e-6)
    if clear and expected in (None, best):
        return best
    if expected is not None and expected in fits and not clear:  # nothing moves: the orders are alike
        return expected
    said = f"robosuite {env_args['env_version']}" if stated else "no version of robosuite"
    raise OtprError(
        f"{where}: what obs/object is made of cannot be told. The file states {said}; by the poses of the "
        f"hand, its relative positions are off by {off[FORMER]:.3g} m in {FORMER} and by "
        f"{off[LATER]:.3g} m in {LATER}. Extract the observations again with one robosuite and its version "
        "in env_args, or leave `object` out with --keys."
    )
