"""The parts of robosuite's entry `object` in the robomimic tasks, in otpr's order and in that of 1.5.

This module does not import robosuite. otpr's tasks have the order of robosuite up to 1.4, which robomimic's
v1 files have. In robosuite 1.5, used for its later files, `gripper_to_cube_pos` has the opposite sign, the
flags of `transport` precede the vectors, and poses in the hand's frame precede the poses that they are
computed from. The latter therefore lag by one observation and are zero in the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMER, LATER = "robosuite 1.4's order", "robosuite 1.5's order"
"""The two orders in words."""


def _poses(*things: str, later: bool = False) -> tuple[str, ...]:
    absolute, relative = ("pos", "quat"), ("to_robot0_eef_pos", "to_robot0_eef_quat")
    values = (*relative, *absolute) if later else (*absolute, *relative)
    return tuple(f"{thing}_{value}" for thing in things for value in values)


_TRANSPORT_POSES = (
    *("payload_pos", "payload_quat", "trash_pos", "trash_quat", "lid_handle_pos", "lid_handle_quat"),
    *("target_bin_pos", "trash_bin_pos"),
)
_TRANSPORT_GAPS = (
    "gripper0_to_payload",
    "gripper0_to_lid_handle",
    "gripper1_to_payload",
    "gripper1_to_trash",
)
_TRANSPORT_FLAGS = ("payload_in_target_bin", "trash_in_trash_bin")
_TOOL_HANG_FLAGS = ("frame_is_assembled", "tool_on_frame")

ENTRIES: dict[str, tuple[str, ...]] = {
    "lift": ("cube_pos", "cube_quat", "gripper_to_cube_pos"),
    "can": _poses("Can"),
    "square": _poses("SquareNut"),
    "transport": (*_TRANSPORT_POSES, *_TRANSPORT_GAPS, *_TRANSPORT_FLAGS),
    "tool-hang": (*_poses("base", "frame", "tool"), *_TOOL_HANG_FLAGS),
}
"""The entries of `object` by task, in otpr's order, under robosuite's names."""

_LATER_ENTRIES: dict[str, tuple[str, ...]] = {
    "lift": ENTRIES["lift"],
    "can": _poses("Can", later=True),
    "square": _poses("SquareNut", later=True),
    "transport": (*_TRANSPORT_POSES, *_TRANSPORT_FLAGS, *_TRANSPORT_GAPS),
    "tool-hang": (*_poses("base", "frame", "tool", later=True), *_TOOL_HANG_FLAGS),
}


def hand_entries(name: str) -> tuple[str, ...]:
    """The entries of the observation with the hands' poses, which `in_our_order` needs."""
    arms = 2 if name == "transport" else 1
    return tuple(f"robot{arm}_{value}" for arm in range(arms) for value in ("eef_pos", "eef_quat"))


def object_dim(name: str) -> int:
    """The length of `object` in a task."""
    return sum(map(_length, ENTRIES[name]))


def residual(
    name: str, order: str, objects: NDArray[np.float64], hands: dict[str, NDArray[np.float64]]
) -> float:
    """The error of relative positions in `object`, given the poses of hands, if it has that order.

    Args:
        name: the task's name.
        order: `FORMER` or `LATER`.
        objects: (T, dim), the entry `object`.
        hands: (T, 3) and (T, 4) each of `hand_entries`.

    Returns:
        The median over the steps of the largest difference in metres, for current or lagging values,
        whichever is smaller.
    """
    entries = _split(ENTRIES[name] if order == FORMER else _LATER_ENTRIES[name], objects)
    computed = _relative_positions(name, {**entries, **hands}, later=order == LATER)
    off = [
        np.max(
            [np.abs(entries[entry][late:] - gap[: len(gap) - late]) for entry, gap in computed.items()],
            (0, 2),
        )
        for late in (0, 1)
        if len(objects) > late
    ]
    return min(float(np.median(steps)) for steps in off)


def in_our_order(
    name: str, objects: NDArray[np.float64], hands: dict[str, NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Convert the entry `object` of robosuite 1.5 to otpr's order; relative poses are recomputed.

    Args:
        name: the task's name.
        objects: (T, dim), from robosuite 1.5.
        hands: (T, 3) and (T, 4) each of `hand_entries`.

    Returns:
        (T, dim).
    """
    entries = _split(_LATER_ENTRIES[name], objects)
    entries |= _relative_positions(name, {**entries, **hands}, later=False)
    for entry in ENTRIES[name]:
        thing, _, rest = entry.partition("_to_robot0_eef_")
        if rest == "quat":
            turn = _product(_inverse(hands["robot0_eef_quat"]), entries[f"{thing}_quat"])
            # robosuite's quaternions have unit length and a last number that is not negative
            turn = turn / np.linalg.norm(turn, axis=1, keepdims=True)
            entries[entry] = np.where(turn[:, 3:] < 0, -turn, turn)
    return np.concatenate([entries[entry] for entry in ENTRIES[name]], axis=1)


def _length(entry: str) -> int:
    if entry.endswith("quat"):
        return 4
    return 1 if entry in (*_TRANSPORT_FLAGS, *_TOOL_HANG_FLAGS) else 3


def _split(entries: tuple[str, ...], objects: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    ends = np.cumsum([_length(entry) for entry in entries])
    return dict(zip(entries, np.split(objects, ends[:-1], axis=1), strict=True))


def _relative_positions(
    name: str, values: dict[str, NDArray[np.float64]], *, later: bool
) -> dict[str, NDArray[np.float64]]:
    """The parts of `object` that are positions relative to a hand."""
    if name == "lift":
        gap = values["cube_pos"] - values["robot0_eef_pos"]
        return {"gripper_to_cube_pos": gap if later else -gap}
    if name == "transport":
        gaps = [(entry, *entry.split("_to_")) for entry in _TRANSPORT_GAPS]
        return {
            entry: values[f"{thing}_pos"] - values[f"robot{hand[-1]}_eef_pos"] for entry, hand, thing in gaps
        }
    place, turn = values["robot0_eef_pos"], _inverse(values["robot0_eef_quat"])
    things = [entry for entry in ENTRIES[name] if entry.endswith("_to_robot0_eef_pos")]
    return {entry: _turned(turn, values[entry.replace("_to_robot0_eef", "")] - place) for entry in things}


def _inverse(quaternions: NDArray[Any]) -> NDArray[Any]:
    """The inverses of unit quaternions, (T, 4), x y z w."""
    return quaternions * np.array([-1.0, -1.0, -1.0, 1.0])


def _product(left: NDArray[Any], right: NDArray[Any]) -> NDArray[Any]:
    """The products of quaternions, (T, 4), x y z w; the right rotation is applied first."""
    a, b = left[:, 3:], right[:, 3:]
    u, v = left[:, :3], right[:, :3]
    vector = a * v + b * u + np.cross(u, v)
    return np.concatenate([vector, a * b - (u * v).sum(axis=1, keepdims=True)], axis=1)


def _turned(quaternions: NDArray[Any], vectors: NDArray[Any]) -> NDArray[Any]:
    """Vectors, (T, 3), rotated by unit quaternions, (T, 4)."""
    u, w = quaternions[:, :3], quaternions[:, 3:]
    cross = 2 * np.cross(u, vectors)
    return vectors + w * cross + np.cross(u, cross)
