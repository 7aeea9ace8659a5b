"""Act with the policy in this folder, exported by otpr: numpy and onnxruntime are all that is needed.

    from act import Policy

    policy = Policy()
    actions = policy.act({"state": observation}, seed=0)

`spec.json` says what an observation has, how many actions are returned, and in which bounds they are. This
file may be copied and changed as you like.
"""

# pyright: basic, reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

NOISE = "noise/"
"""How the names of inputs begin that are drawn here."""


class Policy:
    """A policy in `policy.onnx`.

    Args:
        folder: in which it lies; left out, that of this file.
        threads: how many cores it may use; 0: as onnxruntime chooses.
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
            observation: raw, by entry name, of the shapes and types of the inputs in `spec.json`; where the
                policy sees one observation, its axis may be left out.
            seed: of the draw; another seed draws other actions.
        """
        random = np.random.default_rng(seed)
        given = dict(observation)
        for entry in self.session.get_inputs():
            if entry.name.startswith(NOISE):
                draw = random.gumbel if entry.name == f"{NOISE}choice" else random.standard_normal
                given[entry.name] = draw(size=entry.shape).astype(np.float32)
            elif entry.shape[0] == 1 and np.ndim(given[entry.name]) == len(entry.shape) - 1:
                given[entry.name] = np.asarray(given[entry.name])[None]  # the only one of its history
        (actions,) = self.session.run(["actions"], given)
        return np.asarray(actions)
