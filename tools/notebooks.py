"""Notebooks as pages, and their code as a script: both need nothing but the notebook's JSON."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells, as the format of notebooks has them."""
    return json.loads(notebook.read_text())["cells"]


def code_of(notebook: Path) -> list[str]:
    """The source of each cell of code."""
    return ["".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code"]


def as_page(notebook: Path, folder: Path) -> str:
    """A Markdown page of a notebook with its outputs; pictures are written beside it.

    Args:
        notebook: the file.
        folder: of the page.
    """
    parts: list[str] = []
    for number, cell in enumerate(cells(notebook)):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = folder / f"{notebook.stem}-{number}.png"
                picture.write_bytes(base64.b64decode("".join(data["image/png"])))
                parts.append(f"![output of the cell above]({picture.name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    parts.append(f"The notebook is `notebooks/{notebook.name}` in the repository.")
    return "\n\n".join(parts) + "\n"
