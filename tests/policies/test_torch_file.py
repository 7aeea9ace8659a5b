"""Files of `torch.save`: what they hold, and that nothing in them is run."""

from __future__ import annotations

import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_zip import archive, number, pickled, save, saved, tensor

from otpr.errors import OtprError
from otpr.policies.convert.torch_file import LEGACY, RefusedPickle, is_torch_file, read_torch
from otpr.storage import DamagedFile

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def file_of(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "file.pt").write_bytes(content)
    return tmp_path / "file.pt"


def program(operations: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return archive(b"\x80\x02" + operations + b".", storages or {"0": NUMBERS.tobytes()})


# ------------------------------------------------------------------------------------------- what they hold


def test_containers_and_tensors_of_every_type(tmp_path: Path) -> None:
    types = ("float64", "float32", "float16", "int64", "int32", "uint8", "bool")
    value = {
        "numbers": {name: (NUMBERS % 2).astype(name) for name in types},
        "epoch": 12,
        "list": [1, 2.5, None, True, False, "text", (), (1, (2, 3))],
        7: NUMBERS[:0],
    }
    found = read_torch(save(value, tmp_path / "file.pt"))
    assert is_torch_file(tmp_path / "file.pt")
    for name in types:
        assert found["numbers"][name].dtype == np.dtype(name)
        np.testing.assert_array_equal(found["numbers"][name], value["numbers"][name])
    assert (found["epoch"], found["list"], found[7].shape) == (12, value["list"], (0, 3))


def test_views_of_one_storage(tmp_path: Path) -> None:
    whole, transposed = tensor("FloatStorage", "0", 6, 0, (2, 3), (3, 1)), ((3, 2), (1, 3))
    views = [tensor("FloatStorage", "0", 6, 0, *transposed), tensor("FloatStorage", "0", 6, 4, (2,), (1,))]
    found = read_torch(file_of(program(b"(" + whole + b"".join(views) + b"t"), tmp_path))
    for array, expected in zip(found, (NUMBERS, NUMBERS.T, NUMBERS.ravel()[4:]), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_bfloat16_and_a_parameter(tmp_path: Path) -> None:
    bits = (NUMBERS.view(np.uint32) >> 16).astype(np.uint16)
    inner = tensor("BFloat16Storage", "0", 6, 0, (2, 3), (3, 1))
    whole = b"ctorch._utils\n_rebuild_parameter\n(" + inner + b"\x88ccollections\nOrderedDict\n)RtR"
    found = read_torch(file_of(program(whole, {"0": bits.tobytes()}), tmp_path))
    np.testing.assert_array_equal(found.astype(np.float32), NUMBERS)  # of few bits, they are exact


def test_state_dicts_have_attributes(tmp_path: Path) -> None:
    content = b"ccollections\nOrderedDict\n)R" + pickled("weight", {}) + b"K\x01s"
    content += b"}" + pickled("_metadata", {}) + b"}sb"
    assert read_torch(file_of(program(content), tmp_path)) == {"weight": 1}


# --------------------------------------------------------------------------------------- what could run code


class Malicious:
    def __init__(self, function: Any, *arguments: Any):
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


PROTOCOLS = [2, 3, 4, 5]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), "posix.system"),
        (eval, ("open('executed', 'w')",), "eval"),
        (exec, ("open('executed', 'w')",), "exec"),
        (getattr, (os, "system"), "getattr"),
        (open, ("executed", "w"), "open"),
    ],
)
def test_nothing_is_called(
    function: Any,
    arguments: tuple[Any, ...],
    name: str,
    deep: bool,
    protocol: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] is os:
        arguments = ("os", "system")  # a module cannot be pickled
    value: Any = Malicious(function, *arguments)
    value = {"model": [1, {"weight": value}]} if deep else value
    file = file_of(archive(pickle.dumps(value, protocol), {}), tmp_path)
    with pytest.raises(RefusedPickle, match=rf"its pickle uses \S*{name}, which could run code") as raised:
        read_torch(file)
    assert raised.value.used.endswith(name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"cdill._dill\n_create_type\n", r"uses dill\._dill\._create_type"),
        (b"comegaconf.dictconfig\nDictConfig\n", r"uses omegaconf\.dictconfig\.DictConfig"),
        (b"ctorch\nload\n", r"uses torch\.load"),
        (b"ctorch.storage\n_load_from_bytes\n", r"uses torch\.storage\._load_from_bytes"),
        (b"ctorch\nFloatStorage.__class__\n", r"uses torch\.FloatStorage\.__class__"),
        (b"ccollections\nOrderedDict\n)\x81", "the operation NEWOBJ"),
        (b"(iposix\nsystem\n", "the operation INST"),
        (b"(ccollections\nOrderedDict\no", "the operation OBJ"),
        (b"\x82\x01", "the operation EXT1"),
        (b"Pidentity\n", "the operation PERSID"),
        (b"\x8f", "the operation EMPTY_SET"),
        (b"ccollections\nOrderedDict\n(K\x01tR", "OrderedDict is called with something else"),
        (b"ctorch\nFloatStorage\n)R", "FloatStorage is called with something else"),
        (b"K\x01)R", "it calls something that is no name"),
        (b"ctorch\nFloatStorage\n", "it ends with something that is no value"),
        (b"}K\x05b", "is damaged"),
        (b"]K\x05b", "finds no dict"),
        (b"K\x01K\x02", "is damaged"),
        (b"(", "is damaged"),
        (b"K\x01a", "is damaged"),
        (b"h\x05", "is damaged"),
        (b"}](K\x01eK\x02s", "a key that is neither a text nor a small number"),
        (b"}" + number(2**61 - 1) + b"K\x02s", "a key that is neither a text nor a small number"),
        (b"K\x01Q", "is damaged"),
    ],
)
def test_operations_of_no_state_dict_are_refused(operations: bytes, message: str, tmp_path: Path) -> None:
    if operations == b"}K\x05b":  # a state of a dictionary is dropped, whatever it is
        assert read_torch(file_of(program(operations), tmp_path)) == {}
        return
    with pytest.raises(OtprError, match=message):
        read_torch(file_of(program(operations), tmp_path))


# ------------------------------------------------------------------------------------ what claims too much


@pytest.mark.parametrize(
    "claimed",
    [
        tensor("FloatStorage", "0", 6, 0, (10**9, 10**9), (0, 0)),
        tensor("FloatStorage", "0", 6, 0, (7,), (1,)),
        tensor("FloatStorage", "0", 6, 5, (2,), (1,)),
        tensor("FloatStorage", "0", 6, 0, (2, 3), (4, 1)),
        tensor("FloatStorage", "0", 6, -1, (2,), (1,)),
        tensor("FloatStorage", "0", 6, 0, (2,), (-1,)),
        tensor("FloatStorage", "0", 6, 0, (-2,), (1,)),
        tensor("FloatStorage", "0", 6, 0, (2,), (1, 1)),
        tensor("FloatStorage", "0", 6, 10**30, (2,), (1,)),
        tensor("FloatStorage", "0", 10**18, 0, (2,), (1,)),
        tensor("DoubleStorage", "0", 6, 0, (2,), (1,)),
        tensor("FloatStorage", "1", 6, 0, (2,), (1,)),
        tensor("FloatStorage", "../../etc/passwd", 6, 0, (2,), (1,)),
        tensor("FloatStorage", "0", 6, 0, (1,) * 40, (1,) * 40),
    ],
)
def test_a_tensor_cannot_leave_its_storage(claimed: bytes, tmp_path: Path) -> None:
    with pytest.raises(DamagedFile):
        read_torch(file_of(program(claimed), tmp_path))


def test_sizes_are_not_believed(tmp_path: Path) -> None:
    bomb = archive(b"\x80\x02}.", {"0": bytes(2**20)}, compression=zipfile.ZIP_DEFLATED)
    memo = program(b"}r" + b"\xff" * 4)  # puts the value where 64 GB would lie before it
    texts = program(b"X" + b"\xff" * 4)
    many = program(b"]" * 2**22)
    for content, message in (
        (bomb, "more than its own size|is compressed"),
        (texts, "is damaged"),
        (many, "has more than 4,194,304 bytes"),
    ):
        tracemalloc.start()
        with pytest.raises(DamagedFile, match=message):
            read_torch(file_of(content, tmp_path))
        assert tracemalloc.get_traced_memory()[1] < 2**25
        tracemalloc.stop()
    assert read_torch(file_of(memo, tmp_path)) == {}


def test_many_views_take_no_memory_of_their_own(tmp_path: Path) -> None:
    storage = np.zeros(2**20, np.float32)
    views = b"](" + tensor("FloatStorage", "0", 2**20, 0, (2**20,), (1,)) * 500 + b"e"
    file = file_of(program(views, {"0": storage.tobytes()}), tmp_path)
    tracemalloc.start()
    assert len(read_torch(file)) == 500
    assert tracemalloc.get_traced_memory()[1] < 4 * storage.nbytes
    tracemalloc.stop()


# -------------------------------------------------------------------------------------------- what is damaged


def test_every_cut_and_every_changed_byte_is_an_error_or_a_value(tmp_path: Path) -> None:
    whole = saved({"model": {"weight": NUMBERS, "bias": NUMBERS[0]}, "epoch": 3})
    file = tmp_path / "file.pt"
    refused = 0
    changed = [whole[:n] for n in range(0, len(whole), 3)]
    for place in range(0, len(whole), 2):
        content = bytearray(whole)
        content[place] ^= 0x55
        changed.append(bytes(content))
    for content in changed:
        file.write_bytes(content)
        try:
            read_torch(file)
        except OtprError as error:
            refused += str(file) in str(error)
    assert refused > len(changed) / 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (b"PK\x03\x04", "is damaged"),
        (LEGACY + bytes(100), "PyTorch's format before version 1.6"),
        (archive(b"\x80\x02}.", {}, byteorder="big"), "big-endian"),
        (archive(b"", {}), "is damaged"),
    ],
)
def test_other_files_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(OtprError, match=message):
        read_torch(file_of(content, tmp_path))


def test_folders_pipes_and_other_archives(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    np.savez(tmp_path / "arrays.npz", a=NUMBERS)
    for name, message in (("", "no regular"), ("pipe", "no regular"), ("arrays.npz", "without data.pkl")):
        assert not is_torch_file(tmp_path / name)
        with pytest.raises(DamagedFile, match=message):
            read_torch(tmp_path / name)
    with pytest.raises(DamagedFile):
        read_torch(tmp_path / "missing.pt")
