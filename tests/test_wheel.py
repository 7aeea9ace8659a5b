"""The built wheel in a fresh environment, with the core dependencies alone: `make test-wheel`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.notebooks import code_of

ROOT = Path(__file__).resolve().parents[1]
WHEEL = os.environ.get("OTPR_WHEEL", "")
SIMULATORS = ("mujoco", "metaworld", "ogbench", "robosuite", "gymnasium_robotics", "ray", "torch")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WHEEL, reason="needs a wheel: make test-wheel")]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("wheel") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, WHEEL], check=True)
    return folder / "bin" / "python"


def run(*arguments: str | Path, folder: Path) -> str:
    """What a program prints, in a folder of its own and without our sources on the path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"MPLBACKEND": "Agg"}
    done = subprocess.run(
        list(map(str, arguments)), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_simulator_is_installed(python: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([n for n in {SIMULATORS} if find_spec(n)])"
    assert run(python, "-c", code, folder=tmp_path).strip() == "[]"


def test_the_program_tells_what_is_there(python: Path, tmp_path: Path) -> None:
    otpr = python.parent / "otpr"
    assert "otpr quickstart" in run(otpr, "--help", folder=tmp_path)
    told = run(otpr, "info", folder=tmp_path)
    assert "pip install 'otpr[metaworld]'" in told
    assert "(package)" in run(otpr, "info", "--report", folder=tmp_path)
    assert "--epsilon" in run(otpr, "finetune", "otpr", "--help", folder=tmp_path)


def test_transport_is_there(python: Path, tmp_path: Path) -> None:
    code = (
        "import jax.numpy as jnp, otpr; from otpr.ot import solve_discrete; "
        "print(otpr.__version__, bool(solve_discrete(jnp.eye(3), 0.1).converged))"
    )
    assert run(python, "-c", code, folder=tmp_path).split()[1] == "True"


@pytest.mark.parametrize("name", ["transport", "toy_finetuning"])
def test_the_notebooks_run(name: str, python: Path, tmp_path: Path) -> None:
    code = "\n".join(code_of(ROOT / "notebooks" / f"{name}.ipynb"))
    run(python, "-c", code, folder=tmp_path)
