"""A page that is one file: nothing in it is fetched from anywhere, and only our own script runs in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from otpr.errors import OtprError
from otpr.storage import write_text
from otpr_bench.report.charts import rules
from otpr_bench.report.html import Html, join, tag
from otpr_bench.report.style import Style

_FIRST_LINE = "<!doctype html><!-- a report of otpr -->"
"""Of every page; a file that begins otherwise is not overwritten."""


def page(title: str, looks: Sequence[Style], *content: Html) -> str:
    """A whole page.

    Its content security policy forbids every request, and every script and style sheet but the two in it:
    were something of a run's files to become HTML against all care, it could neither run nor call home.

    Args:
        title: in the window's bar.
        looks: styles of the series, by the number that charts were given.
        content: of the body.
    """
    assets = files("otpr_bench.report")
    style = (assets / "page.css").read_text(encoding="utf-8") + rules(looks)
    script = (assets / "page.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="otpr"),
        tag("title", title),
        tag("style", Html(style)),
    )
    body = tag("body", join(content), tag("script", Html(script)))
    return f"{_FIRST_LINE}\n{tag('html', head, body, lang='en')}\n"


def section(title: str, *content: Html | None) -> Html:
    """A part of a page with its heading; nothing where it has no content."""
    return tag("section", tag("h2", title), *content) if any(content) else Html()


def note(text: str) -> Html:
    """A remark below something."""
    return tag("p", text, class_="note")


def check_out(path: Path) -> None:
    """Refuse to overwrite what is not a report.

    Raises:
        OtprError: there is something else at `path`.
    """
    if path.is_dir():
        raise OtprError(f"--out {path} is a folder; give the name of an HTML file.")
    if path.exists():
        with open(path, "rb") as stream:
            if stream.read(len(_FIRST_LINE)) != _FIRST_LINE.encode():
                raise OtprError(f"{path} exists and is no report of otpr. Give another name with --out.")


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all; its folder is made.

    Raises:
        OtprError: it cannot be written, or would overwrite what is not a report.
    """
    check_out(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OtprError(f"{path.parent} cannot be made ({error.strerror}); give another --out.") from error
    write_text(path, text)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
