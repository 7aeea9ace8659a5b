"""The WebSocket server: many clients share one policy.

The event loop only moves bytes. A second thread decodes and answers requests in the order of their arrival,
so that the loop can answer pings meanwhile. Each client has at most one pending request.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response

from otpr.errors import OtprError
from otpr.serving.messages import pack
from otpr.serving.service import Refused, Service

CONNECTIONS = 64
"""Largest number of connections; further ones are refused with status 503."""

_QUIET = logging.Logger("otpr.serving", logging.CRITICAL)
"""The library would log a traceback for every invalid request of a stranger."""


class Settings(NamedTuple):
    """Settings of a server.

    Attributes:
        host: the address to listen on.
        port: the port to listen on; 0 chooses a free one.
        api_key: the key that clients must send; None: no key.
        idle: seconds without a request after which a connection is closed.
        patience: seconds that a client may take to answer a ping, and a quarter of it for the opening
            handshake. A client that stops in the middle of a message does not answer pings.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    idle: float = 600.0
    patience: float = 20.0


async def serve_policy(
    service: Service, settings: Settings, stop: asyncio.Event, listening: Callable[[int], None]
) -> int:
    """Serve until `stop` is set, then answer pending requests, close all connections and return.

    Args:
        service: answers the requests.
        settings: the settings of the server.
        stop: set from this event loop.
        listening: called with the port as soon as clients can connect.

    Returns:
        The number of answered requests.

    Raises:
        OtprError: the server cannot listen on the address.
    """
    with ThreadPoolExecutor(1, "policy") as thread:
        talks = _Talks(service, settings, stop, thread)
        try:
            server = await serve(
                talks.handle,
                settings.host,
                settings.port,
                process_request=talks.admit,
                origins=[None],  # excludes web pages, whose browsers send an origin
                compression=None,
                max_size=service.largest,
                max_queue=2,
                open_timeout=settings.patience / 4,
                ping_interval=settings.patience,
                ping_timeout=settings.patience,
                close_timeout=2,
                logger=_QUIET,
            )
        except OSError as error:
            raise OtprError(
                f"Port {settings.port} of {settings.host} cannot be listened at ({error.strerror or error}). "
                "Give another with --port or --host."
            ) from error
        async with server:
            listening(_port(server))
            await stop.wait()
            server.close(close_connections=False)  # connections close by themselves
            await server.wait_closed()
    return talks.answered


def _port(server: Server) -> int:
    return next(iter(server.sockets)).getsockname()[1]


class _Talks:
    """The handlers of connections."""

    def __init__(self, service: Service, settings: Settings, stop: asyncio.Event, thread: ThreadPoolExecutor):
        self._service, self._settings, self._stop, self._thread = service, settings, stop, thread
        self.answered = 0

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer /healthz, and refuse clients without the key or above the limit of connections."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        key = self._settings.api_key
        given = request.headers.get_all("Authorization")
        if key is not None and not (
            len(given) == 1 and hmac.compare_digest(given[0].encode(), f"Api-Key {key}".encode())
        ):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED,
                "This server asks for its API key, in the header 'Authorization: Api-Key KEY'.\n",
            )
        if len(connection.server.connections) >= CONNECTIONS:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"This server has {CONNECTIONS} connections already.\n"
            )
        return None

    async def handle(self, connection: ServerConnection) -> None:
        """Send metadata and then a reply to each request; after an error, a final message describes it."""
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await connection.send(pack(self._service.metadata))
            await self._answer(connection, stopping)
            await connection.close(CloseCode.GOING_AWAY, "the server is stopping")
        except ConnectionClosed:
            pass
        except Refused as refused:
            await self._end(connection, str(refused), CloseCode.INVALID_DATA, "request refused")
        except TimeoutError:
            words = f"No request came for {self._settings.idle:g} seconds: the connection is closed."
            await self._end(connection, words, CloseCode.POLICY_VIOLATION, "idle")
        except OtprError as error:
            await self._end(connection, str(error), CloseCode.INTERNAL_ERROR, "policy failed")
        except Exception as error:  # noqa: BLE001 - one client's failure is not the others'
            traceback.print_exc()
            words = f"The server failed: {type(error).__name__}. Its own output says more."
            await self._end(connection, words, CloseCode.INTERNAL_ERROR, "server failed")
        finally:
            stopping.cancel()

    async def _answer(self, connection: ServerConnection, stopping: asyncio.Future[Any]) -> None:
        """Answer requests until the server stops and none is pending."""
        loop = asyncio.get_running_loop()
        previous: float | None = None
        while (message := await self._next(connection, stopping)) is not None:
            arrived = time.perf_counter()
            reply = await loop.run_in_executor(self._thread, self._service.answer, message, arrived)
            if previous is not None:
                reply["server_timing"]["prev_total_ms"] = 1e3 * previous
            await connection.send(pack(reply))
            self.answered += 1
            previous = time.perf_counter() - arrived

    async def _next(self, connection: ServerConnection, stopping: asyncio.Future[Any]) -> bytes | str | None:
        """The next message; None if the server stops and none is pending."""
        receiving = asyncio.ensure_future(connection.recv())
        try:
            await asyncio.wait(
                {receiving, stopping}, timeout=self._settings.idle, return_when=asyncio.FIRST_COMPLETED
            )
            if receiving.done():
                return receiving.result()
            if stopping.done():
                return None
            raise TimeoutError
        finally:
            receiving.cancel()

    async def _end(self, connection: ServerConnection, words: str, code: CloseCode, reason: str) -> None:
        """Report the reason to client and operator, and close the connection."""
        host, port = connection.remote_address[:2]
        print(f"{host}:{port}: {words}", file=sys.stderr, flush=True)
        try:
            await connection.send(words)
        except ConnectionClosed:
            return
        await connection.close(code, reason)
