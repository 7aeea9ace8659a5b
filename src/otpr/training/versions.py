"""The software and hardware of a run, to trace changed results to their cause."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from otpr.envs.catalog import SUITES
from otpr.envs.chunked import available_cores

PACKAGES = (
    "otpr", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "gymnasium", "minari",
    *dict.fromkeys(("mujoco", *(suite.package for suite in SUITES.values()))),
)  # fmt: skip
"""The packages whose versions can change a result, those of all simulators among them."""


def software_versions() -> dict[str, Any]:
    """Start time (UTC), Python, packages, git commit, platform, cores and JAX devices of a run.

    A package that is not installed, and the commit where the code is not in its own git checkout, are None.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{package: _package_version(package) for package in PACKAGES},
        "git_commit": git_commit(),
        "platform": platform.platform(),
        "cores": available_cores(),
        "devices": [str(device) for device in jax.devices()],
    }


def _package_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def code_version() -> str:
    """The package's version, and the commit it was run at where that is known: "0.1.0 (3ed6795f0c1e)"."""
    version, commit = metadata.version("otpr"), git_commit()
    if commit is None:
        return version
    return f"{version} ({commit[:12]}{commit[40:]})"


def git_commit() -> str | None:
    """The commit of otpr's own checkout, ending in "+changes" if files differ from it."""
    checkout = Path(__file__).resolve().parents[3]
    # Otherwise git would report any repository that contains an installed package.
    if not (checkout / ".git").exists():
        return None
    git = ["git", "-C", str(checkout)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode or status.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
