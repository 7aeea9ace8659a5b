"""What runs in a simulator process: it serves one `EnvGroup` over a pipe until the pipe is closed."""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection

from otpr.envs.chunked import EnvGroup
from otpr.errors import OtprError


def serve(descriptor: int) -> None:
    """Serve the parent at the other end of the pipe whose file descriptor is given.

    The first message is `(task_id, num_envs, chunk_length)`; each later one, `(method, argument)`, is
    answered by the result. An `OtprError` is answered too, and ends the process, as does anything else that
    raises here, with its traceback on standard error.
    """
    # The pipe breaks when the parent closed its end or is gone: the normal end.
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        try:
            group = EnvGroup(*connection.recv())
            while True:
                group.send(*connection.recv())
                connection.send(group.receive())
        except OtprError as error:
            connection.send(error)
