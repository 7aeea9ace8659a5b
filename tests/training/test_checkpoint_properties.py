"""What must hold of checkpoints whatever is in them: bits come back, and no byte may change unseen."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from otpr.errors import OtprError
from otpr.training import checkpoints

KINDS = [
    "bool",
    "int8",
    "uint8",
    "int16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "complex64",
]
names = st.text(max_size=8)


@st.composite
def leaves(draw: st.DrawFn) -> Any:
    """Any bits as any type, NaNs with payloads included."""
    kind = np.dtype(draw(st.sampled_from(KINDS)))
    shape = tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 4]), max_size=3)))
    size = int(np.prod(shape)) * kind.itemsize
    data = np.random.default_rng(draw(st.integers(0, 10**6))).bytes(size)  # hypothesis' own are mostly zeros
    if kind.kind == "b":
        data = bytes(byte & 1 for byte in data)
    array = np.frombuffer(data, kind).reshape(shape)
    form = draw(st.sampled_from(["numpy", "scalar", "fortran", "jax", "bfloat16", "key"]))
    if form == "scalar":
        return array.reshape(-1)[0] if array.size else array
    if form == "fortran":
        return np.asfortranarray(array)
    if form == "jax" and kind.itemsize <= 4:
        return jnp.asarray(array)
    if form == "bfloat16" and kind.itemsize == 2:
        return jnp.asarray(array.view(jnp.bfloat16))
    if form == "key":
        return jax.random.key(draw(st.integers(0, 2**31 - 1)))
    return array


trees = st.recursive(
    st.one_of(leaves(), leaves(), st.floats(allow_nan=False), st.integers(), st.booleans(), names, st.none()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3), st.tuples(inner, inner)
    ),
    max_leaves=6,
)
states = st.dictionaries(
    names,
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), names
        ),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
        max_leaves=6,
    ),
    max_size=3,
)


def bits(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return ("key", str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes())
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        kind = jax.Array if isinstance(leaf, jax.Array) else type(leaf)
        return (kind, str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
    return (type(leaf), repr(leaf))


def blank(leaf: Any) -> Any:
    """A leaf of the same kind with other numbers: what is loaded must not come from it."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(123)
    if isinstance(leaf, jax.Array):
        return jnp.zeros_like(leaf)
    if isinstance(leaf, np.ndarray):
        return np.zeros(leaf.shape, leaf.dtype)
    return type(leaf)(0) if isinstance(leaf, np.generic) else leaf


@settings(max_examples=60)
@given(tree=trees, state=states)
@example(tree=np.asfortranarray(np.arange(24).reshape(2, 3, 4)), state={})
@example(tree=[jnp.asarray([1 / 3, jnp.nan, -0.0], jnp.bfloat16), np.float64(0.1)], state={})
def test_whatever_is_saved_comes_back_to_the_bit(tree: Any, state: dict[str, Any]) -> None:
    held = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    assume(any(leaf.size for leaf in held))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder) / "c", 3, tree, state)
        loaded, loaded_state = checkpoints.load(Path(folder) / "c", 3, jax.tree.map(blank, tree))
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    for leaf, twin in zip(jax.tree.leaves(loaded), jax.tree.leaves(tree), strict=True):
        assert bits(leaf) == bits(twin)
    assert loaded_state == state and repr(loaded_state) == repr(state)


TREE = {
    "weights": np.arange(6, dtype=np.float32).reshape(2, 3),
    "step": np.int64(5),
    "none": np.zeros((0, 2)),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    checkpoints.save(folder, 1, TREE, {"env_steps": 10})
    return folder


def files(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    assert [file.name for file in found] == ["SHA256SUMS", "arrays.safetensors", "checkpoint.json"]
    return found


def refused(folder: Path, file: Path, damaged: bytes) -> None:
    """Loading with these bytes in the file is an error; with its own again, it is none."""
    whole = file.read_bytes()
    file.write_bytes(damaged)
    try:
        with pytest.raises(OtprError, match="damaged"):
            checkpoints.load(folder, 1, TREE)
    finally:
        file.write_bytes(whole)


@settings(max_examples=200)
@given(place=st.integers(0, 2**20), change=st.integers(1, 255))
def test_any_byte_changed_is_detected(saved: Path, place: int, change: int) -> None:
    sizes = {file: file.stat().st_size for file in files(saved)}
    place %= sum(sizes.values())
    for file, size in sizes.items():
        if place < size:
            data = bytearray(file.read_bytes())
            data[place] ^= change
            refused(saved, file, bytes(data))
            break
        place -= size
    checkpoints.load(saved, 1, TREE)


@given(which=st.integers(0, 2), share=st.floats(0, 1, exclude_max=True), more=st.binary(max_size=20))
@example(which=0, share=0.0, more=b"")
@example(which=1, share=0.0, more=b"")
@example(which=2, share=0.0, more=b"")
def test_any_cut_or_addition_is_detected(saved: Path, which: int, share: float, more: bytes) -> None:
    file = files(saved)[which]
    whole = file.read_bytes()
    refused(saved, file, whole[: int(share * len(whole))])
    if more:
        refused(saved, file, whole + more)


def test_every_single_byte_of_the_seal(saved: Path) -> None:
    """The file that guards the others: all its bytes, one bit in each, without chance."""
    seal = files(saved)[0]
    whole = seal.read_bytes()
    for place in range(len(whole)):
        refused(saved, seal, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
