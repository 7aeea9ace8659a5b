"""Which code a result is of: a hash of the sources and packages that decide a run's numbers.

A commit would not do: most commits change documentation, tests, or an algorithm that the run did not use, and
would throw its hours away. So the hash is over the modules that a run of one algorithm on one task imports,
each without comments, docstrings, annotations and what is imported for them alone.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
from importlib import metadata
from pathlib import Path

from otpr.envs import user_env
from otpr.envs.catalog import SUITES

ROOT = Path(__file__).resolve().parents[1]
"""The folder of the package `otpr`."""

STARTS = ("otpr.training.finetune", "otpr.data.loading", "otpr.envs.worker")
"""What a run starts from; the algorithm and the task's simulator, which it imports by name, come on top."""

IGNORED = frozenset(
    {
        "otpr",
        "otpr.errors",
        "otpr_bench.report",
        "otpr.training.intervals",  # of an evaluation, a run uses the interval, to print it
        "otpr.storage",
        "otpr.training.lock",
        "otpr.training.progress",
        "otpr.training.run_directory",
        "otpr.training.scalars",
        "otpr.training.stopping",
        "otpr.training.versions",
    }
)
"""Imported by every run, and without influence on any number: they show, store, find and complain."""

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "gymnasium", "mujoco")
"""Whose versions can change a number, beside the simulator's own package."""

_FOR_TYPES = frozenset({"__future__", "collections.abc", "jaxtyping", "numpy.typing", "types", "typing"})
"""Imports from these that only annotations use are left out with them."""


def code_version(algorithm: str, task: str, root: Path = ROOT) -> str:
    """The version of the code that a run's numbers come from.

    Args:
        algorithm: a name out of `otpr.agents.algorithm_names()`.
        task: the task, which brings its simulator's module and package; of `module:factory` the module's own
            source too, without what it imports.
        root: the folder of the package's sources.

    Returns:
        The first 12 hexadecimal digits of a SHA-256.
    """
    digest = hashlib.sha256()
    for module in run_modules(algorithm, task, root):
        digest.update(f"{module} {essence(_file(module, root).read_text(encoding='utf-8'))}\n".encode())
    digest.update(_users_source(task).encode())
    for package in (*PACKAGES, _simulator_package(task)):
        digest.update(f"{package} {_installed(package)}\n".encode())
    return digest.hexdigest()[:12]


def run_modules(algorithm: str, task: str, root: Path = ROOT) -> list[str]:
    """The modules of otpr that a run imports and that may decide its numbers, sorted."""
    waiting = [*STARTS, f"otpr.agents.{algorithm}", _simulator_module(task)]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in found or module in IGNORED:
            continue
        found.add(module)
        # importing a module runs the packages it lies in
        waiting += [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)]
        names = _imports(_file(module, root).read_text(encoding="utf-8"))
        waiting += [name for name in names if _file(name, root).is_file()]
    return sorted(found)


@functools.cache
def essence(source: str) -> str:
    """The syntax tree of a source in one line, without what does not change what it computes."""
    tree = _Strip().visit(ast.parse(source))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return ast.dump(_DropImports(used).visit(tree))


class _Strip(ast.NodeTransformer):
    """Take out docstrings, annotations, casts and what is imported where types are checked only."""

    def __init__(self) -> None:
        self._fields: set[ast.AnnAssign] = set()

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)] or [ast.Pass()]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # that there is an annotation makes a field of a dataclass; which one it is does not matter
        self._fields |= {child for child in node.body if isinstance(child, ast.AnnAssign)}
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        value = None if node.value is None else self.visit(node.value)
        if node in self._fields:
            return ast.AnnAssign(node.target, ast.Constant(None), value, node.simple)
        return None if value is None else ast.Assign(targets=[node.target], value=value)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "cast" and len(node.args) == 2:
            return self.visit(node.args[1])
        return self.generic_visit(node)


class _DropImports(ast.NodeTransformer):
    def __init__(self, used: set[str]) -> None:
        self._used = used

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module in _FOR_TYPES:
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in self._used]
        return node if node.names else None


def _is_text(statement: ast.AST) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@functools.cache
def _imports(source: str) -> frozenset[str]:
    """What of otpr a source imports, at its top or within functions: modules, and names that may be some."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.partition(".")[0] == "otpr")


def _file(module: str, root: Path) -> Path:
    path = root.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _simulator_module(task: str) -> str:
    return "otpr.envs.user_env" if user_env.is_user_task(task) else SUITES[task.partition("/")[0]].module


def _simulator_package(task: str) -> str:
    # each is a distribution of the module's name, but for dashes, which do not matter
    return "gymnasium" if user_env.is_user_task(task) else SUITES[task.partition("/")[0]].package


def _users_source(task: str) -> str:
    """The essence of the module that a task `module:factory` names; nothing of any other task."""
    module, colon, _ = task.partition(":")
    if not colon or not user_env.is_user_task(task) or task.startswith("gym/"):
        return ""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    return essence(Path(spec.origin).read_text(encoding="utf-8"))


def _installed(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
