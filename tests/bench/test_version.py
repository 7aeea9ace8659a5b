from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from otpr.envs.catalog import SUITES
from otpr_bench.version import IGNORED, ROOT, code_version, essence, run_modules

TASK = "metaworld/peg-insert-side-v3"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the package's sources."""
    return shutil.copytree(ROOT, tmp_path / "otpr", ignore=shutil.ignore_patterns("__pycache__"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_it_is_of_the_sources_not_of_where_they_lie(root):
    assert code_version("otpr", TASK, root) == code_version("otpr", TASK)
    assert len(code_version("otpr", TASK)) == 12


def test_comments_docstrings_and_annotations_keep_it(root):
    before = code_version("otpr", TASK, root)
    file = root / "data" / "seeds.py"
    edit(file, "_EVALUATION_COUNT = 2**29", "# why not\n_EVALUATION_COUNT: int = 2**29")
    edit(file, '"""Which initial conditions', '"""What')
    edit(file, "seed: int, i: int) -> int:", "seed: object, i):")
    edit(file, "from __future__ import annotations", "from typing import Any")
    assert code_version("otpr", TASK, root) == before


def test_a_constant_changes_it(root):
    before = code_version("otpr", TASK, root)
    edit(root / "data" / "seeds.py", "_EVALUATION_COUNT = 2**29", "_EVALUATION_COUNT = 2**28")
    assert code_version("otpr", TASK, root) != before


def test_another_algorithms_file_keeps_it_and_its_own_changes_it(root):
    shutil.copy(root / "agents" / "otpr.py", root / "agents" / "rival.py")
    otpr, rival = code_version("otpr", TASK, root), code_version("rival", TASK, root)
    assert otpr == code_version("otpr", TASK)
    with open(root / "agents" / "rival.py", "a") as file:
        file.write("\nLIMIT = 3\n")
    assert code_version("otpr", TASK, root) == otpr
    assert code_version("rival", TASK, root) != rival


def test_what_algorithms_share_changes_all(root):
    before = code_version("otpr", TASK, root)
    with open(root / "agents" / "parts" / "agent.py", "a") as file:
        file.write("\nLIMIT = 3\n")
    assert code_version("otpr", TASK, root) != before


def test_another_simulators_file_keeps_it(root):
    before = code_version("otpr", TASK, root), code_version("otpr", "fetch/push", root)
    with open(root / "envs" / "fetch.py", "a") as file:
        file.write("\nLIMIT = 3\n")
    after = code_version("otpr", TASK, root), code_version("otpr", "fetch/push", root)
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False]


@pytest.mark.parametrize("package", ["jax", "numpy", "mujoco", "metaworld"])
def test_a_packages_version_changes_it(monkeypatch, package):
    before, installed = code_version("otpr", TASK), metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0" if name == package else installed(name))
    assert code_version("otpr", TASK) != before


def test_a_users_environment_is_of_its_own_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_bench_env.py").write_text("GRAVITY = 9.8\n")
    before = code_version("otpr", "my_bench_env:make")
    (tmp_path / "my_bench_env.py").write_text("GRAVITY = 9.8  # here\n")
    assert code_version("otpr", "my_bench_env:make") == before
    (tmp_path / "my_bench_env.py").write_text("GRAVITY = 1.6\n")
    assert code_version("otpr", "my_bench_env:make") != before


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x: int = 3", "x: float = 3", True),
        ("x: int = 3", "x = 3", True),
        ("def f():\n  x: int\n  return 1", "def f():\n  return 1", True),
        ("from typing import cast\ny = cast(int, f(1))", "y = f(1)", True),
        ("if TYPE_CHECKING:\n  import a\nx = 1", "x = 1", True),
        ("class A:\n  'What.'\n  x: int = 3", "class A:\n  x: float = 3\n  'Where.'", True),
        # a field of a dataclass is one for its annotation
        ("class A:\n  x: int = 3", "class A:\n  x = 3", False),
        ("class A:\n  x: int\n  y: int", "class A:\n  y: int\n  x: int", False),
        ("from a import f\nf()", "from b import f\nf()", False),
        ("x = 'text'", "x = 'other'", False),
        ("def f(a=1): pass", "def f(a=2): pass", False),
    ],
)
def test_the_essence_of_a_source(one, other, same):
    assert (essence(one) == essence(other)) is same


@pytest.mark.parametrize("package", sorted({suite.package for suite in SUITES.values()}))
def test_a_simulators_module_names_its_package(package):
    found = metadata.packages_distributions().get(package, [package])
    assert [name.replace("-", "_") for name in set(found)] == [package]


def test_what_is_ignored_exists():
    for module in IGNORED:
        path = ROOT.joinpath(*module.split(".")[1:])
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


RUN = """
import importlib, sys
from otpr_bench.version import STARTS
from otpr.envs import make_env
for module in STARTS:
    importlib.import_module(module)
from otpr.agents import agent_class
agent_class("otpr")
make_env("metaworld/peg-insert-side-v3").close()
print(*sorted(name for name in sys.modules if name.split(".")[0] == "otpr"))
"""


def test_all_that_a_run_imports_is_in_it():
    found = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    imported = {name for name in found.stdout.split() if not name.startswith("otpr_bench")}
    assert len(imported) > 30
    assert imported - IGNORED <= set(run_modules("otpr", TASK))
