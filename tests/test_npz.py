"""NumPy archives: the weights of policies of formats 1 to 3 lie in them, and the data sets of others."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otpr.npz import read_npz
from otpr.storage import DamagedFile

DTYPES = ("?", "i1", "i4", "i8", "u1", "u4", "f2", "f4", "f8", "c8", ">f4")


@given(st.data())
def test_arrays_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
    arrays = data.draw(
        st.dictionaries(
            st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=8),
            st.sampled_from(DTYPES).flatmap(lambda dtype: hnp.arrays(dtype, shapes)),
            min_size=1,
            max_size=4,
        )
    )
    file = tmp_path_factory.getbasetemp() / "arrays.npz"
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name + ".npy", content.getvalue())
    loaded = read_npz(file)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()


class Trap:
    """Creates a file where it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.file,))


def npy(header: str | bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.encode() if isinstance(header, str) else header
    length = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + body


def dictionary(descr: str = "'<f4'", shape: str = "(3,)", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


BODY = bytes(12)
HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "a pickle": lambda sprung: pickle.dumps(Trap(sprung)),
    "a pickle as an array": lambda sprung: npy(dictionary("'|O'", "()"), pickle.dumps(Trap(sprung))),
    "a pickle as a field": lambda sprung: npy(dictionary("[('a', '|O')]"), pickle.dumps(Trap(sprung))),
    "code as a header": lambda sprung: npy(f"__import__('pathlib').Path({str(sprung)!r}).touch()\n"),
    "code in a header": lambda sprung: npy(dictionary(shape="(__import__('os').abort(),)"), BODY),
    "a billion elements": lambda _: npy(dictionary(shape=f"({10**9},)"), BODY),
    "10^18 elements": lambda _: npy(dictionary(shape=f"({10**9}, {10**9})"), BODY),
    "elements beyond 64 bits": lambda _: npy(dictionary(shape=f"({10**17}, {10**17}, {10**17})"), BODY),
    "no elements of a huge shape": lambda _: npy(dictionary(shape=f"(0, {10**17}, {10**17})")),
    "a thousand dimensions": lambda _: npy(dictionary(shape="(" + "1, " * 1000 + ")"), bytes(4)),
    "a negative length": lambda _: npy(dictionary(shape="(-3,)"), BODY),
    "an oversized header": lambda _: npy(b" " * 10**6, BODY, version=b"\x02\x00"),
    "a header said to have 4 GB": lambda _: b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + BODY,
    "a nested header": lambda _: npy("(" * 30_000 + ")" * 30_000 + "\n"),
    "strings": lambda _: npy(dictionary("'<U3'"), bytes(36)),
    "an unknown type": lambda _: npy(dictionary("'<f3'"), bytes(9)),
    "more bytes than elements": lambda _: npy(dictionary(), bytes(13)),
    "fewer bytes than elements": lambda _: npy(dictionary(), bytes(11)),
    "an array stored column by column": lambda _: npy(dictionary(shape="(3, 1)", order="True"), BODY),
    "nothing": lambda _: b"",
}


def archive_of(content: bytes, name: str = "x.npy", **options: Any) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_array_is_refused_without_running_or_allocating(tmp_path: Path, kind: str):
    file = tmp_path / "weights.npz"
    file.write_bytes(archive_of(HOSTILE[kind](tmp_path / "sprung")))
    tracemalloc.start()
    with pytest.raises(DamagedFile, match=r"weights\.npz is damaged \("):
        read_npz(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * file.stat().st_size + 2**20
    assert [path.name for path in tmp_path.iterdir()] == ["weights.npz"]


def test_trap_of_these_tests_springs_where_it_is_unpickled(tmp_path: Path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))  # noqa: S301 - our own
    assert (tmp_path / "sprung").exists()


def test_bomb_is_not_inflated(tmp_path: Path):
    """A gigabyte of zeros takes a megabyte on the disk."""
    file = tmp_path / "bomb.npz"
    zeros = npy(dictionary(shape=f"({10**7},)"), bytes(4 * 10**7))
    file.write_bytes(archive_of(zeros, compression=zipfile.ZIP_DEFLATED))
    assert file.stat().st_size < 10**5
    with pytest.raises(DamagedFile, match="claims to hold more than its own size"):
        read_npz(file)
    file.write_bytes(archive_of(npy(dictionary(), BODY), compression=zipfile.ZIP_DEFLATED) + bytes(1000))
    with pytest.raises(DamagedFile, match="is compressed"):
        read_npz(file)


@pytest.mark.parametrize("name", ["../../x.npy", "/x.npy", "C:\\x.npy", "a/../../x.npy", "~/x.npy"])
def test_name_in_an_archive_is_no_path(tmp_path: Path, name: str):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (place / "weights.npz").write_bytes(archive_of(npy(dictionary(), BODY), name))
    [(found, array)] = read_npz(place / "weights.npz").items()
    assert found == name.removesuffix(".npy")
    assert array.tolist() == [0.0] * 3
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["weights.npz"]


def test_two_arrays_of_one_name_are_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("x.npy", npy(dictionary(), BODY))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", npy(dictionary(), BODY))
    with pytest.raises(DamagedFile, match=r"two of its arrays have the name 'x'"):
        read_npz(tmp_path / "w.npz")
