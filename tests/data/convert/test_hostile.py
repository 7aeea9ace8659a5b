"""Data sets made to do harm: each is refused, runs nothing, reads no other file and takes no memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from gymnasium.envs.registration import EnvSpec

from otpr.data.convert.sources import convert, open_source
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.errors import OtprError

FIXTURES = Path(__file__).parents[1] / "fixtures"
Make = Callable[[Path], Path]
CASES: dict[str, tuple[Make, str]] = {}


def case(message: str) -> Callable[[Make], Make]:
    """Register a way to make a hostile data set in a folder: it returns what is to be converted."""

    def register(make: Make) -> Make:
        CASES[make.__name__] = (make, message)
        return make

    return register


# ---------------------------------------------------------------------------- NPZ


def arrays(rows: int = 6) -> dict[str, np.ndarray]:
    return {
        "observations": np.ones((rows, 2)),
        "actions": np.zeros((rows, 1)),
        "rewards": np.arange(rows) % 3 == 2,
        "terminals": np.arange(rows) % 3 == 2,
    }


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def npz(folder: Path, **members: bytes) -> Path:
    """A good set, of which some members are these bytes instead."""
    np.savez(folder / "good.npz", **arrays())
    with (
        zipfile.ZipFile(folder / "good.npz") as good,
        zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            if name.removesuffix(".npy") not in members:
                bad.writestr(name, good.read(name))
        for name, data in members.items():
            bad.writestr(f"{name}.npy", data)
    return folder / "set.npz"


def all_claim(folder: Path, rows: int) -> Path:
    """Every array claims so many rows, and has six."""
    return npz(
        folder,
        observations=header((rows, 2)) + bytes(96),
        actions=header((rows, 1)) + bytes(48),
        rewards=header((rows,)) + bytes(48),
        terminals=header((rows,), "|b1") + bytes(6),
    )


@case("claims shape")
def npz_of_a_billion_rows(folder: Path) -> Path:
    return all_claim(folder, 10**9)


@case("claims shape")
def npz_of_a_million_million_rows(folder: Path) -> Path:
    return all_claim(folder, 10**12)


@case("corrupt")
def npz_whose_directory_lies_too(folder: Path) -> Path:
    """The size in the archive's own directory agrees with the header, and six bytes are there."""
    rows = 10**8
    wide = header((rows, 0))  # so many rows of nothing
    terminals = header((rows,), "|b1")
    path = npz(folder, observations=wide, actions=wide, rewards=wide, terminals=terminals + bytes(6))
    data = path.read_bytes()
    start = data.rindex(b"PK\x01\x02")  # the last entry of the directory: terminals
    size = struct.pack("<I", rows + len(terminals))
    path.write_bytes(data[: start + 24] + size + data[start + 28 :])
    return path


@case(r"terminals: claims shape \(300000000,\).*at most")
def npz_bomb(folder: Path) -> Path:
    """300 MB of zeros that are really in the file, which has 1 MB."""
    rows = 300_000_000
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as bad:
        for name, shape in {"observations": (rows, 0), "actions": (rows, 0), "terminals": (rows,)}.items():
            with bad.open(f"{name}.npy", "w", force_zip64=True) as stream:
                stream.write(header(shape, "|b1"))
                for _ in range(rows // 10**7 if len(shape) == 1 else 0):
                    stream.write(bytes(10**7))
    return folder / "set.npz"


@case("claims shape")
def npz_of_negative_rows(folder: Path) -> Path:
    return npz(folder, rewards=header((-6, -1)) + bytes(48))


@case("compressed in a way that NumPy does not write")
def npz_of_a_compression_that_unpacks_without_bound(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "set.npz", "w", zipfile.ZIP_LZMA) as bad:
        for name in arrays():
            bad.writestr(f"{name}.npy", header((6,)) + bytes(48))
            break
    return folder / "set.npz"


@case("version")
def npz_header_of_100_megabytes(folder: Path) -> Path:
    length = 100 * 2**20
    data = b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + b" " * length
    return npz(folder, rewards=data)


@case("corrupt")
def npz_header_of_64_kilobytes(folder: Path) -> Path:
    return npz(folder, rewards=b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535)


@case("corrupt")
def npz_header_that_is_code(folder: Path) -> Path:
    text = b"__import__('os').system('touch executed')\n"
    return npz(folder, rewards=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


@case("corrupt")
def npz_header_nested_deeply(folder: Path) -> Path:
    text = b"-" * 9000 + b"1\n"
    return npz(folder, rewards=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


class Touch:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


@case(r"rewards: holds Python objects \(a pickle\)")
def npz_with_a_pickle(folder: Path) -> Path:
    return npz(folder, rewards=header((6,), "|O") + pickle.dumps(Touch()))


@case("corrupt")
def npz_that_is_a_pickle(folder: Path) -> Path:
    return npz(folder, rewards=pickle.dumps(Touch()))


@case("more than the 1000")
def npz_of_many_arrays(folder: Path) -> Path:
    return npz(folder, **{f"a{i}": header((0,)) for i in range(3000)})


# ---------------------------------------------------------------------------- HDF5


def outside(folder: Path) -> Path:
    """Another file, with secrets of the right shape."""
    path = folder / "outside" / "secret.hdf5"
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        file["values"] = np.full(6, 0.5)
    return path


def hdf5(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / "set.hdf5", "w") as file:
        for name, array in arrays().items():
            file[name] = array
        change(file)
    return folder / "set.hdf5"


def lift(folder: Path, change: Callable[[h5py.File], None]) -> Path:
    path = Path(shutil.copy(FIXTURES / "lift.hdf5", folder / "lift.hdf5"))
    with h5py.File(path, "a") as file:
        change(file)
    return path


def empty(file: h5py.Group, name: str, shape: tuple[int, ...], kind: str = "f8", **storage: Any) -> None:
    """A data set that claims a shape and has no storage."""
    del file[name]
    file.create_dataset(name, shape, kind, **{"chunks": (1024, *shape[1:]), **storage})


@case(r"terminals: claims shape \(1000000000,\)")
def hdf5_of_a_billion_rows(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        for name, array in arrays().items():
            empty(file, name, (10**9, *array.shape[1:]), array.dtype.str)

    return hdf5(folder, change)


@case("rows 0 to 999999: observations: claims shape")
def hdf5_with_one_episode_of_everything(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        for name, array in arrays().items():
            empty(file, name, (10**6, 64) if array.ndim > 1 else (10**6,), array.dtype.str)

    return hdf5(folder, change)


@case(r"actions: claims shape \(1000000000000, 7\)")
def robomimic_of_a_million_million_rows(folder: Path) -> Path:
    return lift(folder, lambda file: empty(file, "data/demo_0/actions", (10**12, 7)))


@case(r"next_obs/object: claims shape \(1, 100000000\)")
def robomimic_of_one_wide_row(folder: Path) -> Path:
    return lift(folder, lambda file: empty(file, "data/demo_0/next_obs/object", (1, 10**8), chunks=(1, 1000)))


@case(r"\(a chunk\): claims shape \(400000000,\)")
def hdf5_chunk_bomb(folder: Path) -> Path:
    """One row is asked for, and 400 MB are unpacked for it."""
    return hdf5(
        folder,
        lambda file: empty(file, "rewards", (6,), "u1", chunks=(4 * 10**8,), maxshape=(None,)),
    )


@case("link out of the file")
def hdf5_external_link(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        del file["rewards"]
        file["rewards"] = h5py.ExternalLink(str(outside(folder)), "values")

    return hdf5(folder, change)


@case("link out of the file")
def robomimic_external_link(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        del file["data/demo_0/rewards"]
        file["data/demo_0/rewards"] = h5py.ExternalLink(str(outside(folder)), "values")

    return lift(folder, change)


@case("link out of the file")
def soft_link_to_an_external_link(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        file["way/out"] = h5py.ExternalLink(str(outside(folder)), "/")
        del file["data/demo_0/rewards"]
        file["data/demo_0/rewards"] = h5py.SoftLink("/way/out/values")

    return lift(folder, change)


@case("no data set 'rewards'|lie|corrupt|missing")
def soft_link_to_itself(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        del file["data/demo_0/actions"]
        file["data/demo_0/actions"] = h5py.SoftLink("/data/demo_0/actions")

    return lift(folder, change)


@case("its numbers lie in other files")
def hdf5_virtual_dataset(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((6,), "f8")
        layout[:] = h5py.VirtualSource(outside(folder), "values", (6,))
        del file["rewards"]
        file.create_virtual_dataset("rewards", layout)

    return hdf5(folder, change)


@case("its numbers lie in other files")
def robomimic_virtual_dataset(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        steps = file["data/demo_0/rewards"].shape[0]
        layout = h5py.VirtualLayout((steps,), "f8")
        layout[:6] = h5py.VirtualSource(outside(folder), "values", (6,))
        del file["data/demo_0/rewards"]
        file["data/demo_0"].create_virtual_dataset("rewards", layout)

    return lift(folder, change)


@case("its numbers lie in other files")
def hdf5_external_storage(folder: Path) -> Path:
    """Any file's bytes, as they are, would come back as rewards."""

    def change(file: h5py.File) -> None:
        del file["rewards"]
        file.create_dataset("rewards", (6,), "u1", external=[(str(outside(folder)), 0, 6)])

    return hdf5(folder, change)


@case("rewards: holds")
def hdf5_references(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        del file["rewards"]
        file.create_dataset("rewards", (6,), h5py.ref_dtype)

    return hdf5(folder, change)


@case("rewards: holds")
def robomimic_strings(folder: Path) -> Path:
    def change(file: h5py.File) -> None:
        steps = file["data/demo_0/rewards"].shape[0]
        del file["data/demo_0/rewards"]
        file["data/demo_0"].create_dataset("rewards", data=["0"] * steps, dtype=h5py.string_dtype())

    return lift(folder, change)


@case("env_args of 'data'|corrupt")
def robomimic_environment_of_the_wrong_kind(folder: Path) -> Path:
    return lift(folder, lambda file: file["data"].attrs.update(env_args='{"type": 1, "env_kwargs": [1]}'))


@case("env_args of 'data'|corrupt")
def robomimic_environment_nested_deeply(folder: Path) -> Path:
    return lift(folder, lambda file: file["data"].attrs.update(env_args="[" * 30_000))


# ---------------------------------------------------------------------------- Minari


def minari(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A good set with changes to its metadata."""
    episode = Episode(
        observations={"state": np.zeros((4, 2), np.float32)},
        actions=np.zeros((3, 1), np.float32),
        rewards=np.ones(3, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=0,
    )
    write_dataset([episode], folder / "set", task_id=None, expert="e", noise=0.0, seed=0)
    file = folder / "set" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    change(metadata)
    file.write_text(json.dumps(metadata))
    return folder / "set"


def space(**fields: Any) -> str:
    box = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    return json.dumps({**box, **fields})


@case("it has no observation_space")
def minari_environment_that_runs_a_command(folder: Path) -> Path:
    """Without a space, Minari would make the environment: any function of any module, with any arguments."""
    spec = EnvSpec(id="Innocent-v0", entry_point="os:system", kwargs={"command": "touch executed"})

    def change(metadata: dict[str, Any]) -> None:
        del metadata["observation_space"]
        metadata["env_spec"] = spec.to_json()

    return minari(folder, change)


@case("not readable as a Minari data set")
def minari_space_of_a_million_million_numbers(folder: Path) -> Path:
    huge = space(shape=[10**12], low=0.0, high=1.0)
    return minari(folder, lambda metadata: metadata.update(observation_space=huge))


@case("not readable as a Minari data set.*a space is of")
def minari_space_of_long_strings(folder: Path) -> Path:
    huge = space(dtype="S1000000000")
    return minari(folder, lambda metadata: metadata.update(observation_space=huge))


@case("not readable as a Minari data set.*the spec cannot be read")
def minari_spec_of_long_strings(folder: Path) -> Path:
    entry = {"shape": [2], "dtype": "S1000000000", "kind": "vector"}
    return minari(folder, lambda metadata: metadata["spec"].update(observation={"state": entry}))


@case("not readable as a Minari data set.*the spec is 'all of it'")
def minari_spec_that_is_none(folder: Path) -> Path:
    return minari(folder, lambda metadata: metadata.update(spec="all of it"))


@case("has otpr's data format 99; this version reads formats up to 3. Install a newer otpr")
def minari_of_a_later_version(folder: Path) -> Path:
    return minari(folder, lambda metadata: metadata.update(otpr_data_format=99))


@case("not readable as a Minari data set")
def minari_space_nested_deeply(folder: Path) -> Path:
    return minari(folder, lambda metadata: metadata.update(observation_space="[" * 100_000))


@case("link out of the file")
def minari_external_link(folder: Path) -> Path:
    path = minari(folder, lambda metadata: None)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/rewards"]
        file["episode_0/rewards"] = h5py.ExternalLink(str(outside(folder)), "values")
    return path


@case(r"actions: claims shape \(1000000000, 1\)")
def minari_of_a_billion_rows(folder: Path) -> Path:
    path = minari(folder, lambda metadata: None)
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        empty(file, "episode_0/actions", (10**9, 1))
    return path


@case("corrupt")
def minari_of_a_million_million_episodes(folder: Path) -> Path:
    return minari(folder, lambda metadata: metadata.update(total_episodes=10**12))


# ---------------------------------------------------------------------------- LeRobot


def lerobot(folder: Path, change: Callable[[dict[str, Any]], None] = lambda info: None) -> Path:
    path = Path(shutil.copytree(FIXTURES / "lerobot", folder / "set"))
    file = path / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.write_text(json.dumps(info))
    return path


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    """Replace columns of the first file of a folder."""
    file = path / "chunk-000" / "file-000.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    pq.write_table(table, file)
    return path


@case("not readable as LeRobot's metadata")
def lerobot_metadata_nested_deeply(folder: Path) -> Path:
    path = lerobot(folder)
    (path / "meta" / "info.json").write_text("[" * 100_000)
    return path


@case("holds no|has no|numbers in")
def lerobot_shape_that_is_none(folder: Path) -> Path:
    return lerobot(folder, lambda info: info["features"]["action"].update(shape=7))


@case("its longest episode: claims shape")
def lerobot_episode_of_a_million_million_frames(folder: Path) -> Path:
    path = lerobot(folder)
    parquet(path / "meta" / "episodes", {"length": pa.array([10**12, 1, 1])})
    return path


@case("lengths that are no positive numbers")
def lerobot_episode_of_negative_length(folder: Path) -> Path:
    path = lerobot(folder)
    parquet(path / "meta" / "episodes", {"length": pa.array([-3, 1, 1])})
    return path


@case("lengths that are no positive numbers")
def lerobot_lengths_that_are_words(folder: Path) -> Path:
    path = lerobot(folder)
    parquet(path / "meta" / "episodes", {"length": pa.array(["6", "6", "4"])})
    return path


@case("claims 20,000,000 episodes")
def lerobot_of_many_episodes(folder: Path) -> Path:
    path = lerobot(folder)
    zeros = pa.array(np.zeros(20_000_000, np.int64))
    table = pa.table({"episode_index": zeros, "length": zeros})
    pq.write_table(table, path / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    return path


@case("action has 80,000,000 numbers in 16 rows")
def lerobot_bomb(folder: Path) -> Path:
    """320 MB of zeros, written as a few runs."""
    path = lerobot(folder)
    rows, width = 16, 5_000_000
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * width, np.float32)), width)
    parquet(path / "data", {"action": zeros})
    assert (path / "data" / "chunk-000" / "file-000.parquet").stat().st_size < 2**20
    return path


# ---------------------------------------------------------------------------- what is done with them

# In one process for all, so that nothing else is in its memory. What does not fit is refused by the system,
# and is then no OtprError. Writing 5 to clear_refs sets the peak to what is in use.
MEASURED = """if True:
    import gc, json, re, resource, sys, traceback
    from pathlib import Path
    from otpr.data.convert.sources import convert, open_source
    from otpr.data.inspect import inspect
    from otpr.errors import OtprError

    def memory(name):
        return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

    limit = int((memory("VmSize") + 2048) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results = {}
    for name, path in json.loads(sys.stdin.read()).items():
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
        before, error = memory("VmHWM"), "nothing was refused"
        try:
            convert(open_source(path), Path(path).parent / "out")
        except OtprError as refusal:
            error = f"OtprError: {refusal}"
        except BaseException:
            error = traceback.format_exc()
        growth = memory("VmHWM") - before
        for left in Path().iterdir():  # the commands in the files would leave something here
            error = f"{left} was left by code in the file; {error}"
            left.unlink()
        results[name] = (error, growth)
    print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float, Path]]:
    """Of each case, the error, the MiB by which the peak of memory grew, and the folder."""
    root = tmp_path_factory.mktemp("hostile")
    paths = {}
    for name, (make, _) in CASES.items():
        (root / name).mkdir()
        paths[name] = str(make(root / name))
    (root / "cwd").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", MEASURED],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
        cwd=root / "cwd",
        timeout=300,
    )
    return {name: (*found, root / name) for name, found in json.loads(result.stdout).items()}


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize("name", CASES)
def test_refused_without_memory(results: dict[str, tuple[str, float, Path]], name: str) -> None:
    error, mib, folder = results[name]
    assert error.startswith("OtprError") and re.search(CASES[name][1], error), error
    assert len(error) < 1000
    assert mib < 60
    assert not (folder / "out").exists()


def test_names_lead_nowhere(tmp_path: Path) -> None:
    """An archive's names are names, not places to write to."""
    path = npz(tmp_path, **{"../../../escaped": header((6,)) + bytes(48), "/tmp/absolute": header((0,))})
    before = sorted(tmp_path.rglob("*"))
    assert convert(open_source(path), tmp_path / "sub" / "set").episodes == 2
    new = {file.relative_to(tmp_path).parts[0] for file in set(tmp_path.rglob("*")) - set(before)}
    assert new == {"sub"}
    assert not list(tmp_path.parent.rglob("*escaped*"))


def test_training_refuses_a_stored_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = minari_environment_that_runs_a_command(tmp_path)
    with pytest.raises(OtprError, match="observation_space"):
        read_dataset(path)
    assert not (tmp_path / "executed").exists()


def test_soft_links_inside_the_file_are_followed(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["elsewhere/values"] = file["rewards"][()]
        del file["rewards"]
        file["rewards"] = h5py.SoftLink("/elsewhere/values")

    assert convert(open_source(hdf5(tmp_path, change)), tmp_path / "out").successes == 2  # by the rewards
