"""A policy on a remote server as a source of plans; see `otpr.policies.asked`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from otpr.errors import OtprError
from otpr.serving.messages import MessageError, pack, unpack
from otpr.serving.service import PREFIX
from otpr.spec import Spec

_PAUSE = 0.2
"""Seconds between two attempts to connect."""


class Remote:
    """A client of a server with openpi's protocol. `otpr serve` sends all plans of a decision at once.

    If the connection is lost or too slow, the request fails. The next request reconnects and waits for the
    server as long as for an answer.

    Args:
        url: e.g. "ws://127.0.0.1:8000".
        timeout: seconds that a connection, or an answer, may take.
        api_key: the key that the server requires, if any.

    Raises:
        OtprError: there is no server at the URL, or it uses another protocol.

    Attributes:
        metadata: the server's metadata.
        spec: the spec of its policy, if the server states it; otherwise None.
    """

    def __init__(self, url: str, timeout: float, api_key: str | None = None):
        self.url, self._timeout, self._key = url, timeout, api_key
        self._connection: ClientConnection | None = None
        self._open = contextlib.ExitStack()
        try:
            self._connection, self.metadata = self._connected()
            said = self.metadata.get("spec")
            self.spec = None if said is None else Spec.from_json(said)
        except (OSError, WebSocketException, ValueError) as error:
            raise OtprError(
                f"No policy answers at {url} ({type(error).__name__}: {error}). Look whether the server "
                "runs, and whether it speaks openpi's protocol."
            ) from error

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> np.ndarray:
        """See `otpr.policies.asked.Source.propose`.

        Raises:
            OSError, WebSocketException: the connection failed or was too slow.
            ValueError: the server refused the request, or its reply has no plans.
        """
        try:
            plans = [
                self._plans({name: rows[i] for name, rows in observations.items()}, n, seed)
                for i, seed in enumerate(seeds)
            ]
            return np.stack(plans)
        except BaseException:
            self.close()  # a late reply would be taken for the next one
            raise

    def _plans(self, observation: Mapping[str, np.ndarray], n: int, seed: int) -> np.ndarray:
        """(n, horizon, action_dim) of one decision."""
        if self.metadata.get("server") == "otpr":
            return _array(self._asked({**observation, "seed": seed, "plans": n}), "plans")
        named = {PREFIX + name: entry for name, entry in observation.items()}
        if len(named) == 1:
            named[PREFIX + "state"] = next(iter(named.values()))
        return np.stack([_array(self._asked(named), "actions") for _ in range(n)])

    def _asked(self, request: Mapping[str, Any]) -> Mapping[Any, Any]:
        if self._connection is None:
            self._connection, self.metadata = self._connected()
        self._connection.send(pack(request))
        reply = self._connection.recv(self._timeout)
        if isinstance(reply, str):
            raise ValueError(reply)
        return _map(reply)

    def _connected(self) -> tuple[ClientConnection, dict[Any, Any]]:
        """Connect as soon as the server is available; returns the connection and the metadata."""
        headers = None if self._key is None else {"Authorization": f"Api-Key {self._key}"}
        until = time.monotonic() + self._timeout
        while True:
            try:
                connection = self._open.enter_context(
                    connect(self.url, compression=None, max_size=None, additional_headers=headers, proxy=None)
                )
                break
            except ConnectionRefusedError:
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)
        try:
            said = connection.recv(self._timeout)
            return connection, _map(said if isinstance(said, bytes) else b"")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._connection = None
        with contextlib.suppress(OSError, WebSocketException):
            self._open.close()


def _map(message: bytes) -> dict[Any, Any]:
    found = unpack(message)
    if not isinstance(found, dict):
        raise MessageError(f"the server sent {type(found).__name__}, not a map")
    return cast(dict[Any, Any], found)


def _array(reply: Mapping[Any, Any], name: str) -> np.ndarray:
    found = np.asarray(reply.get(name))
    if found.dtype.kind not in "iuf":
        raise MessageError(f"the reply has no array {name!r}, but {sorted(map(str, reply))}")
    return found
