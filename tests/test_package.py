from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import otpr

ROOT = Path(__file__).parents[1]


def test_one_version_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert otpr.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_importing_otpr_imports_neither_jax_nor_a_simulator():
    code = "import sys, otpr; print(sorted({'jax', 'numpy', 'mujoco', 'metaworld'} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_public_names_are_those_of_their_modules():
    from otpr.policies.loading import load_policy
    from otpr.spec import Spec

    assert otpr.load_policy is load_policy
    assert otpr.Spec is Spec
    assert {"load_policy", "Spec", "__version__"} == set(otpr.__all__) <= set(dir(otpr))


def test_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_polcy'"):
        otpr.load_polcy  # noqa: B018


def test_every_locked_package_has_one_version_and_hashes_and_no_host():
    text = (ROOT / "requirements" / "dev.txt").read_text()
    entries = re.findall(
        r"^([a-z0-9][a-z0-9._-]*)==\S+.*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.M
    )
    requirements = re.findall(r"^[^\s#].*", text, re.M)
    names = [name for name, _ in entries]
    assert len(entries) == len(requirements) == len(set(names))
    assert {
        "jax",
        "equinox",
        "optax",
        "gymnasium",
        "metaworld",
        "mujoco",
        "minari",
    } <= set(names)
    assert "://" not in text
