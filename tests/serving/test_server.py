"""The sockets, spoken to by the library that openpi's client is made of, and by raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from otpr.cli.main import main
from otpr.errors import OtprError
from otpr.serving.messages import pack, unpack
from otpr.serving.server import CONNECTIONS, Settings, serve_policy
from otpr.serving.service import Service
from tiny import TASK, policy

STATE = np.linspace(-1, 1, 39, dtype=np.float32)
SHOWN = policy(execute=4)


class Slow(Service):
    """Takes a while for each request, and tells when it has begun one."""

    def __init__(self, seconds: float):
        super().__init__(SHOWN, {})
        self.seconds, self.begun = seconds, threading.Event()

    def answer(self, message: bytes | str, arrived: float) -> dict[str, Any]:
        self.begun.set()
        time.sleep(self.seconds)
        return super().answer(message, arrived)


class Running:
    """A server in a thread of this process."""

    def __init__(self, service: Service, settings: Settings):
        self.port, self._ready = 0, threading.Event()
        self._result: ThreadPoolExecutor = ThreadPoolExecutor(1)
        self.answered = self._result.submit(asyncio.run, self._serve(service, settings))
        while not self._ready.wait(0.01):
            if self.answered.done():
                self.answered.result()

    async def _serve(self, service: Service, settings: Settings) -> int:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        return await serve_policy(service, settings, self._stop, self._listening)

    def _listening(self, port: int) -> None:
        self.port = port
        self._ready.set()

    def request_stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    def stop(self) -> int:
        """Stop, and how many requests were answered."""
        if not self.answered.done():
            self.request_stop()
        answered = self.answered.result(30)
        self._result.shutdown()
        return answered


@contextlib.contextmanager
def running(service: Service | None = None, **settings: Any) -> Generator[Running]:
    server = Running(service or Service(SHOWN, {}), Settings(port=0, **settings))
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def client(server: Running, **more: Any) -> Generator[ClientConnection]:
    """Connected, the metadata read."""
    url = f"ws://127.0.0.1:{server.port}"
    with connect(url, compression=None, max_size=None, **more) as connection:
        assert unpack(connection.recv())["server"] == "otpr"  # pyright: ignore[reportArgumentType]
        yield connection


def ask(connection: ClientConnection, request: Any) -> Any:
    connection.send(request if isinstance(request, bytes | str) else pack(request))
    reply = connection.recv(10)
    return reply if isinstance(reply, str) else unpack(reply)


def raw(server: Running) -> socket.socket:
    """A connection whose opening handshake is done, the metadata read."""
    peer = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    peer.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += peer.recv(1)
    first, length = peer.recv(2)
    assert (first, length) == (0x82, 126)  # a binary message of up to 65,535 bytes
    rest = struct.unpack("!H", peer.recv(2))[0]
    while rest:
        rest -= len(peer.recv(rest))
    return peer


def the_rest(peer: socket.socket) -> bytes:
    """What comes until the other side hangs up; pings among it."""
    with peer, contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: peer.recv(4096), b""))
    return b""


def test_metadata_then_a_reply_to_each_request():
    with running() as server, client(server) as connection:
        for seed in (1, 2):
            reply = ask(connection, {"observation/state": STATE, "seed": seed, "prompt": "x"})
            np.testing.assert_array_equal(reply["actions"], SHOWN.act(STATE, seed))
            assert ("prev_total_ms" in reply["server_timing"]) == (seed == 2)
        connection.close()
        assert server.stop() == 2


def test_many_clients_at_once_lose_no_reply_and_mix_none_up():
    seeds = range(8)
    with running() as server:

        def talk(seed: int) -> list[np.ndarray]:
            with client(server) as connection:
                requests = [{"state": STATE * i / 20, "seed": seed} for i in range(20)]
                return [ask(connection, request)["actions"] for request in requests]

        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(talk, seeds))
        assert server.stop() == 160
    for seed, replies in zip(seeds, found, strict=True):
        for i, actions in enumerate(replies):
            np.testing.assert_array_equal(actions, SHOWN.act(STATE * i / 20, seed))


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"garbage", "The message cannot be read"),
        ("text", "The message is a text"),
        (pack({"state": STATE})[:-1], "The message cannot be read"),
        ({"state": STATE[:3]}, "observation has shape (3,), the policy expects (39,)"),
        ({"state": STATE * np.nan}, "observation is not finite"),
        ({"state": ["a"] * 39}, "not of numbers"),
        ({"position": STATE}, "'position', which this policy does not know"),
    ],
)
def test_a_bad_request_ends_its_connection_in_words_and_no_other(
    request_: Any, said: str, capfd: pytest.CaptureFixture[str]
):
    with running() as server, client(server) as other, client(server) as bad:
        first = ask(other, {"state": STATE, "seed": 1})
        words = ask(bad, request_)
        assert said in words
        assert "Expected: a msgpack map of 'state' (vector (39,) float32)" in words
        with pytest.raises(ConnectionClosed) as closed:
            bad.recv(10)
        assert (closed.value.rcvd and closed.value.rcvd.code) == 1007
        again = ask(other, {"state": STATE, "seed": 1})
        np.testing.assert_array_equal(again["actions"], first["actions"])
    assert said in capfd.readouterr().err  # the operator is told, too


def test_a_gigabyte_is_refused_when_it_is_announced():
    with running() as server, client(server) as other:
        peer = raw(server)
        peer.sendall(b"\x82\xff" + struct.pack("!Q", 2**30) + b"mask" + bytes(1000))
        said = the_rest(peer)
        assert said[:1] == b"\x88"
        assert said[2:4] == struct.pack("!H", 1009)
        assert b"with 1073741824 bytes exceeds limit of" in said
        assert ask(other, {"state": STATE})["actions"].shape == (4, 4)


def test_small_pieces_are_refused_where_together_they_pass_the_limit():
    service = Service(SHOWN, {})
    with running(service) as server, client(server) as other:
        peer = raw(server)
        size = 2**16 - 1
        piece = b"\xfe" + struct.pack("!H", size) + bytes(4 + size)
        for i in range(service.largest // size + 1):
            peer.sendall((b"\x02" if i == 0 else b"\x00") + piece)
        said = the_rest(peer)
        assert said[2:4] == struct.pack("!H", 1009)
        assert f"exceeds limit of {service.largest} bytes".encode() in said
        assert ask(other, {"state": STATE})["actions"].shape == (4, 4)


@pytest.mark.parametrize("sent", [b"\x82", b"\x82\xff" + struct.pack("!Q", 1000) + b"mask" + bytes(10), b""])
def test_half_a_frame_or_nothing_ends_the_connection_when_pings_find_no_answer(sent: bytes):
    with running(patience=0.4) as server, client(server) as other:
        peer = raw(server)
        peer.sendall(sent)
        said = the_rest(peer)
        assert b"keepalive ping timeout" in said
        assert ask(other, {"state": STATE})["actions"].shape == (4, 4)


def test_a_handshake_that_does_not_come_ends():
    with running(patience=0.4) as server:
        for said in (b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01 no HTTP\r\n\r\n"):
            peer = socket.create_connection(("127.0.0.1", server.port), timeout=10)
            peer.sendall(said)
            assert b"101 Switching" not in the_rest(peer)


def test_who_asks_nothing_for_long_is_told_and_closed():
    with running(idle=0.3) as server, client(server) as connection:
        assert connection.recv(10) == "No request came for 0.3 seconds: the connection is closed."
        with pytest.raises(ConnectionClosed):
            connection.recv(10)


def test_a_slow_answer_does_not_keep_the_server_from_answering_pings():
    with (
        running(Slow(1.0), patience=0.4) as server,
        client(server, ping_interval=0.1, ping_timeout=0.3) as one,
    ):
        assert ask(one, {"state": STATE})["actions"].shape == (4, 4)


def test_stopping_answers_what_was_asked_and_says_goodbye():
    slow = Slow(0.5)
    with running(slow) as server, client(server) as busy, client(server) as idle:
        busy.send(pack({"state": STATE, "seed": 3}))
        assert slow.begun.wait(10)
        server.request_stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(10)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1001, "the server is stopping")
        reply = unpack(busy.recv(10))  # pyright: ignore[reportArgumentType]
        np.testing.assert_array_equal(reply["actions"], SHOWN.act(STATE, 3))
        with pytest.raises(ConnectionClosed):
            busy.recv(10)
        assert server.answered.result(10) == 1
        with pytest.raises(OSError):  # noqa: PT011 - refused, in the words of the operating system
            connect(f"ws://127.0.0.1:{server.port}")


def test_a_key_is_asked_for_and_health_is_not():
    with running(api_key="s3cret") as server:
        for wrong in (None, "Api-Key other", "s3cret", "Bearer s3cret"):
            headers = None if wrong is None else {"Authorization": wrong}
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{server.port}", additional_headers=headers)
            assert refused.value.response.status_code == 401
        with client(server, additional_headers={"Authorization": "Api-Key s3cret"}) as connection:
            assert ask(connection, {"state": STATE})["actions"].shape == (4, 4)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/healthz") as health:
            assert (health.status, health.read()) == (200, b"OK\n")


def test_a_page_in_a_browser_is_turned_away():
    with running() as server, pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}", origin="https://example.org")  # pyright: ignore
    assert refused.value.response.status_code == 403


def test_there_is_a_limit_to_connections():
    with running() as server, contextlib.ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(client(server))
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{server.port}")
        assert refused.value.response.status_code == 503


def test_failures_of_the_server_are_told_without_their_insides(capfd: pytest.CaptureFixture[str]):
    class Failing(Service):
        def answer(self, message: bytes | str, arrived: float) -> dict[str, Any]:
            raise OtprError("Weights hold NaN.") if message == b"weights" else KeyError("/secret/path")

    with running(Failing(SHOWN, {})) as server:
        for asked, said in (
            (b"weights", "Weights hold NaN."),
            (b"x", "The server failed: KeyError."),
        ):
            with client(server) as connection:
                assert ask(connection, asked).startswith(said)
                with pytest.raises(ConnectionClosed) as closed:
                    connection.recv(10)
                assert (closed.value.rcvd and closed.value.rcvd.code) == 1011
    assert "/secret/path" in capfd.readouterr().err


def test_a_port_that_is_taken_is_told():
    with running() as server, pytest.raises(OtprError, match="Give another with --port or --host"):
        Running(Service(SHOWN, {}), Settings(port=server.port))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal(number: signal.Signals, tmp_path: Path):
    SHOWN.save(tmp_path / "policy", task=TASK)
    command = "from otpr.cli.main import entry; entry()"
    restore = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    arguments = [sys.executable, "-c", restore + command, "serve", str(tmp_path / "policy"), "--port", "0"]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=os.environ | {"OTPR_API_KEY": "k"}
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            while not said or not said[-1].startswith("Listening"):
                said.append(process.stdout.readline())
                assert said[-1], said
            assert said[0] == f"{tmp_path / 'policy'}: policy for {TASK}\n"
            port = int(said[-1].partition(";")[0].rpartition(":")[2])
            url, key = f"ws://127.0.0.1:{port}", {"Authorization": "Api-Key k"}
            with connect(url, compression=None, additional_headers=key) as connection:
                connection.recv()
                reply = ask(connection, {"state": STATE, "seed": 3})
                np.testing.assert_array_equal(reply["actions"], SHOWN.act(STATE, 3))
                process.send_signal(number)
                with pytest.raises(ConnectionClosed):
                    connection.recv(10)
            rest, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0
    assert rest.endswith("Stopped; 1 requests were answered.\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "70000"], "--port must be in [0, 65536), given 70000."),
        (["--idle", "0"], "idle must be at least 1, given 0.0."),
        (["--api-key", ""], "The API key must be printable ASCII characters, at least one."),
        (["--api-key", "schlüssel"], "The API key must be printable ASCII characters, at least one."),
    ],
)
def test_what_cannot_be_served_so_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    assert main(["serve", str(tmp_path), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_where_there_is_no_policy_nothing_listens(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["serve", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"otpr: There is no policy in {tmp_path}")
