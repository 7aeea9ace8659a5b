"""What runs in a simulator process: it serves one `EnvGroup` over a pipe until the pipe is closed."""

from __future__ import annotations

import traceback
from multiprocessing.connection import Connection

from otpr.envs.chunked import EnvGroup


def serve(descriptor: int) -> None:
    """Serve the parent at the other end of the pipe whose file descriptor is given.

    The first message is `(task_id, num_envs, chunk_length)`; then each `(method, argument)` is answered by
    `(None, result)` or, where it raised, by `(traceback, None)`.
    """
    with Connection(descriptor) as connection:
        group: EnvGroup | None = None
        try:
            task = connection.recv()
            while True:
                method, argument = connection.recv()
                try:
                    # Made on the first request, so that what goes wrong in making it has a reply to travel in.
                    group = group or EnvGroup(*task)
                    group.send(method, argument)
                    reply = (None, group.receive())
                except Exception:  # reported to the parent, which raises
                    reply = (traceback.format_exc(), None)
                connection.send(reply)
        except (EOFError, OSError):
            return  # the parent closed its end, or is gone
        finally:
            if group is not None:
                group.close()
