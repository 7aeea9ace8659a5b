"""What runs in a process of ours: it serves the methods of one object over a pipe until that is closed."""

from __future__ import annotations

import contextlib
import functools
import importlib
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from otpr.errors import OtprError


def serve(factory: str, descriptor: int) -> None:
    """Serve the parent at the other end of the pipe whose file descriptor is given.

    The first message holds what errors begin with and what the object is made with; each later one, `(method,
    arguments)`, is answered by the result. What raises here is answered by an `OtprError` and ends the
    process; an error that is not one of ours leaves its traceback on standard error too.

    Args:
        factory: "module:name" of what makes the object.
        descriptor: of this end of the pipe.
    """
    # The pipe breaks when the parent closed its end or is gone: the normal end.
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        who, arguments = connection.recv()
        served = _result(functools.partial(_made, factory, *arguments), who)
        while not isinstance(served, OtprError):
            method, arguments = connection.recv()
            reply = _result(functools.partial(getattr(served, method), *arguments), who)
            connection.send(reply)
            if isinstance(reply, OtprError):
                return
        connection.send(served)


def _made(factory: str, *arguments: Any) -> Any:
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)(*arguments)


def _result(work: Callable[[], Any], who: str) -> Any:
    """What `work` returns, or the `OtprError` that tells what it raised."""
    try:
        return work()
    except OtprError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a simulator may raise anything, and the parent is to know what
        traceback.print_exc()
        return OtprError(f"{who} {what_raised(error)}")


def what_raised(error: Exception) -> str:
    """What an exception says, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})."
