"""The main function of a worker process, which serves one object's methods over a pipe until it closes."""

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
    """Serve the parent at the other end of a pipe.

    The first message holds the prefix of errors and the factory's arguments; each later one, `(method,
    arguments)`, is answered by the result. An exception is answered by an `OtprError` and ends the process;
    its traceback is also printed to standard error unless it is an `OtprError` itself.

    Args:
        factory: "module:name" of a callable that makes the object.
        descriptor: the file descriptor of this end of the pipe.
    """
    # The pipe breaks when the parent closes its end or ends, which is the normal end.
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
    """The result of `work`, or an `OtprError` with the exception that it raised."""
    try:
        return work()
    except OtprError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a simulator may raise anything, and the parent is to know what
        traceback.print_exc()
        return OtprError(f"{who} {what_raised(error)}")


def what_raised(error: Exception) -> str:
    """The message of an exception, and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error} ({place.filename}, line {place.lineno})."
