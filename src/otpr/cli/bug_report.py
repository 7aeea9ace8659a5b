"""`otpr info --report`: information for maintainers as Markdown, to be pasted into an issue."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from otpr.envs.chunked import available_cores
from otpr.training.versions import software_versions

VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_X64", "JAX_PLATFORMS",
    "MUJOCO_EGL_DEVICE_ID", "MUJOCO_GL", "NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONPATH",
    "TMPDIR", "XLA_FLAGS",
)  # fmt: skip
"""Environment variables that affect otpr. None of them is secret."""

_REQUIREMENT = re.compile(r"^(?P<name>[\w.-]+).*?;.*\bextra == ['\"](?P<extra>[\w-]+)['\"]")


def bug_report() -> str:
    """Versions, devices, extras and settings of this installation, without names of users, hosts or files."""
    versions = software_versions()
    rows = [("otpr", f"{versions.pop('otpr')} ({_installed()})"), ("cores", str(available_cores()))]
    rows += [("memory", memory)] if (memory := _memory()) else []
    for name, value in versions.items():
        if name != "started":
            rows.append((name, ", ".join(value) if isinstance(value, list) else value or "not there"))
    set_ = [(name, os.environ[name]) for name in VARIABLES if os.environ.get(name)]
    lines = ["### otpr info --report", "", *_table(("what", "here"), rows)]
    lines += ["", "Extras:", "", *_table(("extra", "packages"), extras())]
    if set_:
        home = str(Path.home())
        lines += ["", "Environment variables:", ""]
        lines += _table(("variable", "value"), [(name, value.replace(home, "~")) for name, value in set_])
    return "\n".join(lines)


def extras() -> list[tuple[str, str]]:
    """Each extra of otpr with its packages and their installed versions."""
    packages: dict[str, list[str]] = {}
    for requirement in metadata.requires("otpr") or ():
        if found := _REQUIREMENT.match(requirement):
            packages.setdefault(found["extra"], []).append(found["name"])
    return [(extra, ", ".join(map(_version, names))) for extra, names in sorted(packages.items())]


def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"**no {package}**"


def _installed() -> str:
    """How otpr itself is installed."""
    origin = metadata.distribution("otpr").read_text("direct_url.json") or ""
    return "editable checkout" if '"editable": true' in origin else "package"


def _memory() -> str | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):  # not available everywhere
        return None
    return f"{size / 2**30:.1f} GiB"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"| {left} | {right} |" for left, right in [head, ("---", "---"), *rows]]
