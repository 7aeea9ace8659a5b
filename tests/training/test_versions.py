from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import jax
import pytest

import otpr
from otpr.training import versions


def checkout(folder: Path) -> Path:
    """A git repository with one commit of one file, laid out as ours; the module's file in it."""
    module = folder / "src" / "otpr" / "training" / "versions.py"
    module.parent.mkdir(parents=True)
    module.write_text("first")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    return module


def test_versions_are_those_of_the_packages_in_use():
    found = versions.software_versions()
    assert found["python"] == platform.python_version()
    assert found["jax"] == jax.__version__
    assert found["otpr"] == otpr.__version__
    assert found["metaworld"] == metadata.version("metaworld")
    assert found["ogbench"] == metadata.version("ogbench")
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert found["devices"] == [str(device) for device in jax.devices()]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found["started"])


def test_package_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(versions, "PACKAGES", ("numpy", "no-such-package"))
    found = versions.software_versions()
    assert found["no-such-package"] is None
    assert found["numpy"] == metadata.version("numpy")


def test_commit_is_that_of_the_checkout_and_tells_of_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module = checkout(tmp_path)
    monkeypatch.setattr(versions, "__file__", str(module))
    commit = versions.git_commit()
    assert commit is not None
    assert re.fullmatch(r"[0-9a-f]{40}", commit)
    assert versions.code_version() == f"{otpr.__version__} ({commit[:12]})"
    module.write_text("second")
    assert versions.git_commit() == f"{commit}+changes"
    assert versions.code_version() == f"{otpr.__version__} ({commit[:12]}+changes)"


def test_repository_around_an_installed_package_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    module = (
        checkout(tmp_path).parents[3] / "venv" / "lib" / "site-packages" / "otpr" / "training" / "versions.py"
    )
    monkeypatch.setattr(versions, "__file__", str(module))
    assert versions.git_commit() is None
    assert versions.code_version() == otpr.__version__
