"""Self-contained HTML pages without external resources or scripts."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from otpr.errors import OtprError
from otpr.storage import check_writable, write_text

_FIRST_LINE = "<!doctype html><!-- a report of otpr -->"  # a file that begins otherwise is not overwritten


def render(template: str, **content: Any) -> str:
    """A whole page from a template of `templates/`, which extends `page.html`.

    Every text is escaped except `Markup` from `otpr_bench.plots`. As a second line of defence against HTML in
    a run's files, the page's content security policy forbids all requests and scripts. Inline styles are
    allowed, because pictures have them.
    """
    style = (files("otpr_bench.report") / "page.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("otpr_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(style=Markup(style), **content)
    return f"{_FIRST_LINE}\n{text}\n"


def check_out(path: Path) -> None:
    """Check that a path can be written to and does not hold anything but a report.

    Raises:
        OtprError: something other than a report is at `path`, or it cannot be written.
    """
    check_writable(path, "--out")
    if path.exists() and not path.read_bytes().startswith(_FIRST_LINE.encode()):
        raise OtprError(f"{path} exists and is no report of otpr. Give another name with --out.")


def write_page(path: Path, text: str) -> None:
    """Write a page atomically; its folder is created.

    Raises:
        OtprError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OtprError(f"{path.parent} cannot be made ({error.strerror}); give another --out.") from error
    write_text(path, text)
