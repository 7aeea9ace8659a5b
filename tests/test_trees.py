from __future__ import annotations

import json
import resource
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otpr import trees
from otpr.storage import DamagedFile
from otpr.trees import read_arrays, read_metadata, to_bytes

# what NumPy itself has; bfloat16 is in the trees below
PLAIN = sorted(dtype.name for dtype in trees.DTYPES if dtype.kind in "biufc")
NAMES = st.text(max_size=8).filter(lambda name: name != "__metadata__")


def layouts(array: np.ndarray) -> list[np.ndarray]:
    """The array as it may lie in memory: row by row, column by column, with gaps, backwards."""
    doubled = np.repeat(array, 2, axis=0) if array.ndim else array
    return [
        array,
        np.asfortranarray(array) if array.ndim else array,
        doubled[::2] if array.ndim else array,
        array[::-1].copy()[::-1] if array.ndim else array,
    ]


@given(
    arrays=st.dictionaries(
        NAMES,
        st.sampled_from(PLAIN).flatmap(
            lambda name: hnp.arrays(name, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
        ),
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers(), max_size=3),
    layout=st.integers(0, 3),
)
def test_arrays_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory,
    arrays: dict[str, np.ndarray],
    metadata: dict[str, Any],
    layout: int,
):
    file = tmp_path_factory.getbasetemp() / "arrays.safetensors"
    file.write_bytes(to_bytes({name: layouts(array)[layout] for name, array in arrays.items()}, metadata))
    loaded = read_arrays(file)
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        assert loaded[name].tobytes() == array.tobytes()
    assert read_metadata(file) == metadata


def test_file_is_laid_out_as_the_format_says(tmp_path: Path):
    """Read by hand: a length, a JSON header, the bytes."""
    content = to_bytes({"b": np.float32([[1, 2], [3, 4]]).T, "a": np.int64(7)[None]})
    length = struct.unpack("<Q", content[:8])[0]
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    first, last = header["b"].pop("data_offsets")
    assert header["b"] == {"dtype": "F32", "shape": [2, 2]}
    assert np.frombuffer(body[first:last], "<f4").tolist() == [1, 3, 2, 4]
    first, last = header["a"].pop("data_offsets")
    assert np.frombuffer(body[first:last], "<i8").tolist() == [7]


def test_equal_arrays_give_equal_bytes():
    one, other = np.arange(3), np.ones((2, 2), np.float32)
    first = to_bytes({"a": one, "b": other}, {"x": "1", "y": "2"})
    assert first == to_bytes({"b": other.copy(), "a": one.copy()}, {"y": "2", "x": "1"})


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.ones(2, complex), "complex128"),
        (np.ones(2, ">f4"), ">f4"),
        (np.ones(2, np.longdouble), "float128"),
        (np.array(["a"]), "<U1"),
        (np.array([{}], object), "object"),
    ],
)
def test_type_that_the_format_does_not_hold_is_refused(array: np.ndarray, kind: str):
    with pytest.raises(ValueError, match=rf"^x is {kind}, which .* Convert it to one of: bfloat16, bool"):
        to_bytes({"x": array})


def test_reserved_name_is_refused():
    with pytest.raises(ValueError, match="reserves the name"):
        to_bytes({"__metadata__": np.ones(2)})


def test_header_that_would_not_be_read_is_not_written():
    with pytest.raises(
        ValueError, match=r"1 arrays need a header of 5,\d\d\d,\d\d\d bytes, of at most 1,048,576"
    ):
        to_bytes({"x" * 5_000_000: np.zeros(1)})


# ---------------------------------------------------------------------------------------------- hostile files


def entry(dtype: str = "F32", shape: Any = (3,), offsets: Any = (0, 12)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def content(header: Any, body: int = 12, fill: bytes = b"\0") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + fill * body


X = b'{"dtype":"F32","shape":[3],"data_offsets":[0,12]}'
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a billion elements": lambda: content({"x": entry(shape=[10**9])}),
    "a billion elements and offsets to fit": lambda: content(
        {"x": entry(shape=[10**9], offsets=[0, 4 * 10**9])}
    ),
    "10^18 elements": lambda: content({"x": entry(shape=[10**9, 10**9])}),
    "elements beyond 64 bits": lambda: content({"x": entry(shape=[10**17, 10**17, 10**17])}),
    "no elements of a huge shape": lambda: content(
        {"x": entry(shape=[0, 10**17, 10**17], offsets=[0, 0])}, 0
    ),
    "a thousand dimensions": lambda: content({"x": entry(shape=[1] * 1000, offsets=[0, 4])}, 4),
    "a negative length": lambda: content({"x": entry(shape=[-3])}),
    "a length that is no integer": lambda: content({"x": entry(shape=[3.5])}),
    "arrays that overlap": lambda: content({"x": entry(), "y": entry(offsets=[6, 18])}, 18),
    "two arrays in one place": lambda: content({"x": entry(), "y": entry()}),
    "offsets before the data": lambda: content({"x": entry(offsets=[-12, 0])}),
    "offsets beyond the data": lambda: content({"x": entry(offsets=[12, 24])}),
    "offsets backwards": lambda: content({"x": entry(offsets=[12, 0])}),
    "an offset near 2^64": lambda: content({"x": entry(offsets=[2**64 - 4, 8])}),
    "bytes that belong to no array": lambda: content({"x": entry()}, 13),
    "fewer bytes than elements": lambda: content({"x": entry()}, 11),
    "a name that comes twice": lambda: content(b'{"x":' + X + b',"x":' + X + b"}"),
    "a name that comes twice as different types": lambda: content(
        b'{"x":' + X + b',"x":' + X.replace(b"F32", b"I32") + b"}"
    ),
    "a name that comes twice after 100,000 others": lambda: content(
        b"{" + b"".join(b'"%d":0,' % i for i in range(100_000)) + b'"x":' + X + b',"x":' + X + b"}"
    ),
    "a type that comes twice": lambda: content(b'{"x":' + X[:-1] + b',"dtype":"I32"}}'),
    "two texts of one name": lambda: content(b'{"__metadata__":{"a":"1","a":"2"},"x":' + X + b"}"),
    "texts that are none": lambda: content({"__metadata__": {"a": 1}, "x": entry()}),
    "an unknown type": lambda: content({"x": entry("F3")}),
    "a type that NumPy has not": lambda: content({"x": entry("F8_E4M3", [12])}),
    "half bytes": lambda: content({"x": entry("F4", [24])}),
    "booleans of 255": lambda: content({"x": entry("BOOL", [12])}, fill=b"\xff"),
    "a nested header": lambda: content(b'{"x":' * 100_000),
    "an endless list": lambda: content(b"[" * 100_000),
    "a header of another kind": lambda: content([1, 2]),
    "a header that is not UTF-8": lambda: content(b'{"\xff":' + X + b"}"),
    "a header that is too long": lambda: content(b'{"x":' + X + b"}" + b" " * trees.HEADER_LIMIT),
    "a header said to have 200 MB": lambda: struct.pack("<Q", 2 * 10**8) + bytes(100),
    "a header said to have 2^63 bytes": lambda: struct.pack("<Q", 2**63) + bytes(100),
    "three bytes": lambda: b"abc",
    "nothing": lambda: b"",
}


@pytest.fixture
def no_more_memory():
    """Any allocation of more than 64 MB that NumPy, Python or safetensors asks for fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_file_is_refused_without_allocating(tmp_path: Path, kind: str, no_more_memory: None):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(HOSTILE[kind]())
    tracemalloc.start()
    with pytest.raises(DamagedFile, match=r"weights\.safetensors is damaged \("):
        read_arrays(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < file.stat().st_size + 2**25  # for a header of a megabyte, parsed
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_file_of_these_tests_is_read_where_nothing_is_wrong_with_it(tmp_path: Path):
    (tmp_path / "x").write_bytes(content({"__metadata__": {"a": "1"}, "x": entry()}))
    assert read_arrays(tmp_path / "x")["x"].tolist() == [0.0] * 3


@pytest.mark.parametrize("name", ["../../x", "/x", "C:\\x", "a/../../x", "~/x", "x\0y", ""])
def test_name_in_a_file_is_no_path(tmp_path: Path, name: str):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    (place / "weights").write_bytes(content({name: entry()}))
    assert list(read_arrays(place / "weights")) == [name]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["weights"]


def test_reading_takes_the_memory_of_the_arrays_once(tmp_path: Path):
    file = tmp_path / "large"
    file.write_bytes(to_bytes({"x": np.zeros(4 * 10**6, np.float32), "y": np.zeros((0, 3))}))
    tracemalloc.start()
    arrays = read_arrays(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert arrays["x"].shape == (4 * 10**6,)
    assert 0.9 * file.stat().st_size < peak < 1.2 * file.stat().st_size + 2**20


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 10**5, "{", "NaN"])
def test_metadata_that_are_no_object_are_refused(tmp_path: Path, text: str):
    (tmp_path / "x").write_bytes(content({"__metadata__": {"otpr": text}, "x": entry()}))
    with pytest.raises(DamagedFile):
        read_metadata(tmp_path / "x")


# ------------------------------------------------------------------------------------------------------ trees


def tree(seed: int) -> dict[str, Any]:
    return {
        "key": jax.random.key(seed),
        "keys": [jax.random.split(jax.random.key(seed, impl="rbg"), (2, 3))],
        "half": jnp.asarray([seed, 1 / 3, jnp.nan], jnp.bfloat16),
        "numpy": (np.full((2, 0, 3), seed), np.float64(seed + 0.1)),
        "rate": 0.5,
        "function": jnp.tanh,
        "none": None,
    }


def test_arrays_of_a_tree_fill_it_again(tmp_path: Path):
    (tmp_path / "x").write_bytes(to_bytes(trees.arrays_of(tree(3))))
    filled = trees.fill(tree(4), read_arrays(tmp_path / "x"))
    assert jax.tree.structure(filled) == jax.tree.structure(tree(3))
    found, expected = trees.arrays_of(filled), trees.arrays_of(tree(3))
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in found.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in expected.items()
    }
    assert isinstance(filled["numpy"][0], np.ndarray) and isinstance(filled["numpy"][1], np.float64)
    assert isinstance(filled["half"], jax.Array) and filled["function"] is jnp.tanh
    assert filled["keys"][0].dtype == tree(3)["keys"][0].dtype
    numbers = jax.random.normal(filled["key"], 5)
    np.testing.assert_array_equal(numbers, jax.random.normal(jax.random.key(3), 5))


def test_shapes_alone_are_enough_to_fill():
    like = jax.eval_shape(lambda: {"key": jax.random.key(0), "x": jnp.zeros(2, jnp.bfloat16)})
    filled = trees.fill(like, trees.arrays_of({"key": jax.random.key(5), "x": jnp.ones(2, jnp.bfloat16)}))
    assert jax.random.key_data(filled["key"]).tolist() == jax.random.key_data(jax.random.key(5)).tolist()
    assert filled["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"^there is no \"\['x'\]\"$"),
        (
            {"['x']": np.zeros(2, np.float32), "['y']": np.zeros(1)},
            r"^there is \"\['y'\]\", which is not exp",
        ),
        ({"['x']": np.zeros(3, np.float32)}, r"^\['x'\] is float32\[3\], expected float32\[2\]$"),
        ({"['x']": np.zeros(2)}, r"^\['x'\] is float64\[2\], expected float32\[2\]$"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(ValueError, match=message):
        trees.fill({"x": jnp.zeros(2), "n": 3}, arrays)
