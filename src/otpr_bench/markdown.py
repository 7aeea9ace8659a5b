"""The tables of a study, and the sentences on where our method loses, in a Markdown page between marks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from otpr.errors import OtprError
from otpr.storage import write_text
from otpr_bench import tables
from otpr_bench.study import Study


def markdown(table: tables.Table) -> str:
    """The table in GitHub's Markdown, without its note."""
    lines = [table.header, ("---",) * len(table.header), *table.rows]
    cells = [[" ".join(text.split()).replace("|", "\\|") for text in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def blocks(study: Study) -> dict[str, str]:
    """The Markdown of every table and of the losses, by the name of its block: `SUITE:TABLE`."""
    found = {
        "tasks": tables.success_table(study),
        "choice": tables.choice_table(study),
        "return": tables.return_table(study),
        "aggregate": tables.aggregate_table(study),
        "improvement": tables.improvement_table(study),
        "failures": tables.failure_table(study),
    }
    texts = {name: f"{markdown(table)}\n\n{table.note}" for name, table in found.items()}
    if not found["return"].rows:
        texts["return"] = "Every task pays 1 for success and nothing else."
    if not study.failures:
        texts["failures"] = "No run failed."
    texts["losses"] = "\n".join(f"- {line}" for line in tables.where_ours_loses(study))
    return {f"{study.suite}:{name}": text for name, text in texts.items()}


def update_page(page: Path, texts: Mapping[str, str]) -> bool:
    """Replace what lies between the marks `<!-- bench:NAME -->` and `<!-- /bench -->` of a Markdown page.

    Args:
        page: the page; it is written completely or not at all, and only if something changes.
        texts: the new texts by NAME, such as "arena-6:tasks". A page need not have a mark for each.

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
    """The text of a page with its blocks replaced as in `update_page`; errors name `page`."""
    names = _OPEN.findall(text)
    if not len(names) == len(_BLOCK.findall(text)) == text.count(_CLOSE):
        raise OtprError(f"{page}: every `<!-- bench:NAME -->` needs a `{_CLOSE}` after it, before the next.")
    suites = {known.partition(":")[0] for known in texts}
    for name in names:
        if name not in texts and name.partition(":")[0] in suites:
            raise OtprError(f"{page}: no block is called {name!r}; known are {', '.join(sorted(texts))}.")

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- bench:{name} -->\n{texts[name]}\n{_CLOSE}" if name in texts else match[0]

    return _BLOCK.sub(block, text)


_CLOSE = "<!-- /bench -->"
_OPEN = re.compile(r"<!-- bench:([\w:.-]+) -->")
_BLOCK = re.compile(r"<!-- bench:([\w:.-]+) -->(?:(?!<!-- bench:).)*?<!-- /bench -->", re.DOTALL)
