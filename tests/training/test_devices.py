"""The learner on 2, 4 and 8 devices: the same numbers as on one, and a share of the replay on each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from otpr.cli.main import main
from otpr.devices import check_devices, divided, mesh_of, on_each, on_first
from otpr.errors import OtprError
from otpr.trees import read_arrays
from tests.training.devices_child import COUNTS

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SEVERAL = [(algorithm, count) for algorithm, counts in COUNTS.items() for count in counts[1:]]
TOLERANCE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


class Child(NamedTuple):
    told: dict[str, Any]
    folder: Path

    def arrays(self, algorithm: str, count: int) -> dict[str, np.ndarray]:
        return read_arrays(self.folder / f"{algorithm}-{count}.safetensors")


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Child:
    folder = tmp_path_factory.mktemp("devices")
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("src", "tests", ".")),
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8",
    }
    command = [sys.executable, "-m", "tests.training.devices_child", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return Child(json.loads(done.stdout.splitlines()[-1]), folder)


@pytest.mark.parametrize(("algorithm", "count"), SEVERAL)
def test_several_devices_learn_what_one_learns(child: Child, algorithm: str, count: int):
    one, several = child.arrays(algorithm, 1), child.arrays(algorithm, count)
    assert one.keys() == several.keys()
    for name, array in one.items():
        if name.startswith("experience") or array.dtype.kind != "f":  # copied, or drawn by keys
            np.testing.assert_array_equal(several[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(several[name], array, **TOLERANCE, err_msg=name)
    metrics = child.told[f"{algorithm}-1"]["metrics"]
    assert child.told[f"{algorithm}-{count}"]["metrics"] == pytest.approx(metrics, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize(("algorithm", "count"), SEVERAL)
def test_each_device_has_its_share_of_the_replay_and_the_whole_agent(
    child: Child, algorithm: str, count: int
):
    one, told = child.told[f"{algorithm}-1"], child.told[f"{algorithm}-{count}"]
    assert told["bytes_of_a_device"] * count == told["bytes"]
    assert told["bytes_of_a_device"] == pytest.approx(one["bytes"] / count, rel=0.01)
    assert (told["devices_of_agent"], told["agent_is_whole"]) == ([count], True)


@pytest.mark.parametrize("count", COUNTS["otpr"][1:])
def test_no_device_ever_has_a_whole_column_of_the_store(child: Child, count: int):
    columns = child.told[f"otpr-{count}"]["columns"]
    assert columns["whole"] == []
    assert {name.partition("[")[0] for name in columns["share"]} == {"f32", "s32", "pred"}


@pytest.mark.parametrize(
    ("first", "name", "rows"),
    [("one", "four", 20), ("one", "resumed", 20), ("seeing-one", "seeing-four", 10)],
)
def test_a_run_is_that_of_one_device_also_when_it_goes_on_with_another_number(
    child: Child, first: str, name: str, rows: int
):
    one, other = child.told["runs"][first], child.told["runs"][name]
    assert len(one) > rows
    assert [row.keys() for row in other] == [row.keys() for row in one]
    for given, expected in zip(other, one, strict=True):
        assert given == pytest.approx(expected, rel=1e-3, abs=1e-4)


# ------------------------------------------------------------------------------------- here, on one device


def test_one_device_is_no_mesh_and_leaves_everything_as_it_is():
    tree = {"a": np.ones(3), "b": None}
    assert mesh_of(1) is None
    assert on_each(tree, None) is tree and divided(tree, None) is tree
    assert on_first(tree) == tree


@pytest.mark.parametrize(
    ("count", "parts", "message"),
    [
        (0, (8,), "--devices must be at least 1, given 0"),
        (2, (8,), r"--devices 2: JAX sees 1 of kind 'cpu' here. Give at most 1"),
        (2, (), "dppo draws none. Leave it out"),
    ],
)
def test_devices_that_cannot_learn_are_refused(count: int, parts: tuple[int, ...], message: str):
    with pytest.raises(OtprError, match=message):
        check_devices(count, "dppo", parts)


def test_batches_that_do_not_divide_are_refused(monkeypatch: pytest.MonkeyPatch):
    import jax

    monkeypatch.setattr(jax, "devices", lambda: [*"abcdefgh"])
    check_devices(8, "otpr", (96, 32))
    with pytest.raises(OtprError, match="have 96 and 32 transitions; expected multiples of 6"):
        check_devices(6, "otpr", (96, 32))


def test_nothing_is_written_where_devices_are_lacking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", "--devices", "3"]) == 2
    assert "--devices 3: JAX sees 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
