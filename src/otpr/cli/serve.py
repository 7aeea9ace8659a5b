"""`otpr serve`: a policy server."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from otpr.errors import OtprError, check_at_least

if TYPE_CHECKING:
    from otpr.serving.server import Settings
    from otpr.serving.service import Service

KEY = "OTPR_API_KEY"
"""The environment variable with the key if `--api-key` is not given."""


@dataclasses.dataclass(frozen=True)
class Serve:
    """Serve a policy over openpi's WebSocket protocol, for the control loop of any robot."""

    # folder of the policy, or of the run that made it
    policy: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="POLICY")]
    # port to listen at; 0 takes a free one, which is printed
    port: int = 8000
    # address to listen at: by default this machine alone can connect; 0.0.0.0 is every network it is in
    host: str = "127.0.0.1"
    # what clients have to know; left out, the environment variable OTPR_API_KEY, which other users cannot see
    api_key: str | None = None
    # seconds without a request after which a connection is closed
    idle: float = 600.0

    def run(self) -> None:
        """Load, compile and serve; at SIGTERM or Ctrl-C answer pending requests and stop."""
        check_at_least(1, self, "idle")
        if not 0 <= self.port < 2**16:
            raise OtprError(f"--port must be in [0, 65536), given {self.port}.")
        key = self.api_key if self.api_key is not None else os.environ.get(KEY)
        if key is not None and (not key or not key.isascii() or not key.isprintable()):
            raise OtprError("The API key must be printable ASCII characters, at least one.")
        from otpr.serving.server import Settings
        from otpr.serving.service import Service

        service = Service.of(self.policy)
        print(f"{self.policy}: policy for {service.metadata['task']}")
        print(f"checksum      {service.metadata['checksum']}")
        print("\n".join(service.policy.spec.lines()))
        if not service.metadata["bounds_stated"]:
            print("What -1 and 1 of its actions stand for is not stated: those it sends lie in [-1, 1].")
        if key is None and not _loopback(self.host):
            print(f"Whoever reaches {self.host} can ask this policy: there is no API key (--api-key).")
        service.warm()
        settings = Settings(self.host, self.port, key, self.idle)
        answered = asyncio.run(_until_signalled(service, settings))
        print(f"Stopped; {answered:,} requests were answered.")


async def _until_signalled(service: Service, settings: Settings) -> int:
    from otpr.serving.server import serve_policy

    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def asked() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)  # a second one ends the process at once
        print("\nStopping: what was asked is answered first. Once more stops at once.", flush=True)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)

    def listening(port: int) -> None:
        print(f"Listening at ws://{settings.host}:{port}; Ctrl-C or SIGTERM stops.", flush=True)

    return await serve_policy(service, settings, stop, listening)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
