"""Files that are whole and still cannot be read: each gets its own sentence, and what to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from otpr.cli.main import main
from otpr.data.convert.sources import open_source
from otpr.data.datasets import read_dataset
from otpr.errors import OtprError

HOLD = """
import os, sys, h5py
file = h5py.File(sys.argv[1], "w", libver="latest")
file["observations"] = [1.0, 2.0]
file.flush()
if sys.argv[2] == "crash":
    file.swmr_mode = True
    os._exit(0)
print("open", flush=True)
sys.stdin.read()
"""


def set_of(path: Path, **options: object) -> Path:
    steps = 6
    with h5py.File(path, "w") as file:
        for name, values in {
            "observations": np.zeros((steps, 3)),
            "actions": np.zeros((steps, 2)),
            "rewards": np.zeros(steps),
            "timeouts": np.arange(steps) % 3 == 2,
        }.items():
            file.create_dataset(name, data=values, chunks=True, **options)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(OtprError) as caught:
        list(open_source(path).episodes())
    assert "truncated or corrupt" not in str(caught.value)
    assert "download it again" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Path]:
    """A file that another process is writing."""
    file = tmp_path / "busy.hdf5"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file), "hold"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "open\n"
    yield file
    process.communicate("")


def test_one_that_another_process_writes(busy: Path):
    assert refusal(busy).startswith(f"{busy} is locked: another process is writing it (")
    assert "Wait until that has closed it" in refusal(busy)


def test_one_that_was_not_closed(tmp_path: Path):
    file = tmp_path / "crashed.hdf5"
    subprocess.run([sys.executable, "-c", HOLD, str(file), "crash"], check=True)
    assert refusal(file).startswith(f"{file} was not closed by the program that wrote it")
    assert "h5clear --status" in refusal(file)


def test_one_that_this_user_may_not_read(ordinary_user: Path):
    secret = ordinary_user / "secret"
    assert refusal(secret).startswith(f"{secret} may not be read by this user (PermissionError")


def test_a_folder_that_this_user_may_not_enter(ordinary_user: Path):
    closed = ordinary_user / "closed"
    assert refusal(closed).startswith(f"{closed} may not be read by this user (PermissionError")
    with pytest.raises(OtprError, match="may not be read by this user"):
        read_dataset(closed)


@pytest.fixture
def blosc(tmp_path: Path) -> Path:
    """As compressed with Blosc: LZF's number is changed to Blosc's; its name stays."""
    path = set_of(tmp_path / "blosc.hdf5", compression="lzf")
    content = path.read_bytes()
    lzf, blosc = ((number).to_bytes(2, "little") for number in (32000, 32001))
    assert content.count(lzf) == 4  # one an array
    path.write_bytes(content.replace(lzf, blosc))
    return path


def test_one_that_is_compressed_with_a_filter_that_is_missing(
    blosc: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)  # importing it fails
    assert "is compressed with HDF5's filter 32001 (lzf), which is not installed" in refusal(blosc)
    assert "pip install hdf5plugin" in refusal(blosc)
    assert main(["data", "inspect", str(blosc)]) == 2
    assert "filter 32001" in capsys.readouterr().err


def test_the_plugin_is_taken_where_it_is_installed(
    blosc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stand-in for hdf5plugin, whose import makes the filter available."""
    plugin = "import h5py\nh5py.h5z.filter_avail = lambda number: True\n"
    (tmp_path / "hdf5plugin.py").write_text(plugin)
    monkeypatch.setattr(h5py.h5z, "filter_avail", h5py.h5z.filter_avail)  # put back afterwards
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hdf5plugin", raising=False)
    assert open_source(blosc).keys == (("observations", 3),)
    sys.modules.pop("hdf5plugin")
