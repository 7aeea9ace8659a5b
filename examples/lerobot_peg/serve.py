"""A policy of LeRobot behind openpi's protocol, in PyTorch: `python -m lerobot_peg.serve FOLDER --port 8100`.

A request has `observation/state`, the numbers that `peg_task` keeps, and the reply has the next `actions`.
Each stands alone.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgpack
import numpy as np
import torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import make_pre_post_processors
from peg_task import HAND
from websockets.sync.server import ServerConnection, serve


def array(found: dict[Any, Any]) -> Any:
    """An array as openpi's clients send it; any other map as it is."""
    if b"__ndarray__" not in found:
        return found
    return np.frombuffer(found[b"data"], found[b"dtype"]).reshape(found[b"shape"])


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy")
    parser.add_argument("--port", type=int, default=8100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    before, after = make_pre_post_processors(policy.config, options.policy)

    def decide(state: np.ndarray) -> np.ndarray:
        numbers = torch.tensor(state, dtype=torch.float32)
        seen = before({"observation.state": numbers[:HAND], "observation.environment_state": numbers[HAND:]})
        policy.reset()
        with torch.inference_mode():
            # the first asks the network, the others take what is left of its plan
            plan = [after(policy.select_action(seen)) for _ in range(policy.config.n_action_steps)]
        return torch.cat(plan).numpy().astype(np.float64)

    def answer(connection: ServerConnection) -> None:
        connection.send(msgpack.packb({"policy": "LeRobot's"}))
        for message in connection:
            request = msgpack.unpackb(message, object_hook=array)
            actions = decide(np.asarray(request["observation/state"]))
            said = {
                b"__ndarray__": True,
                b"data": actions.tobytes(),
                b"dtype": actions.dtype.str,
                b"shape": actions.shape,
            }
            connection.send(msgpack.packb({"actions": said}))

    with serve(answer, "127.0.0.1", options.port, compression=None, max_size=None) as server:
        print(f"listening at ws://127.0.0.1:{options.port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
