"""`otpr policy`: inspection of stored policies, and their import and export."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import tyro

from otpr.cli.policy_convert import ExportPolicy, ImportPolicy
from otpr.policies import files
from otpr.policies.loading import load_policy
from otpr.spec import Spec
from otpr.storage import SEAL


@dataclasses.dataclass(frozen=True)
class InspectPolicy:
    """Tell what a stored policy is made of, what it takes and gives, and whether its files are whole."""

    # folder of the policy, or of the run that made it
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    # as JSON, for programs
    json: bool = False

    def run(self) -> None:
        """Read and print the policy; a damaged file is an error that names it."""
        found = described(self.path)
        print(json.dumps(found, indent=2) if self.json else _in_words(found))


@dataclasses.dataclass(frozen=True)
class Policy:
    """Look into policies, bring those of other libraries in, and take them back to LeRobot or to ONNX."""

    command: (
        Annotated[InspectPolicy, tyro.conf.subcommand("inspect", prefix_name=False)]
        | Annotated[ImportPolicy, tyro.conf.subcommand("import", prefix_name=False)]
        | Annotated[ExportPolicy, tyro.conf.subcommand("export", prefix_name=False)]
    )

    def run(self) -> None:
        """Run the subcommand."""
        self.command.run()


SUBCOMMANDS = {"inspect": InspectPolicy, "import": ImportPolicy, "export": ExportPolicy}
"""The subcommands of `otpr policy`."""


def described(path: Path) -> dict[str, Any]:
    """The document that `otpr policy inspect --json` prints for the policy in `path`.

    Returns:
        path, of the policy's own folder; format, of its files; bytes, of all files; sealed, whether there are
        checksums, which then agree; task; spec, as `Spec.to_json`; encoder, generator and chooser (None
        without one), each its kind and settings, with the number of its parameters; candidates.

    Raises:
        OtprError: there is no policy, or its files are damaged or of a later format.
    """
    where = files.folder(path)
    policy, document = load_policy(where), files.read_document(where)
    parts = {"encoder": policy.encoder, "generator": policy.generator, "chooser": policy.chooser}
    return {
        "path": str(where),
        "format": document["format"],
        "bytes": sum(file.stat().st_size for file in where.iterdir()),
        "sealed": (where / SEAL).is_file(),
        "task": document["task"],
        "spec": policy.spec.to_json(),
        **{
            name: None if part is None else {**files.described(part), "parameters": _parameters(part)}
            for name, part in parts.items()
        },
        "candidates": policy.candidates,
    }


def _parameters(part: Any) -> int:
    """The number of parameters of a part."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(part, eqx.is_array)))


def _in_words(found: dict[str, Any]) -> str:
    """One line for each part, with its kind and settings."""
    sums = "checksums agree" if found["sealed"] else "without checksums"
    lines = [
        f"{found['path']}: policy for {found['task'] or 'a task that it does not name'}",
        f"files         format {found['format']}, {found['bytes']:,} bytes, {sums}",
        *Spec.from_json(found["spec"]).lines(),
    ]
    for name in ("encoder", "generator", "chooser"):
        part = found[name]
        lines.append(f"{name:13} {'none' if part is None else _part(part)}")
    lines.append(f"candidates    {found['candidates']}")
    return "\n".join(lines)


def _part(part: dict[str, Any]) -> str:
    settings = "".join(
        f", {name.replace('_', ' ')} {value}"
        for name, value in _flat(part).items()
        if name not in ("kind", "parameters") and value is not None
    )
    return f"{part['kind']}, {part['parameters']:,} parameters{settings}"


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """The entries of a document with nested names joined: "network.width"."""
    found: dict[str, Any] = {}
    for name, value in document.items():
        inner = {f"{name}.{key}": v for key, v in _flat(value).items()} if isinstance(value, dict) else {}
        found |= inner or {name: value}
    return found
