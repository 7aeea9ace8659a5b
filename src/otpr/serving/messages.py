"""openpi's message format: msgpack, with maps that represent NumPy arrays and scalars.

An array is the map of `b"__ndarray__"` to true, `b"data"` to its bytes in C order, `b"dtype"` to NumPy's
short name of its type and `b"shape"` to its lengths; a scalar has `b"__npgeneric__"`, `b"data"` and
`b"dtype"`. The keys are byte strings. Source: `msgpack_numpy.py` of openpi-client 0.1.2 (Physical
Intelligence).

A message cannot carry code: types are booleans and numbers of a fixed size, never objects. Memory use is
proportional to a message's actual length, whatever lengths it declares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, cast

import msgpack
import numpy as np

_TYPE = re.compile(r"[<>|=]?[biuf](1|2|4|8)")
"""NumPy's short names of the allowed types: booleans, integers and floating-point numbers."""

_ARRAY = {b"__ndarray__", b"data", b"dtype", b"shape"}
_SCALAR = {b"__npgeneric__", b"data", b"dtype"}

_AXES = 8
"""The largest number of axes of an array."""


class MessageError(ValueError):
    """Bytes that are not a valid message; the text gives the reason."""


def pack(value: Any) -> bytes:
    """Encode dictionaries, lists, strings, bytes, numbers, booleans, None and arrays as a message.

    Raises:
        TypeError: the value contains another type, or an array of another type.
    """
    return cast(bytes, msgpack.packb(value, default=_as_map))


def unpack(data: bytes) -> Any:
    """Decode a message. Its arrays are read-only views of `data`.

    Raises:
        MessageError: the message is truncated, not msgpack, or contains something that is not allowed.
    """
    try:
        return msgpack.unpackb(data, object_hook=_from_map, ext_hook=_no_extension)
    except MessageError:
        raise
    except (msgpack.UnpackException, ValueError, TypeError, OverflowError, RecursionError) as error:
        reason = str(error) or type(error).__name__
        raise MessageError(f"it cannot be unpacked as msgpack ({reason})") from error


def _as_map(value: Any) -> dict[bytes, Any]:
    array = np.asarray(value) if isinstance(value, np.ndarray | np.generic) else None
    if array is None or not _TYPE.fullmatch(array.dtype.str):
        raise TypeError(f"{type(value).__name__} cannot be sent.")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": array.dtype.str}
    return {
        b"__ndarray__": True,
        b"data": array.tobytes(),
        b"dtype": array.dtype.str,
        b"shape": list(array.shape),
    }


def _from_map(given: dict[Any, Any]) -> Any:
    if b"__ndarray__" in given:
        return _array(given)
    if b"__npgeneric__" in given:
        _check_keys("a scalar", given, _SCALAR)
        kind, number = _type(given[b"dtype"]), given[b"data"]
        if not isinstance(number, bool | int | float):
            raise MessageError(f"a scalar is {number!r:.40}; expected a number or a truth value")
        with np.errstate(over="ignore"):  # infinity is refused later
            return kind.type(number)
    return given


def _array(given: Mapping[Any, Any]) -> np.ndarray:
    _check_keys("an array", given, _ARRAY)
    kind, data, shape = _type(given[b"dtype"]), given[b"data"], given[b"shape"]
    if not isinstance(data, bytes):
        raise MessageError(f"the data of an array are {type(data).__name__}; expected bytes")
    lengths = cast("list[Any]", shape) if isinstance(shape, list) else [-1]
    if len(lengths) > _AXES or not all(type(n) is int and n >= 0 for n in lengths):
        raise MessageError(
            f"the shape of an array is {shape!r:.60}; expected a list of up to {_AXES} lengths"
        )
    if math.prod(lengths) * kind.itemsize != len(data):
        raise MessageError(
            f"an array of shape {tuple(lengths)} and type {kind.str} has {len(data):,} bytes; "
            f"expected {math.prod(lengths) * kind.itemsize:,}"
        )
    return np.ndarray(lengths, kind, buffer=data)


def _type(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or not _TYPE.fullmatch(name):
        raise MessageError(
            f"an array or a scalar has the type {name!r:.40}; expected booleans or numbers, such as '<f4'"
        )
    try:
        return np.dtype(name)
    except TypeError as error:  # no NumPy type: two-byte booleans, one-byte floats
        raise MessageError(f"there is no type {name!r}") from error


def _check_keys(what: str, given: Mapping[Any, Any], expected: set[bytes]) -> None:
    if set(given) != expected:
        raise MessageError(
            f"{what} has the keys {sorted(map(str, given))!r:.100}; expected {sorted(map(str, expected))}"
        )


def _no_extension(code: int, data: bytes) -> Any:
    raise MessageError(f"it holds a msgpack extension (type {code}), which no message has")
