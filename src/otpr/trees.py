"""The arrays of a pytree in one safetensors file, stored bit for bit.

A file holds named arrays. The arrays of a tree are named by their paths (`jax.tree_util.keystr`); typed PRNG
keys are stored as their raw key data. https://github.com/huggingface/safetensors describes the format.
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
"""The largest header that is read, in bytes: enough for 10,000 arrays. Parsed, it takes 20 times as much."""

_NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 complex64"
DTYPES = frozenset(map(np.dtype, [*_NAMES.split(), jnp.bfloat16]))
"""The types of arrays that a file may hold."""

_METADATA = "otpr"
"""The key of otpr's metadata in a file."""

Arrays = Mapping[str, NDArray[Any]]
Tree = TypeVar("Tree")


# ---------------------------------------------------------------------------------------------------- files


def to_bytes(arrays: Arrays, metadata: Mapping[str, Any] | None = None) -> bytes:
    """The content of a file of named arrays; equal arrays and metadata give equal bytes.

    Args:
        arrays: arrays of any shape and of the types in `DTYPES`, by name.
        metadata: further JSON-serialisable content, which `read_metadata` returns.

    Raises:
        ValueError: an array has another type, or the name `__metadata__`, which the format reserves; or
            names, shapes and metadata together exceed `HEADER_LIMIT`.
    """
    for name, array in arrays.items():
        if array.dtype not in DTYPES:
            raise ValueError(
                f"{name} is {array.dtype}, which a safetensors file does not hold. Convert it to one of: "
                f"{', '.join(sorted(dtype.name for dtype in DTYPES))}."
            )
    if "__metadata__" in arrays:
        raise ValueError("The format reserves the name '__metadata__'. Give the array another name.")
    # safetensors writes the memory as it is, regardless of the order of the axes
    rows = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # in one text, because safetensors writes several texts in no fixed order
    content = save(rows, {_METADATA: json.dumps(metadata, sort_keys=True)} if metadata else None)
    if (length := int.from_bytes(content[:8], "little")) > HEADER_LIMIT:
        raise ValueError(
            f"{len(rows)} arrays need a header of {length:,} bytes, of at most {HEADER_LIMIT:,}."
        )
    return content


def read_arrays(file: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays in a safetensors file, by name. No name is used as a path.

    The arrays take no more memory than the file's size, whatever its header says.

    Raises:
        DamagedFile: the file is missing, is not a safetensors file, or names an array twice.
    """
    file = Path(file)
    _check_header(file)
    try:
        # not memory-mapped, because a failing disk would then kill the process
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
    """The metadata given to `to_bytes`; empty where the file has none. Errors as in `read_arrays`."""
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
    """Refuse what safetensors itself accepts: pipes, very large headers and duplicate names."""
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
    """Whether a leaf is stored: a JAX or NumPy array, a NumPy scalar, or a `jax.ShapeDtypeStruct`."""
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def arrays_of(tree: Any) -> dict[str, NDArray[Any]]:
    """The array leaves of a pytree by path, as they are stored. Other leaves are left out."""
    leaves = leaves_by_path(tree).items()
    return {path: np.asarray(_words(leaf)) for path, leaf in leaves if is_array(leaf)}


def fill(like: Tree, arrays: Arrays) -> Tree:
    """Fill a tree with arrays; the inverse of `arrays_of`.

    Args:
        like: a tree of the same structure. Its array leaves (or `jax.ShapeDtypeStruct`) give shapes, types
            and kind: NumPy leaves stay NumPy, all others become JAX. Its other leaves are kept.
        arrays: the arrays by path, exactly those that `like` has.

    Raises:
        ValueError: an array is missing, superfluous, or of another shape or type; the message names the
            first.
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
    """The PRNG implementation, e.g. "threefry2x32", of an array of typed keys."""
    found: list[str] = []

    def look(keys: PRNGKeyArray) -> None:
        found.append(str(jax.random.key_impl(keys)))

    jax.eval_shape(look, leaf)
    return found[0]
