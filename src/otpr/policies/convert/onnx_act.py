"""Act with the policy in this folder, which otpr exported. Only numpy and onnxruntime are needed.

    from act import Policy

    policy = Policy()
    actions = policy.act({"state": observation}, seed=0)

`spec.json` describes the observation, the number of returned actions and their bounds. You may copy and
change this file freely.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

NOISE = "noise/"
"""Prefix of the names of inputs that are drawn here."""


class Policy:
    """A policy in `policy.onnx`.

    Args:
        folder: the folder of `policy.onnx`; by default the folder of this file.
        threads: number of cores to use; 0 lets onnxruntime choose.
    """

    def __init__(self, folder: str | Path | None = None, threads: int = 0):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; otherwise it lists what it removes from the model
        file = Path(folder or Path(__file__).parent) / "policy.onnx"
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def act(self, observation: dict[str, np.ndarray], seed: int) -> np.ndarray:
        """The actions to execute for one observation, (execute, action_dim), in the environment's own units.

        Args:
            observation: raw, by entry name, with the shapes and types of the inputs in `spec.json`. The axis
                of the history may be left out if its length is 1.
            seed: seed of the draw; the same seed gives the same actions.
        """
        random = np.random.default_rng(seed)
        given = dict(observation)
        for entry in self.session.get_inputs():
            if entry.name.startswith(NOISE):
                draw = random.gumbel if entry.name == f"{NOISE}choice" else random.standard_normal
                given[entry.name] = draw(size=entry.shape).astype(np.float32)
            elif entry.shape[0] == 1 and np.ndim(given[entry.name]) == len(entry.shape) - 1:
                given[entry.name] = np.asarray(given[entry.name])[None]  # a history of length 1
        (actions,) = self.session.run(["actions"], given)
        return np.asarray(actions)
