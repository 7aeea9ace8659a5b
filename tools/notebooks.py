"""Notebooks: executed as plain Python, with their outputs stored, and shown as pages.

    .venv/bin/python -m tools.notebooks    # execute all, and store what they print and draw

They use no magic commands, so that neither Jupyter nor its kernel is needed to run them.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_PROGRESS = re.compile(r"(demonstrations of|pretraining|fine-tuning|evaluation)\b.*|Policy: ")
"""Lines of speeds and of folders, which are of one machine."""


class Executed(NamedTuple):
    """What came of a notebook.

    Attributes:
        names: what its cells defined.
        outputs: of each cell of code, in the format of notebooks.
        text: all that was printed.
        pictures: how many figures were drawn.
    """

    names: dict[str, Any]
    outputs: list[list[dict[str, Any]]]
    text: str
    pictures: int


def main() -> None:
    """Execute all notebooks and write their outputs into them."""
    import os

    import matplotlib

    matplotlib.use("Agg")
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        document, outputs = json.loads(notebook.read_text()), iter(executed(notebook).outputs)
        os.chdir(ROOT)
        for cell in document["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"] = next(outputs)
        notebook.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
        print(f"{notebook.relative_to(ROOT)}: {notebook.stat().st_size / 1000:.0f} kB")


def executed(notebook: Path) -> Executed:
    """Run the cells of code one after the other, in one namespace; an exception of theirs is raised."""
    import matplotlib.pyplot as plt

    names: dict[str, Any] = {"__name__": "__notebook__"}
    outputs: list[list[dict[str, Any]]] = []
    printed: list[str] = []
    pictures = 0
    for source in code_of(notebook):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(source, str(notebook), "exec"), names)
        made: list[dict[str, Any]] = []
        if text := _last_lines(out.getvalue()):
            lines = text.splitlines(keepends=True)
            made.append({"output_type": "stream", "name": "stdout", "text": lines})
        for number in plt.get_fignums():
            made.append(_picture(plt.figure(number)))
            pictures += 1
        plt.close("all")
        outputs.append(made)
        printed.append(out.getvalue())
    return Executed(names, outputs, "".join(printed), pictures)


def _last_lines(text: str, most: int = 12) -> str:
    """What a terminal would show in the end: of a line that was written over, the last version."""
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    lines = [line for line in lines if line and not _PROGRESS.match(line)]
    kept = lines if len(lines) <= most else ["...", *lines[-most:]]
    return "".join(f"{line}\n" for line in kept)


def _picture(figure: Any) -> dict[str, Any]:
    """A figure as an output, of few colours."""
    from PIL import Image

    page, small = io.BytesIO(), io.BytesIO()
    figure.savefig(page, format="png", dpi=80)
    Image.open(page).convert("RGB").quantize(48).save(small, format="png", optimize=True)
    data = base64.b64encode(small.getvalue()).decode()
    return {"output_type": "display_data", "metadata": {}, "data": {"image/png": data}}


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


if __name__ == "__main__":
    main()
