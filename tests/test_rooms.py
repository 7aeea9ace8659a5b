"""Imports run one way, as docs/architecture.md says."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
ROOMS = ("ot", "diffusion", "networks", "policies", "data", "envs", "agents", "training", "serving", "cli")
MAY = {
    "ot": set(),
    "diffusion": set(),
    "networks": set(),
    "envs": set(),
    "policies": {"diffusion", "networks"},
    "data": {"envs"},
    "agents": {"ot", "diffusion", "networks", "policies", "data"},
    "training": {"diffusion", "networks", "policies", "data", "envs", "agents"},
    "serving": {"policies"},
    "cli": {"diffusion", "policies", "data", "envs", "agents", "training", "serving"},
}
"""What a room may import of the others; spec, errors and the files that lie beside the rooms are for all."""


def imported(file: Path) -> Iterator[str]:
    """The modules of the project that a file imports, also within functions; not those for types alone."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_lies_below_it(room: str):
    files = sorted((SOURCE / "otpr" / room).rglob("*.py"))
    assert files
    for file in files:
        found = {name.split(".")[1] for name in imported(file) if name.startswith("otpr.")}
        assert found & set(ROOMS) <= MAY[room] | {room}, file


def test_otpr_never_imports_its_benchmarks():
    for file in (SOURCE / "otpr").rglob("*.py"):
        assert not [name for name in imported(file) if name.split(".")[0] == "otpr_bench"], file


def test_no_modules_import_each_other_in_a_circle():
    """Modules as nodes, what they import when they are imported as edges; Kahn's algorithm leaves nothing."""
    names = {
        ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
        for file in SOURCE.rglob("*.py")
    }
    below = {
        name: {other for other in at_import(file, names) if other in names and other != name}
        for name, file in names.items()
    }
    while free := [name for name, others in below.items() if not others]:
        for name in free:
            del below[name]
        for others in below.values():
            others.difference_update(free)
    assert below == {}


def at_import(file: Path, modules: Collection[str]) -> Iterator[str]:
    """The modules that are imported while this one is, not those within functions or for types alone."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                # a module of a package, or a name within a module
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in modules else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
