"""A policy behind a socket: openpi's WebSocket protocol.

`messages` is the format of what crosses the socket, `service` what is asked of a policy and what it answers,
`server` the sockets. The libraries are the extra `serve`; without them importing the package raises
`OtprError`.
"""

from otpr.errors import OtprError

try:
    import msgpack
    import websockets
except ModuleNotFoundError as error:
    raise OtprError(
        f"Serving needs the package {error.name}. Install it with: pip install 'otpr[serve]'"
    ) from error

del msgpack, websockets
