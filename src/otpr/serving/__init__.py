"""Serving a policy over openpi's WebSocket protocol.

`messages` is the wire format, `service` handles requests, and `server` handles sockets. The libraries are in
the extra `serve`; without them, importing the package raises `OtprError`.
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
