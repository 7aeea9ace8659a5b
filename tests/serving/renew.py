"""Write request.msgpack anew, by openpi-client: `.venv-openpi/bin/python tests/serving/renew.py`.

It is run in the environment that `make test-serving` prepares, without otpr.
"""

from pathlib import Path

import numpy as np

REQUEST = {
    "observation/state": np.linspace(-1.5, 2.5, 39),
    "prompt": "insert the peg",
    "seed": np.int64(7),
    "budget_ms": np.float32(12.5),
    "flags": np.array([[True, False]]),
    "picture": np.arange(24, dtype=np.uint8).reshape(2, 4, 3),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "nothing": np.zeros((0, 3), np.float16),
    "list": [1, -2.5, None, True, b"bytes", "text"],
}

if __name__ == "__main__":
    from openpi_client import msgpack_numpy  # which the tests, that read the request here, do without

    Path(__file__).with_name("request.msgpack").write_bytes(msgpack_numpy.Packer().pack(REQUEST))
