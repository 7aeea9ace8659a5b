"""The arrays of a tree and one safetensors file: written, and read back bit for bit.

A file holds named arrays. Those of a tree are named by their paths in it (`jax.tree_util.keystr`); the arrays
of typed PRNG keys are stored as their words. https://github.com/huggingface/safetensors describes the format.
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from otpr.storage import DamagedFile, check_regular

HEADER_LIMIT = 2**20
"""Bytes of the largest header that is read, enough for 10,000 arrays; parsed, it takes 20 times as many."""

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64"
DTYPES = frozenset(map(np.dtype, [*_NAMES.split(), jnp.bfloat16]))
"""The types that a file holds."""

_METADATA = "otpr"
"""The name of otpr's text among a file's texts."""

Arrays = Mapping[str, NDArray[Any]]
Tree = TypeVar("Tree")


# ---------------------------------------------------------------------------------------------------- files


def to_bytes(arrays: Arrays, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file of named arrays; equal arrays and metadata give equal bytes.

    Args:
        arrays: arrays of any shape and of the types in `DTYPES`, by name.
        metadata: what else the file says, JSON-able; `read_metadata` returns it.

    Raises:
        ValueError: an array is of another type, or is named `__metadata__`, which the format reserves; or
            their names, shapes and the metadata take more than `HEADER_LIMIT`.
    """
    for name, array in arrays.items():
        if array.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {array.dtype}, which a safetensors file does not hold. Convert it to one of: "
                f"{', '.join(sorted(dtype.name for dtype in DTYPES))}."
            )
    if "__metadata__" in arrays:
        raise ValueError("The format reserves the name '__metadata__'. Give the array another name.")
    # safetensors writes the memory as it lies, whatever the order of the axes in it
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # in one text: of several, safetensors writes now this one first, now that one
    content = save(rows, {_METADATA: json.dumps(metadata, sort_keys=True)} if metadata else None)
    if (length := int.from_bytes(content[:8], "little")) > HEADER_LIMIT:
        raise ValueError(
            f"{len(rows)} arrays need a header of {length:,} bytes, of at most {HEADER_LIMIT:,}."
        )
    return content


def read_arrays(file: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays in a safetensors file, by name. Names are names: none is used as a path.

    The arrays take no more memory than the file has bytes, whatever its header says.

    Raises:
        DamagedFile: the file is missing, is no safetensors file, or names an array twice.
    """
    file = Path(file)
    _check_header(file)
    try:
        # not mapped into memory, where a disk that fails would end the process
        with safe_open(file, framework="np", backend="pread") as opened:
            arrays: dict[str, NDArray[Any]] = opened.get_tensors()
    # AttributeError: NumPy has no such type
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise DamagedFile(file, error) from error
    for name, array in arrays.items():
        if array.dtype == np.bool_ and array.size and array.view(np.uint8).max() > 1:
            raise DamagedFile(file, f"{name!r} holds booleans that are neither 0 nor 1")
    return arrays


def read_metadata(file: Path) -> dict[str, Any]:
    """The metadata that `to_bytes` was given; none where the file has none. Errors as in `read_arrays`."""
    _check_header(file)
    try:
        with safe_open(file, framework="np", backend="pread") as opened:
            texts: dict[str, str] = opened.metadata() or {}
        metadata = json.loads(texts.get(_METADATA, "{}"))
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise DamagedFile(file, error) from error
    if not isinstance(metadata, dict):
        raise DamagedFile(file, "its metadata are no object")
    return cast(dict[str, Any], metadata)


def _check_header(file: Path) -> None:
    """Refuse what safetensors itself lets pass: pipes, enormous headers and names that come twice."""
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            most = min(HEADER_LIMIT, os.fstat(stream.fileno()).st_size)
            if length > most:
                raise ValueError(f"its header claims {length:,} bytes, of at most {most:,}")
            json.loads(stream.read(length), object_pairs_hook=_unique)
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedFile(file, error) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((name, _),) = collections.Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"its header has {name[:100]!r} twice")
    return found


# ---------------------------------------------------------------------------------------------------- trees


def leaves_by_path(tree: Any) -> dict[str, Any]:
    """Every leaf of a pytree by its path."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def is_array(leaf: Any) -> bool:
    """Whether a leaf is stored: an array of JAX or NumPy, a scalar of NumPy, or the shape and type of one."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def arrays_of(tree: Any) -> dict[str, NDArray[Any]]:
    """The array leaves of a pytree by path, as they are stored; its other leaves are left out."""
    leaves = leaves_by_path(tree).items()
    return {path: np.asarray(_words(leaf)) for path, leaf in leaves if is_array(leaf)}


def fill(like: Tree, arrays: Arrays) -> Tree:
    """The tree whose `arrays_of` these are.

    Args:
        like: a tree of the same structure. Its array leaves (`jax.ShapeDtypeStruct` will do) give shapes,
            types and kind: NumPy stays NumPy, the rest becomes JAX. Its other leaves are kept.
        arrays: the arrays by path; neither more nor fewer than `like` has.

    Raises:
        ValueError: names the first array that is missing, too many, or of another shape or type.
    """
    leaves = leaves_by_path(like)
    due = {path for path, leaf in leaves.items() if is_array(leaf)}
    if surplus := sorted(set(arrays) - due):
        raise ValueError(f"there is {surplus[0]!r}, which is not expected")
    filled = [_filled(path, leaf, arrays.get(path)) if path in due else leaf for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(like), filled)


def _filled(path: str, leaf: Any, array: NDArray[Any] | None) -> Any:
    if array is None:
        raise ValueError(f"there is no {path!r}")
    form = jax.eval_shape(_words, leaf) if _is_key(leaf) else leaf
    if array.shape != form.shape or array.dtype != form.dtype:
        raise ValueError(
            f"{path} is {array.dtype}{list(array.shape)}, expected {form.dtype}{list(form.shape)}"
        )
    if _is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=_key_type(leaf))
    if isinstance(leaf, np.generic):
        return array[()]
    return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _words(leaf: Any) -> Any:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _key_type(leaf: Any) -> str:
    """The generator, e.g. "threefry2x32", of an array of typed PRNG keys."""
    found: list[str] = []

    def look(keys: PRNGKeyArray) -> None:
        found.append(str(jax.random.key_impl(keys)))

    jax.eval_shape(look, leaf)
    return found[0]
