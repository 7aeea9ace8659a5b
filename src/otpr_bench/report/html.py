"""HTML that escapes by construction: text becomes part of a page through `tag` alone, which escapes it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

_VOID = frozenset({"meta", "br", "col"})


class Html(str):
    """Text that is HTML already: made by `tag`, by `join`, and of what this package itself writes."""

    __slots__ = ()


Child = str | Html | None


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Html:
    """An element.

    Args:
        name: of the element, e.g. "p".
        children: its content, one after the other. Text is escaped unless it is `Html`; None is nothing.
        attributes: by name, an underscore standing for a hyphen and one at the end for nothing
            (`class_="wide"`, `data_name="otpr"`). Values are escaped; True is an attribute without a value,
            None and False leave it out.
    """
    named = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{named}>")
    return Html(f"<{name}{named}>{join(children)}</{name}>")


def join(parts: Iterable[Child]) -> Html:
    """Parts one after the other, text escaped."""
    return Html("".join(_escaped(part) for part in parts))


def table(
    header: Sequence[Child], rows: Iterable[Sequence[Child]], *, caption: str = "", numbers: bool = True
) -> Html:
    """A table that scrolls sideways where it is wider than the page; its first column names the rows.

    Args:
        header: of the columns.
        rows: cells, as many as the header has.
        caption: what the table shows.
        numbers: whether the cells are numbers, which are set flush right, or text.
    """
    head = tag("tr", *(tag("th", cell, scope="col") for cell in header))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", head),
        tag("tbody", *body),
        class_=None if numbers else "text",
    )
    # with a keyboard, what scrolls must take the focus
    return tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption or "table")


def details(summary: str, *children: Child) -> Html:
    """Content that opens at a click."""
    return tag("details", tag("summary", summary), *children)


def bullets(lines: Iterable[str]) -> Html:
    """A list of sentences."""
    return tag("ul", *(tag("li", line) for line in lines))


def _escaped(part: Child) -> str:
    if part is None or isinstance(part, Html):
        return part or ""
    return html.escape(part)


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(_text(value))}"'


def _text(value: str | float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
