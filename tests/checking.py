"""The checker of array shapes that conftest.py puts around the mathematics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, get_args, get_origin

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check arguments and results at each call; beartype knows no `Self` here, so that it may be anything.

    A function within a function would be wrapped anew whenever the outer one is called, which takes a
    millisecond each time. What it is given and gives is checked by its neighbours.
    """
    if "<locals>" in function.__qualname__:
        return function
    function.__annotations__ = {name: _known(hint) for name, hint in function.__annotations__.items()}
    return beartype(function)


def _known(hint: Any) -> Any:
    if hint is Self:
        return object
    return tuple[tuple(map(_known, get_args(hint)))] if get_origin(hint) is tuple else hint
