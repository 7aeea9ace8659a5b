"""`python -m tools.licences`: docs/licences.md, the licences of the locked packages."""

from __future__ import annotations

import re
import sysconfig
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
LOCK = ROOT / "requirements" / "dev.txt"

_HEAD = """# Licences

otpr itself is under the MIT licence. It contains no code of other projects. These are the packages that
`make setup` installs, with the licences in their metadata; `python -m tools.licences` writes the table. The
core of otpr and each extra install some of them. qpsolvers (LGPL) and quadprog (GPL) belong to the extra
`robosuite` alone; robosuite's repository states MIT. Models and data sets have licences of their own.

| package | version | licence |
|---|---|---|
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())
    print(PAGE.relative_to(ROOT))


def locked() -> dict[str, str]:
    """The version of each package of the lock."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)(?:\[[^\]]*\])?==(\S+)", LOCK.read_text(), re.MULTILINE))


def page() -> str:
    """docs/licences.md; what is not for this platform keeps the row that it has."""
    before = dict(
        re.findall(r"^\| (\S+) \| \S+ \| (.*) \|$", PAGE.read_text() if PAGE.exists() else "", re.M)
    )
    rows: list[str] = []
    for name, version in sorted(locked().items()):
        licence = licence_of(name) or before.get(name, "not installed where this page was written")
        rows.append(f"| {name} | {version} | {licence} |\n")
    return _HEAD + "".join(rows)


def licence_of(package: str) -> str | None:
    """What an installed package's metadata state: an SPDX expression, else classifiers, else a text."""
    # of this environment alone: Ray puts packages of its own on the path when it is imported
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = next(iter(metadata.distributions(name=package, path=places)), None)
    if found is None:
        return None
    known = found.metadata
    if "License-Expression" in known:
        return known["License-Expression"]
    classifiers = [line for line in known.get_all("Classifier") or [] if line.startswith("License ::")]
    names = [line.rpartition(" :: ")[2] for line in classifiers if not line.endswith("OSI Approved")]
    licence = known["License"] if "License" in known else ""  # noqa: SIM401 - its type has no get
    text = licence.strip().splitlines()
    if names:
        return ", ".join(names)
    return text[0].strip().replace("|", "/")[:80] if text else "not stated"


if __name__ == "__main__":
    main()
