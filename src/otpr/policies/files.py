"""Policies on disk.

A policy is a sealed folder (`otpr.storage`) with `policy.json` (the architecture), `weights.safetensors` (the
arrays by name), the checksums of both, and a README for people. None of the files can carry code, and memory
use is bounded by their size, so that policies from untrusted sources are safe to load.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import equinox as eqx
from jaxtyping import PRNGKeyArray

from otpr import storage, trees
from otpr.errors import OtprError
from otpr.npz import read_npz
from otpr.policies.asked import Asked
from otpr.policies.choosers import CHOOSERS, Chooser
from otpr.policies.denoising import Diffusion
from otpr.policies.earlier_formats import modernized, present_name
from otpr.policies.encoder import Encoder, VectorEncoder
from otpr.policies.entries import check_entries
from otpr.policies.generators import Flow, Generator, OneStep, TanhGaussian
from otpr.policies.readme import FILE as README
from otpr.policies.readme import readme
from otpr.policies.vision import VisionEncoder
from otpr.spec import Spec
from otpr.storage import DamagedFile

FORMAT = 11
"""Version of the files; it rises whenever older code cannot read new files.

1 has no checksums. 2 has only diffusion policies with OTPR's chooser and names neither. 3 has no spec but the
lengths of one observation vector, of an action and of a chunk that is executed whole, and its arrays are in
`weights.npz`. 4 reads float64 entries of an observation as float32. 5 has neither images nor views. 6 has one
kind of network, one noise schedule, plans in units of the actions, and one normalisation. 7 has neither
limits of the noise nor the networks of DPPO. In 8 the network sees states as the encoder gives them. In 9
OTPR's chooser has two rules.
"""

ENCODERS: dict[str, type[Encoder]] = {kind.kind: kind for kind in (VectorEncoder, VisionEncoder)}
"""Encoders by their names in policy files."""

GENERATORS: dict[str, type[Generator]] = {
    kind.kind: kind for kind in (Diffusion, Flow, OneStep, TanhGaussian)
}
"""Generators by their names in policy files, except those of algorithms."""

Document = dict[str, Any]
Tree = TypeVar("Tree")
Part = TypeVar("Part", Encoder, Generator, Chooser)


def described(part: Encoder | Generator | Chooser) -> Document:
    """The description of a part in a policy's document."""
    return {"kind": part.kind, **part.about()}


def encoder_skeleton(about: Document, spec: Spec) -> Encoder:
    """The encoder that a document of `described` specifies, without values in its arrays."""
    return _encoder_kind(about).skeleton(_without_kind(about), spec)


def generator_skeleton(about: Document, state_dim: int, spec: Spec, key: PRNGKeyArray) -> Generator:
    """The generator that a document of `described` specifies, without values in its arrays."""
    return _generator_kind(about).skeleton(_without_kind(about), state_dim, spec, key)


def chooser_skeleton(about: Document | None, state_dim: int, key: PRNGKeyArray) -> Chooser | None:
    """The chooser that a document of `described` specifies, without values in its arrays."""
    if about is None:
        return None
    more = {name: value for name, value in _without_kind(about).items() if name != "chunk_dim"}
    return _chooser_kind(about).skeleton(more, state_dim, about["chunk_dim"], key)


def _without_kind(about: Document) -> Document:
    return {name: value for name, value in about.items() if name != "kind"}


def _encoder_kind(about: Document) -> type[Encoder]:
    return _kind(about["kind"], ENCODERS, "ENCODERS")


def _generator_kind(about: Document) -> type[Generator]:
    return _kind(about["kind"], {**GENERATORS, Asked.kind: Asked}, "GENERATORS")


def _chooser_kind(about: Document) -> type[Chooser]:
    return _kind(about["kind"], CHOOSERS, "CHOOSERS")


def _kind(name: Any, known: Mapping[str, type[Part]], table: str) -> type[Part]:
    """The class of a part by its name: a built-in one, or "NAME/..." from the table of the algorithm NAME.

    Raises:
        ValueError: there is no such part.
    """
    algorithm, slash, _ = str(name).partition("/")
    # only modules of the package `otpr.agents` are ever imported
    if slash and algorithm.isidentifier() and importlib.util.find_spec(f"otpr.agents.{algorithm}"):
        module = importlib.import_module(f"otpr.agents.{algorithm}")
        known = cast(Mapping[str, type[Part]], getattr(module, table, {}))
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"kind is {name!r}")
    return known[name]


def write(tree: Any, path: Path, task: str, document: Document) -> None:
    """Write a policy; see `otpr.policies.policy.Policy.save`."""
    if path.exists() and not (path / "policy.json").is_file():
        raise OtprError(f"{path} exists and is not a policy; give the name of a new folder.")
    with storage.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with storage.sealed_folder(path, unsealed=[README]) as new:
        storage.write_json(new / "policy.json", {"format": FORMAT, "task": task, **document})
        (new / _weights(FORMAT)).write_bytes(trees.to_bytes(trees.arrays_of(tree)))
        (new / README).write_text(readme(task, document), encoding="utf-8")


def read(path: Path, build: Callable[[Document], Tree]) -> Tree:
    """Read a policy; see `otpr.policies.loading.load_policy`.

    Args:
        path: the policy's folder, or that of its run.
        build: makes a policy from the document; only the shapes and types of its arrays are used.
    """
    where = folder(path)
    document = read_document(where)
    try:
        skeleton = eqx.filter_eval_shape(build, document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(where / "policy.json", error) from error
    except OtprError as error:  # e.g. a sampler of another version, or a file edited by hand
        raise OtprError(f"{where / 'policy.json'}: {error}") from error
    file = where / _weights(document["format"])
    try:
        weights = read_npz(file) if file.suffix == ".npz" else trees.read_arrays(file)
    except DamagedFile as error:
        raise _again(error) from error
    weights = {present_name(name, document["format"]): array for name, array in weights.items()}
    try:
        return trees.fill(skeleton, weights)
    except ValueError as error:
        raise _damaged(file, f"it does not fit policy.json: {error}") from error


def _weights(format: int) -> str:
    """The name of the file that holds the arrays."""
    return "weights.npz" if format < 4 else "weights.safetensors"


def folder(path: Path) -> Path:
    """The policy's folder: `path` itself, or `policy` in it."""
    where = path if (path / "policy.json").is_file() else path / "policy"
    if not (where / "policy.json").is_file():
        raise OtprError(
            f"There is no policy in {path}: expected policy.json there or in its folder 'policy'."
        )
    return where


def read_document(where: Path) -> Document:
    """The content of policy.json, verified by checksum and by type, converted to the current format.

    Its `format` remains that of the file.
    """
    file = where / "policy.json"
    try:
        sealed = storage.check_seal(where) if (where / storage.SEAL).exists() else None
        document = storage.read_json(file)
    except DamagedFile as error:
        raise _again(error) from error
    try:
        if document["format"] > FORMAT:
            raise OtprError(
                f"{file} is of format {document['format']}; this otpr reads up to {FORMAT}. Upgrade otpr."
            )
        weights = _weights(document["format"])
        if document["format"] > 1 and sealed != {"policy.json", weights}:
            raise _damaged(where / storage.SEAL, f"expected the sums of policy.json and {weights}")
        document = modernized(document)
        _check(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error
    return document


def _check(document: Document) -> None:
    """Check a document before anything is built from it.

    Raises:
        ValueError, KeyError, TypeError: a field is not valid or missing, or the document is not an object.
    """
    if not isinstance(document["task"], str):
        raise ValueError(f"task is {document['task']!r}")
    spec = Spec.from_json(document["spec"])
    sizes = {"history": spec.history, "horizon": spec.horizon, "action_dim": spec.action_dim}
    for name, entry in spec.observation.items():
        sizes |= {f"observation.{name}[{axis}]": size for axis, size in enumerate(entry.shape)}
    for name, size in {**sizes, "candidates": document["candidates"]}.items():
        check_entries(name, size, {})
    encoder, generator = dict(document["encoder"]), dict(document["generator"])
    check_entries("encoder", _without_kind(encoder), _encoder_kind(encoder).entries)
    check_entries("generator", _without_kind(generator), _generator_kind(generator).entries)
    if document["chooser"] is not None:
        chooser = dict(document["chooser"])
        check_entries("chooser", _without_kind(chooser), _chooser_kind(chooser).entries)


def _damaged(file: Path, reason: Exception | str) -> OtprError:
    return _again(DamagedFile(file, reason))


def _again(error: DamagedFile) -> OtprError:
    return OtprError(f"{error} Copy or save the policy again.")
