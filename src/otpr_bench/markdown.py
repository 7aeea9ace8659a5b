"""A study in a Markdown page: its tables and its losses, between marks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from otpr.errors import OtprError
from otpr.storage import write_text
from otpr_bench.losses import where_ours_loses
from otpr_bench.study import Study
from otpr_bench.tables import (
    Table,
    aggregate_table,
    choice_table,
    failure_table,
    improvement_table,
    success_table,
)


def markdown(table: Table) -> str:
    """The table as GitHub's Markdown, without its note."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def blocks(study: Study) -> dict[str, str]:
    """The Markdown of every table and of the list of losses, by the name of its block in a page."""
    tables = {
        "tasks": success_table(study),
        "choice": choice_table(study),
        "aggregate": aggregate_table(study),
        "improvement": improvement_table(study),
        "failures": failure_table(study),
    }
    texts = {name: f"{markdown(table)}\n\n{table.note}" for name, table in tables.items()}
    if not study.failures:
        texts["failures"] = "No run failed."
    texts["losses"] = "\n".join(f"- {line}" for line in where_ours_loses(study))
    return {f"{study.suite}:{name}": text for name, text in texts.items()}


def update_page(page: Path, texts: Mapping[str, str]) -> bool:
    """Put texts between their marks, `<!-- bench:NAME -->` and `<!-- /bench -->`, in a Markdown page.

    Args:
        page: the page; it is written whole or not at all, and only where something changes.
        texts: by NAME, e.g. "arena-6:tasks". A page need not have a mark for each.

    Returns:
        Whether the page changed.

    Raises:
        OtprError: a mark of the page is not closed, or names no text.
    """
    before = page.read_text(encoding="utf-8")
    after = filled(before, texts, page)
    if after != before:
        write_text(page, after)
    return after != before


def filled(text: str, texts: Mapping[str, str], page: Path) -> str:
    """`update_page` without the writing: the text with its blocks filled. `page` is named in errors."""
    if len(_OPEN.findall(text)) != len(_BLOCK.findall(text)) or len(_OPEN.findall(text)) != text.count(
        _CLOSE
    ):
        raise OtprError(f"{page}: every `<!-- bench:NAME -->` needs a `{_CLOSE}` after it, before the next.")
    for name in _OPEN.findall(text):
        if name not in texts and name.partition(":")[0] in {known.partition(":")[0] for known in texts}:
            raise OtprError(f"{page}: no block is called {name!r}; known are {', '.join(sorted(texts))}.")
    return _BLOCK.sub(lambda match: _block(match, texts), text)


_CLOSE = "<!-- /bench -->"
_OPEN = re.compile(r"<!-- bench:([\w:.-]+) -->")
_BLOCK = re.compile(r"<!-- bench:([\w:.-]+) -->(?:(?!<!-- bench:).)*?<!-- /bench -->", re.DOTALL)


def _block(match: re.Match[str], texts: Mapping[str, str]) -> str:
    name = match[1]
    return f"<!-- bench:{name} -->\n{texts[name]}\n{_CLOSE}" if name in texts else match[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
