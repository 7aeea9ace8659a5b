"""The documentation as a site: `stage` writes its pages to build/pages, `check` looks through what was built.

    .venv/bin/python -m tools.site stage
    .venv-docs/bin/zensical build --strict
    .venv/bin/python -m tools.site check

The pages of docs/ are copied with two changes. Headings get the anchors that links in the repository use,
those of GitHub. Links to files of the repository that are no pages become the file's path, since the site may
be read without the repository.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tools import notebooks

ROOT = Path(__file__).resolve().parents[1]
DOCS, PAGES, SITE = ROOT / "docs", ROOT / "build" / "pages", ROOT / "site"

OUTSIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
"""Files of the repository's root that are pages, too, by the page's name."""

_CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_RAW = re.compile(r"\|---|\]\(|```|\*\*[A-Za-z`]|::: otpr")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("stage", "check"))
    if parser.parse_args().what == "stage":
        stage()
        print(f"{sum(1 for _ in PAGES.rglob('*.md'))} pages in {PAGES.relative_to(ROOT)}")
    elif faults := check(SITE):
        sys.exit("\n".join(faults))


def stage() -> None:
    """Write all pages, copied and generated, to build/pages."""
    from tools import reference

    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(DOCS, PAGES)
    shutil.copy(Path(__file__).with_name("site.css"), PAGES)
    for page in sorted(PAGES.rglob("*.md")):
        source = DOCS / page.relative_to(PAGES)
        page.write_text(prepared(source.read_text(), source))
    for name, page in OUTSIDE.items():
        if page != "index.md":
            (PAGES / page).write_text(prepared((ROOT / name).read_text(), ROOT / name))
    (PAGES / "algorithms" / "index.md").write_text(index("Algorithms", DOCS / "algorithms"))
    (PAGES / "devlog" / "index.md").write_text(index("Development log", DOCS / "devlog"))
    (PAGES / "notebooks").mkdir()
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = notebooks.as_page(notebook, PAGES / "notebooks")
        (PAGES / "notebooks" / f"{notebook.stem}.md").write_text(anchored(text))
    api = PAGES / "reference" / "api"
    api.mkdir(parents=True)
    for package in reference.PACKAGES:
        (api / f"{package}.md").write_text(reference.module_page(package))
    generated = {
        "commands": reference.commands_page(),
        "settings": reference.settings_page(),
        "metrics": reference.metrics_page(DOCS),
    }
    for name, text in generated.items():
        (PAGES / "reference" / f"{name}.md").write_text(anchored(text))


def index(title: str, folder: Path) -> str:
    """A page that lists the pages of a folder by their titles."""
    rows = [f"# {title}", ""]
    for file in sorted(folder.glob("*.md")):
        heading = re.search(r"^# (.*)$", file.read_text(), re.MULTILINE)
        assert heading is not None, file
        rows.append(f"- [{heading[1].removeprefix('Development log: ')}]({file.name})")
    return "\n".join(rows) + "\n"


def prepared(text: str, source: Path) -> str:
    """A page of the repository as a page of the site.

    Args:
        text: its Markdown.
        source: where it is in the repository.
    """
    pieces = _CODE.split(text)
    text = "".join(piece if i % 2 else relinked(piece, source) for i, piece in enumerate(merged(pieces)))
    # a comment ends where its line does, for GitHub; here it takes what follows along
    text = re.sub(r"^(<!--.*?-->)$", r"\n\1\n", text, flags=re.MULTILINE)
    return anchored(text)


def merged(pieces: list[str]) -> list[str]:
    """Prose and blocks of code in turn: inline code goes back into the prose, for links may hold it."""
    kept = [""]
    for i, piece in enumerate(pieces):
        block = i % 2 == 1 and piece.lstrip().startswith("```")
        if block:
            kept += [piece, ""]
        else:
            kept[-1] += piece
    return kept


def relinked(prose: str, source: Path) -> str:
    """Links as they are on the site."""

    def link(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        if target.startswith(("http", "mailto", "#")):
            return found[0]
        path, _, anchor = target.partition("#")
        file = (source.parent / path).resolve()
        inside = "/".join(file.relative_to(ROOT).parts)
        here = PAGES / source.relative_to(DOCS) if source.is_relative_to(DOCS) else PAGES / source.name
        if inside in OUTSIDE:
            page = PAGES / OUTSIDE[inside]
        elif file.is_relative_to(DOCS) and (file / "index.md").parent.name in ("algorithms", "devlog"):
            page = PAGES / file.relative_to(DOCS) / "index.md"
        elif file.is_relative_to(DOCS):
            page = PAGES / file.relative_to(DOCS)
        elif picture:
            raise ValueError(f"{source}: the picture {target} is not in docs/")
        else:
            return text if f"`{inside}" in text else f"{text} (`{inside}`)"
        return f"{picture}[{text}]({os.path.relpath(page, here.parent)}{'#' if anchor else ''}{anchor})"

    return _LINK.sub(link, prose)


def anchored(text: str) -> str:
    """Every heading with the anchor that GitHub gives it."""
    pieces = merged(_CODE.split(text))

    def heading(found: re.Match[str]) -> str:
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", found[2])
        anchor = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
        return f"{found[1]} {found[2]} {{ #{anchor} }}"

    marked = re.compile(r"^(#+) (.*)$", re.MULTILINE)
    return "".join(piece if i % 2 else marked.sub(heading, piece) for i, piece in enumerate(pieces))


# --------------------------------------------------------------------------------------------- the check


class _Page(HTMLParser):
    """What a page links to, what may be linked to in it, and its text without code."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := named.get(name))]
        self.anchors |= {value for name in ("id", "name") if (value := named.get(name))}
        self._code += tag in ("pre", "code", "script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("pre", "code", "script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.text.append(data)


def check(site: Path) -> list[str]:
    """What is wrong with a built site: links that lead nowhere, Markdown that was not understood.

    Args:
        site: its folder.

    Returns:
        a line for each fault, none where all is well.
    """
    pages: dict[Path, _Page] = {}
    for file in sorted(site.rglob("*.html")):
        pages[file] = _Page()
        pages[file].feed(file.read_text())
    faults = [] if pages else [f"{site} has no pages"]
    for file, page in pages.items():
        where = file.relative_to(site)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or file.name == "404.html":
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                faults.append(f"{where}: {link} leads nowhere")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                faults.append(f"{where}: {link} has no such anchor")
        text = "".join(page.text)
        if found := _RAW.search(text):
            around = text[max(found.start() - 40, 0) : found.end() + 40]
            faults.append(f"{where}: Markdown that was not understood: {around!r}")
    return faults


if __name__ == "__main__":
    main()
