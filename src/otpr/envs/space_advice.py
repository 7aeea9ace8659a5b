"""Advice on spaces that are not vectors: the Gymnasium wrapper for the given space."""

from __future__ import annotations

from typing import Any

import gymnasium
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

_FLATTENED = (Box, Discrete, MultiDiscrete, MultiBinary)
"""Spaces that Gymnasium flattens to a meaningful, one-hot vector."""


def leaves(space: gymnasium.Space[Any], path: str = "") -> dict[str, gymnasium.Space[Any]]:
    """The spaces without subspaces, by path, in the order of `flatten`."""
    if isinstance(space, Dict):
        inside = space.spaces.items()
    elif isinstance(space, Tuple):
        inside = enumerate(space.spaces)
    else:
        return {path: space}
    found: dict[str, gymnasium.Space[Any]] = {}
    for name, part in inside:
        found |= leaves(part, f"{path}/{name}" if path else str(name))
    return found


def observation_advice(space: gymnasium.Space[Any]) -> str:
    """A sentence on how to make vectors of an observation space with spaces other than Box."""
    if _flattens(space):
        return (
            "Wrap the environment with gymnasium.wrappers.FlattenObservation(env): it makes one vector of "
            "all, of each choice a 1 among zeros."
        )
    kept = [name for name, part in space.items() if _flattens(part)] if isinstance(space, Dict) else []
    if kept:
        wrapped = f"gymnasium.wrappers.FilterObservation(env, {kept!r})"
        if not all(isinstance(leaf, Box) for name in kept for leaf in leaves(space[name]).values()):  # pyright: ignore[reportIndexIssue]
            wrapped = f"gymnasium.wrappers.FlattenObservation({wrapped})"
        return f"Leave out what is no vector: wrap the environment with {wrapped}."
    return (
        "Wrap the environment with gymnasium.wrappers.TransformObservation(env, function, space): the space "
        "is a gymnasium.spaces.Box of one axis, and the function makes such a vector of an observation."
    )


def _flattens(space: gymnasium.Space[Any]) -> bool:
    return all(isinstance(leaf, _FLATTENED) for leaf in leaves(space).values())


def action_advice(space: gymnasium.Space[Any]) -> str:
    """Up to two sentences on how to make a bounded vector of an action space."""
    if isinstance(space, Discrete):
        first, last = int(space.start), int(space.n) - 1
        return _transformed(f"{first} + int(round((a[0] + 1) / 2 * {last}))", "-1, 1, (1,)")
    if isinstance(space, MultiBinary) and len(space.shape) == 1:
        return _transformed("(a > 0).astype('int8')", f"-1, 1, {space.shape}")
    if isinstance(space, Box) and (not space.is_bounded() or len(space.shape) != 1):
        what = "a" if len(space.shape) == 1 else f"a.reshape({space.shape})"
        if space.is_bounded():
            return _transformed(what, "env.action_space.low.ravel(), env.action_space.high.ravel()")
        return (
            f"{_transformed(what, f'low, high, ({space.low.size},)')} Low and high are what it may be given."
        )
    made = _transformed("function(a)", "low, high, (n,)")
    return f"{made} The function makes an action of n numbers, each of which can move."


def _transformed(what: str, box: str) -> str:
    return (
        "Wrap the environment with gymnasium.wrappers.TransformAction(env, "
        f"lambda a: {what}, gymnasium.spaces.Box({box}))."
    )
