"""What runs in a simulator process: it serves one `EnvGroup` over a pipe until the pipe is closed."""

from __future__ import annotations

import contextlib
import functools
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from otpr.envs.env_group import EnvGroup
from otpr.errors import OtprError


def serve(descriptor: int) -> None:
    """Serve the parent at the other end of the pipe whose file descriptor is given.

    The first message holds the arguments of `EnvGroup`; each later one, `(method, argument)`, is answered by
    the result. What raises here is answered by an `OtprError` and ends the process; an error that
    is not one of ours leaves its traceback on standard error too.
    """
    # The pipe breaks when the parent closed its end or is gone: the normal end.
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        arguments = connection.recv()
        task_id = arguments[0].task
        group = _result(functools.partial(EnvGroup, *arguments), task_id)
        while isinstance(group, EnvGroup):
            method, argument = connection.recv()
            reply = _result(functools.partial(getattr(group, method), argument), task_id)
            connection.send(reply)
            if isinstance(reply, OtprError):
                return
        connection.send(group)


def _result(work: Callable[[], Any], task_id: str) -> Any:
    """What `work` returns, or the `OtprError` that tells what it raised."""
    try:
        return work()
    except OtprError as error:
        return OtprError(str(error))
    except Exception as error:  # noqa: BLE001 - a simulator may raise anything, and the parent is to know what
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        return OtprError(
            f"{task_id}: the simulator raised {type(error).__name__}: {error} "
            f"({place.filename}, line {place.lineno})."
        )
