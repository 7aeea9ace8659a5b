"""The pages of the site: staging, what is generated, and the check of what `make docs` has built."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from otpr.agents import agent_config, algorithm_names
from otpr.cli.main import command_classes, option_names
from tools import licences, reference, site

ROOT = Path(__file__).resolve().parents[1]
NAV = re.findall(r'"([\w./-]+\.md)"', (ROOT / "zensical.toml").read_text())
DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation_once() -> None:
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    pages |= {"changelog.md", "contributing.md", "algorithms/index.md", "devlog/index.md"}
    pages |= {f"reference/{name}.md" for name in ("commands", "settings", "metrics")}
    pages |= {f"reference/api/{package}.md" for package in reference.PACKAGES}
    pages |= {f"notebooks/{file.stem}.md" for file in (ROOT / "notebooks").glob("*.ipynb")}
    assert len(NAV) == len(set(NAV))
    assert set(NAV) == pages
    assert tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["docs_dir"] == "build/pages"


def test_links_out_of_the_documentation_become_paths() -> None:
    source = DOCS / "algorithms" / "fql.md"
    text = "[raw](../../results/quickstart), [changes](../../CHANGELOG.md), "
    text += "[QC](qc.md#checks), [all](../algorithms)"
    assert site.prepared(text, source) == (
        "raw (`results/quickstart`), [changes](../changelog.md), [QC](qc.md#checks), [all](index.md)"
    )
    assert site.prepared("[`src/otpr/ot/`](../../src/otpr/ot)", source) == "`src/otpr/ot/`"


def test_headings_have_githubs_anchors_and_code_is_left_alone() -> None:
    text = "# A `b`: c, d\n\n```sh\n# [x](y)\n```\n\n## `--log`\n"
    expected = "# A `b`: c, d { #a-b-c-d }\n\n```sh\n# [x](y)\n```\n\n## `--log` { #--log }\n"
    assert site.prepared(text, DOCS / "x.md") == expected


def test_the_check_finds_dead_links_and_markdown_that_was_not_understood(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="b.html#not">b</a><a href="c.html">c</a>'
        "<code>|---|</code><a href='https://example.org'>x</a>"
    )
    (tmp_path / "b.html").write_text('<h2 id="there">B</h2><img src="no.png"><p>|---|---|</p>')
    assert site.check(tmp_path) == [
        "a.html: b.html#not has no such anchor",
        "a.html: c.html leads nowhere",
        "b.html: no.png leads nowhere",
        "b.html: Markdown that was not understood: 'B|---|---|'",
    ]
    assert site.check(tmp_path / "empty") == [f"{tmp_path / 'empty'} has no pages"]


def test_every_option_of_every_command_is_explained() -> None:
    page = reference.commands_page()
    commands, groups = command_classes()
    classes = {name: cls for name, cls in commands.items() if name not in groups}
    classes |= {f"{name} {second}": cls for name, of in groups.items() for second, cls in of.items()}
    for name, cls in classes.items():
        assert f"\n## otpr {name}\n" in page
        options = list(reference.options_of(cls))
        assert {option.meaning for option in options} & {""} == set(), name
        known = set(option_names(cls)) if name != "finetune" else None
        for option in options:
            if option.name.startswith("--") and known is not None:
                assert option.name in known


def test_every_setting_has_its_value_and_its_meaning() -> None:
    page = reference.settings_page()
    for algorithm in algorithm_names():
        part = page.split(f"\n## {algorithm}\n")[1].split("\n## ")[0]
        config = agent_config(algorithm)
        for field in dataclasses.fields(config):
            [row] = [line for line in part.splitlines() if line.startswith(f"| `{field.name}` |")]
            cells = [cell.strip() for cell in row.strip("|").split(" | ")]
            value = getattr(config, field.name)
            shown = str(value).lower() if isinstance(value, bool) else str(value)
            assert cells[1].strip("`") == shown
            assert len(cells[-1]) > 10


def test_every_metric_is_collected() -> None:
    page = reference.metrics_page(DOCS)
    for name in ("eval/success_rate", "otpr/row_error", "policy/entropy", "critic/explained_variance"):
        assert f"| `{name}` |" in page


@pytest.mark.parametrize("package", reference.PACKAGES)
def test_every_module_with_something_public_is_on_a_page(package: str) -> None:
    assert f"::: {package}" in reference.module_page(package)


def test_no_package_is_left_out() -> None:
    folders = {file.parent for file in (ROOT / "src" / "otpr").rglob("__init__.py")}
    packages = {".".join(folder.relative_to(ROOT / "src").parts) for folder in folders}
    assert packages - set(reference.PACKAGES) == {"otpr.cli"}


def test_the_licences_are_those_of_the_lock() -> None:
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", licences.PAGE.read_text(), re.MULTILINE)[1:]
    assert {name: version for name, version, _ in rows if name != "package"} == licences.locked()
    for name, _, licence in rows:
        installed = licences.licence_of(name)
        assert installed in (None, licence)
