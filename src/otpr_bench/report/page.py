"""A page that is one file: nothing in it is fetched from anywhere, and no script runs in it."""

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

    Every text is escaped; only `Markup`, which `otpr_bench.plots` makes, is not. The page's content security
    policy forbids every request and every script: were something of a run's files to become HTML against all
    care, it could neither run nor call home. Styles within the page are allowed, since pictures have them.
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
    """Refuse to overwrite what is not a report, and a place that cannot be written to.

    Raises:
        OtprError: there is something else at `path`, or it cannot be written.
    """
    check_writable(path, "--out")
    if path.exists() and not path.read_bytes().startswith(_FIRST_LINE.encode()):
        raise OtprError(f"{path} exists and is no report of otpr. Give another name with --out.")


def write_page(path: Path, text: str) -> None:
    """Write a page whole or not at all; its folder is made.

    Raises:
        OtprError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OtprError(f"{path.parent} cannot be made ({error.strerror}); give another --out.") from error
    write_text(path, text)
