"""Atomic, bit-exact checkpoints of a pytree and a little JSON state, kept with Orbax.

Orbax restores an array into a target of another shape or dtype without a word (it slices, pads and casts), so
every checkpoint carries its own table of leaves, and a tree is only restored into a tree with the same table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from otpr.errors import OtprError

KEPT_CHECKPOINTS = 2
"""How many checkpoints a directory holds: the last, and the one before it should the last be damaged."""

Tree = TypeVar("Tree")


def save(directory: str | Path, step: int, arrays: Any, state: dict[str, Any]) -> None:
    """Write one checkpoint; it appears whole or not at all. Older ones than the last two are deleted.

    A checkpoint already saved under `step` is replaced.

    Args:
        directory: folder of the checkpoints, created where missing.
        step: number of the checkpoint, >= 0.
        arrays: any pytree. Array leaves (JAX or NumPy, typed PRNG keys included) are stored; Python numbers
            and strings are only remembered, so that `load` can compare them; the rest, functions, is skipped.
        state: a JSON-able dict. It comes back as JSON returns it: tuples as lists, keys as strings.

    Raises:
        ValueError: `arrays` has no array leaf.
    """
    leaves = _leaves_by_path(arrays)
    stored = {path: _to_numpy(leaf) for path, leaf in leaves.items() if _is_array(leaf) and leaf.size > 0}
    if not stored:
        raise ValueError("A checkpoint needs at least one array with an element in it.")
    document = {"state": state, "leaves": _table(leaves), "key_types": _key_types(leaves)}
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT_CHECKPOINTS, enable_async_checkpointing=False, cleanup_tmp_directories=True
    )
    with ocp.CheckpointManager(Path(directory).resolve(), options=options) as manager:
        if step in manager.all_steps():
            manager.delete(step)
        manager.save(
            step,
            args=ocp.args.Composite(arrays=ocp.args.StandardSave(stored), state=ocp.args.JsonSave(document)),
            force=True,
        )


def latest(directory: str | Path) -> int | None:
    """The step of the newest whole checkpoint in `directory`, or None where there is none."""
    if not Path(directory).is_dir():
        return None
    with _reader(directory) as manager:
        return manager.latest_step()


def load_state(directory: str | Path, step: int) -> dict[str, Any]:
    """The JSON state alone, for whoever needs it to build the tree that `load` fills.

    Raises:
        OtprError: there is no such checkpoint, or it cannot be read.
    """
    return _load_document(directory, step)["state"]


def load(directory: str | Path, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """Read one checkpoint into a tree shaped like `like`.

    Args:
        directory: folder of the checkpoints.
        step: which one; `latest(directory)` for the newest.
        like: a tree with the structure that was saved. Its array leaves (`jax.ShapeDtypeStruct` will do) give
            shapes, dtypes and kind (NumPy stays NumPy, the rest becomes JAX); its other leaves are kept.

    Returns:
        The tree, equal bit for bit to the one saved, and the JSON state.

    Raises:
        OtprError: there is no such checkpoint, it cannot be read, or its leaves differ from those of `like`.
    """
    document = _load_document(directory, step)
    leaves = _leaves_by_path(like)
    _check_table(document["leaves"], _table(leaves), f"{directory}, step {step}")
    # NumPy targets keep Orbax from placing arrays on the devices they were saved from, which may be gone.
    targets = {
        path: np.zeros(*_stored_form(leaf, document["key_types"].get(path)))
        for path, leaf in leaves.items()
        if _is_array(leaf) and leaf.size > 0
    }
    restored = _restore(directory, step, arrays=ocp.args.StandardRestore(targets))["arrays"]
    filled = [
        _from_numpy(restored.get(path), leaf, document["key_types"].get(path)) if _is_array(leaf) else leaf
        for path, leaf in leaves.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), filled), document["state"]


def _reader(directory: str | Path) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        Path(directory).resolve(), options=ocp.CheckpointManagerOptions(create=False)
    )


def _restore(directory: str | Path, step: int, **items: Any) -> Any:
    try:
        with _reader(directory) as manager:
            return manager.restore(step, args=ocp.args.Composite(**items))
    # What Orbax and TensorStore raise on missing, cut or overwritten files.
    except (ValueError, KeyError, OSError) as error:
        # TensorStore appends its whole configuration.
        reason = f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
        raise OtprError(
            f"The checkpoint of step {step} in {directory} cannot be read ({reason}). "
            f"Delete the folder {Path(directory) / str(step)} and resume to continue from the one before it."
        ) from error


def _load_document(directory: str | Path, step: int) -> dict[str, Any]:
    if not (Path(directory) / str(step)).is_dir():
        found = latest(directory)
        hint = "There is none in it." if found is None else f"The latest is of step {found}."
        raise OtprError(f"No checkpoint of step {step} in {directory}. {hint}")
    return _restore(directory, step, state=ocp.args.JsonRestore())["state"]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _table(leaves: dict[str, Any]) -> dict[str, str]:
    """One line on every leaf that must agree between what was saved and what is loaded."""
    table = {}
    for path, leaf in leaves.items():
        if _is_array(leaf):
            table[path] = f"{leaf.dtype}{list(leaf.shape)}"
        elif isinstance(leaf, bool | int | float | complex | str):
            table[path] = f"the constant {leaf!r}"
    return table


def _check_table(stored: dict[str, str], wanted: dict[str, str], where: str) -> None:
    paths = [path for path in sorted({*stored, *wanted}) if stored.get(path) != wanted.get(path)]
    if not paths:
        return
    lines = [
        f"  {path or '(the whole tree)'}: stored {stored.get(path, 'nothing')}, "
        f"expected {wanted.get(path, 'nothing')}"
        for path in paths[:8]
    ]
    if len(paths) > len(lines):
        lines.append(f"  and {len(paths) - len(lines)} more")
    raise OtprError(
        f"The checkpoint in {where} does not fit the agent it is loaded into:\n" + "\n".join(lines) + "\n"
        "Use the configuration (and the data) the checkpoint was made with."
    )


def _key_types(leaves: dict[str, Any]) -> dict[str, str]:
    """The generator (e.g. "threefry2x32") of every leaf that is an array of typed PRNG keys."""
    return {
        path: str(jax.random.key_impl(leaf))
        for path, leaf in leaves.items()
        if _is_array(leaf) and _is_key(leaf)
    }


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _stored_form(leaf: Any, key_type: str | None) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype under which a leaf lies on disk."""
    if key_type is None:
        return leaf.shape, leaf.dtype
    words = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0, impl=key_type)))
    return (*leaf.shape, *words.shape), words.dtype


def _from_numpy(value: np.ndarray | None, like: Any, key_type: str | None) -> Any:
    if value is None:  # an array without elements, which Orbax does not store
        value = np.zeros(*_stored_form(like, key_type))
    if key_type is not None:
        return jax.random.wrap_key_data(jnp.asarray(value), impl=key_type)
    if isinstance(like, np.generic):
        return value[()]
    return value if isinstance(like, np.ndarray) else jnp.asarray(value)
