"""Every link between the pages of the repository leads to a file, and to a heading, that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def prose(page: Path) -> str:
    """A page without its code blocks, in which `#` begins a comment and `](` may be code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub writes them in links: small letters, hyphens, no other signs."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page))
        if not link.startswith(("http", "mailto"))
    ]
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading in {target.name}"


def test_pages_that_the_code_names_are_there():
    """Errors, help and comments point to pages, some of them to a heading."""
    files = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
        *(ROOT / "examples").glob("*.py"),
    ]
    named = {
        link
        for file in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]
        for link in re.findall(r"docs/[\w/-]+\.md(?:#[\w-]+)?", file.read_text())
    }
    assert len(named) > 20
    for link in named:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(ROOT / path), f"{link}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_of_prose_is_longer_than_120_characters(page):
    generated = re.sub(r"<!-- bench:.*?<!-- /bench -->", "", prose(page), flags=re.DOTALL)
    lines = [line for line in generated.splitlines() if not line.lstrip().startswith(("|", "![", "`"))]
    assert [line for line in lines if len(line) > 120] == []


def test_headings_are_found_as_github_writes_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# The arena: OTPR and `nine` peers?\n```\n# a comment\n```\n## When H(s, a) = 0\n")
    assert anchors(page) == {"the-arena-otpr-and-nine-peers", "when-hs-a--0"}
