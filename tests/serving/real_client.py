"""openpi's own client asks a server, and prints as JSON what came back: `real_client.py FUNCTION PORT KEY`.

It is run in the environment that `make test-serving` prepares, without otpr.
"""

import json
import sys

import numpy as np
from openpi_client import action_chunk_broker, msgpack_numpy, websocket_client_policy

STATE = np.linspace(-1.5, 2.5, 39)


def answers(port: int, key: str) -> None:
    """The metadata and two replies, the second to the same request under the entry's own name."""
    client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, key)
    said = {"metadata": client.get_server_metadata()}
    request = {"observation/state": STATE, "prompt": "insert the peg", "seed": 7}
    reply = client.infer(request)
    said["dtype"], said["timing"] = str(reply["actions"].dtype), sorted(reply["server_timing"])
    said["actions"] = reply["actions"].tolist()
    again = client.infer({"state": STATE.astype(np.float32), "seed": np.int64(7)})
    said["again"], said["timing again"] = again["actions"].tolist(), sorted(again["server_timing"])
    print(json.dumps(said))


def one_at_a_time(port: int, key: str) -> None:
    """The actions of a plan by openpi's broker, which asks once for all of them."""
    client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, key)
    n = client.get_server_metadata()["actions"]["shape"][0]
    broker = action_chunk_broker.ActionChunkBroker(client, n)
    print(json.dumps([broker.infer({"state": STATE, "seed": 7})["actions"].tolist() for _ in range(n)]))


def refused(port: int, key: str) -> None:
    """What the client raises for an observation of another shape."""
    client = websocket_client_policy.WebsocketClientPolicy("127.0.0.1", port, key)
    try:
        client.infer({"state": STATE[:3]})
    except RuntimeError as error:
        print(json.dumps(str(error)))


def unpack(path: str, _: str) -> None:
    """What openpi's unpacker reads in a file."""
    with open(path, "rb") as file:
        found = msgpack_numpy.unpackb(file.read())
    print(json.dumps({name: [str(array.dtype), array.tolist()] for name, array in found.items()}))


if __name__ == "__main__":
    what, place, key = sys.argv[1:]
    globals()[what](int(place) if place.isdigit() else place, key)
