"""openpi's own client, from its own environment, against our server: `make test-serving`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_server import SHOWN, running

from otpr.serving.messages import pack
from otpr.serving.service import Service
from otpr.spec import Spec

HERE = Path(__file__).parent
PYTHON = HERE.parents[1] / ".venv-openpi" / "bin" / "python"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="openpi's client is there after `make test-serving`"
)

STATE = np.linspace(-1.5, 2.5, 39)


def by_the_client(function: str, place: int | str, key: str = "") -> Any:
    done = subprocess.run(
        [PYTHON, "-I", HERE / "real_client.py", function, str(place), key],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_reads_the_metadata_and_the_same_actions():
    service = Service(SHOWN, {"task": "t"})
    with running(service, api_key="k") as server:
        said = by_the_client("answers", server.port, "k")
    assert said["metadata"] == json.loads(json.dumps(service.metadata))
    assert Spec.from_json(said["metadata"]["spec"]) == SHOWN.spec
    expected = SHOWN.act(STATE, 7)
    for name in ("actions", "again"):
        np.testing.assert_array_equal(np.asarray(said[name], np.float32), expected)
    assert said["dtype"] == "float64"
    assert said["timing"] == ["infer_ms", "wait_ms"]
    assert said["timing again"] == ["infer_ms", "prev_total_ms", "wait_ms"]


def test_its_broker_executes_a_reply_action_by_action():
    with running() as server:
        said = by_the_client("one_at_a_time", server.port)
    np.testing.assert_array_equal(np.asarray(said, np.float32), SHOWN.act(STATE, 7))


def test_it_raises_what_a_refusal_says():
    with running() as server:
        said = by_the_client("refused", server.port)
    assert said.startswith(
        "Error in inference server:\nobservation has shape (3,), the policy expects (39,)."
    )


def test_its_packer_writes_what_is_stored_and_its_unpacker_reads_ours(tmp_path: Path):
    stored = (HERE / "request.msgpack").read_bytes()
    copy = tmp_path / "renew.py"
    copy.write_text((HERE / "renew.py").read_text())
    subprocess.run([PYTHON, "-I", copy], check=True)
    assert (tmp_path / "request.msgpack").read_bytes() == stored
    arrays = {
        "one": np.linspace(0, 1, 6).reshape(2, 3),
        "two": np.arange(4, dtype=np.uint8),
        "three": np.zeros((0, 2), np.float16),
        "four": np.float32(1.5),
    }
    (tmp_path / "ours.msgpack").write_bytes(pack(arrays))
    said = by_the_client("unpack", tmp_path / "ours.msgpack")
    assert said == {name: [str(array.dtype), array.tolist()] for name, array in arrays.items()}
