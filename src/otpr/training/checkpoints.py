"""Atomic, bit-exact checkpoints of a pytree and a little JSON state.

A checkpoint is a sealed folder (`otpr.storage`) named by its step:

checkpoint.json      the format's version, the JSON state, and a table of all leaves, which must agree when
                     it is loaded
arrays.safetensors   the arrays by their paths in the tree
SHA256SUMS           the checksums of both
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

from otpr import trees
from otpr.errors import OtprError
from otpr.storage import (
    SEAL,
    DamagedFile,
    check_seal,
    read_json,
    sealed_folder,
    write_json,
    writing,
)

KEPT_CHECKPOINTS = 2
"""Number of checkpoints in a directory: the last, and its predecessor in case the last is damaged."""

FORMAT = 3
"""Version of the files. 1 is Orbax's and has no number; 2 has its arrays in an .npz."""

FILES = {"arrays.safetensors", "checkpoint.json"}

REPLACED = ".replaced"
"""Suffix of a checkpoint while another of the same step replaces it."""

Tree = TypeVar("Tree")


def save(directory: str | Path, step: int, arrays: Any, state: dict[str, Any]) -> None:
    """Write one checkpoint atomically, and delete all but the last two.

    A checkpoint already saved under `step` is replaced. One process at a time may save into a directory.

    Args:
        directory: folder of the checkpoints, created if missing; its parent must exist.
        step: number of the checkpoint, >= 0.
        arrays: any pytree. Array leaves (JAX or NumPy, typed PRNG keys included) are stored; Python numbers
            and strings are only remembered, so that `load` can compare them; the rest, functions, is skipped.
        state: a JSON-serialisable dict. Loading returns tuples as lists and keys as strings.

    Raises:
        ValueError: `arrays` has no array leaf or one of a type that is not in `otpr.trees.DTYPES`, or the
            state cannot be JSON.
        OtprError: the checkpoint cannot be written: the disk is full or read-only, or the run's folder is
            gone. Earlier checkpoints are kept.
    """
    directory, stored = Path(directory), trees.arrays_of(arrays)
    if not any(array.size for array in stored.values()):
        raise ValueError("A checkpoint needs at least one array with an element in it.")
    document = {
        "format": FORMAT,
        "state": state,
        "leaves": _table(arrays),
    }
    content = trees.to_bytes(stored)
    with writing(directory):
        directory.mkdir(exist_ok=True)
        # from a process killed while saving, replacing or deleting
        for left_over in directory.glob(".*"):
            shutil.rmtree(left_over)
        for replaced in directory.glob(f"*{REPLACED}"):
            if replaced.with_suffix("").is_dir():
                _discard(replaced)
    folder = directory / str(step)
    with sealed_folder(folder, aside=directory / f"{step}{REPLACED}") as new:
        write_json(new / "checkpoint.json", document)
        (new / "arrays.safetensors").write_bytes(content)
    with writing(directory):
        _discard(directory / f"{step}{REPLACED}")
        for old in _steps(directory)[:-KEPT_CHECKPOINTS]:
            _discard(_folder(directory, old))


def latest(directory: str | Path) -> int | None:
    """The step of the newest checkpoint in `directory`, or None where there is none."""
    return max(_steps(Path(directory)), default=None)


def load(directory: str | Path, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
    """Read one checkpoint into a tree shaped like `like`.

    Args:
        directory: folder of the checkpoints.
        step: which one; `latest(directory)` for the newest.
        like: a tree with the saved structure. Its array leaves (or `jax.ShapeDtypeStruct`) give shapes,
            dtypes and kind (NumPy stays NumPy, the rest becomes JAX); its other leaves are kept.

    Returns:
        The tree, equal bit for bit to the one saved, and the JSON state.

    Raises:
        OtprError: there is no such checkpoint, it has another format, it is damaged, or its leaves differ
            from those of `like`.
    """
    directory = Path(directory)
    document = _read_document(directory, step)
    _check_table(document["leaves"], _table(like), f"{directory}, step {step}")
    file = _folder(directory, step) / "arrays.safetensors"
    try:
        return trees.fill(like, trees.read_arrays(file)), document["state"]
    except DamagedFile as error:
        raise _unusable(directory, step, error) from error
    except ValueError as error:
        raise _unusable(
            directory, step, DamagedFile(file, f"it does not fit checkpoint.json: {error}")
        ) from error


def _steps(directory: Path) -> list[int]:
    """The steps of the whole checkpoints, ascending."""
    if not directory.is_dir():
        return []
    names = {path.name.removesuffix(REPLACED) for path in directory.iterdir()}
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _folder(directory: Path, step: int) -> Path:
    """The folder of a checkpoint, which has the suffix if a process was killed while replacing it."""
    folder, replaced = directory / str(step), directory / f"{step}{REPLACED}"
    return replaced if replaced.is_dir() and not folder.is_dir() else folder


def _discard(folder: Path) -> None:
    """Delete a checkpoint. It is renamed first, so that a partial one is never visible."""
    if folder.is_dir():
        hidden = folder.rename(folder.with_name(f".{folder.name}"))
        shutil.rmtree(hidden)


def _read_document(directory: Path, step: int) -> dict[str, Any]:
    folder = _folder(directory, step)
    if not folder.is_dir():
        found = latest(directory)
        hint = "There is none in it." if found is None else f"The latest is of step {found}."
        raise OtprError(f"No checkpoint of step {step} in {directory}. {hint}")
    try:
        return _checked_document(folder)
    except DamagedFile as error:
        raise _unusable(directory, step, error) from error


def _checked_document(folder: Path) -> dict[str, Any]:
    """The content of checkpoint.json, after verification of all checksums.

    Raises:
        DamagedFile: a file differs from what was saved.
        OtprError: the checkpoint is of another format.
    """
    file = folder / "checkpoint.json"
    if (folder / "_CHECKPOINT_METADATA").is_file() and not file.exists():
        raise OtprError(
            f"{folder} is of format 1, which otpr 0.1.0 wrote with Orbax, without checksums; "
            f"this otpr reads format {FORMAT}. Finish the run with the commit that its versions.json names, "
            "or start it anew. Its saved policies load as they are."
        )
    sealed, document = check_seal(folder), read_json(file)
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise DamagedFile(file, "it does not say of which format it is")
    if document["format"] != FORMAT:
        raise OtprError(
            f"{folder} is of format {document['format']}; this otpr reads format {FORMAT}. Resume with the "
            "otpr that the run's versions.json names."
        )
    if sealed != FILES:
        raise DamagedFile(folder / SEAL, f"expected the sums of {' and '.join(sorted(FILES))}")
    if not isinstance(document.get("state"), dict) or not isinstance(document.get("leaves"), dict):
        raise DamagedFile(file, "state and leaves should be objects")
    return document


def _unusable(directory: Path, step: int, error: DamagedFile) -> OtprError:
    """An error that names the damage and an earlier checkpoint that could be used instead."""
    folder = _folder(directory, step)
    for earlier in reversed([other for other in _steps(directory) if other < step]):
        try:
            _checked_document(_folder(directory, earlier))
        except OtprError:
            continue
        return OtprError(
            f"{error} The checkpoint of step {earlier} before it is whole. To go on from there, delete the "
            f"folder {folder} and resume. docs/reliability.md says more."
        )
    return OtprError(
        f"{error} There is no whole checkpoint before it: bring the file back from a copy, or start the run "
        "anew."
    )


def _table(tree: Any) -> dict[str, str]:
    """One line for every leaf, which must agree between saving and loading."""
    table: dict[str, str] = {}
    for path, leaf in trees.leaves_by_path(tree).items():
        if trees.is_array(leaf):
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
