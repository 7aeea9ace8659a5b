"""The notebooks run from the first cell to the last.

Their code is plain Python, so it is executed as such: Jupyter and its kernel would be twenty packages more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
import pytest

from tools.notebooks import as_page, code_of, executed

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Back in the working directory afterwards, whatever a notebook does to it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    matplotlib.use("Agg")


@pytest.mark.parametrize("notebook", ALL, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_plain_python_of_format_4_and_small(notebook: Path) -> None:
    document = json.loads(notebook.read_text())
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert notebook.stat().st_size < 400_000
    for source in code_of(notebook):
        compile(source, str(notebook), "exec")  # no magic commands


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_the_notebook_of_transport_runs() -> None:
    run = executed(NOTEBOOKS / "transport.ipynb")
    assert "H averages to 1.000" in run.text
    assert run.pictures == 3


@pytest.mark.long
@pytest.mark.usefixtures("place")
def test_the_toy_is_fine_tuned_and_gains() -> None:
    run = executed(NOTEBOOKS / "toy_finetuning.ipynb")
    rows = run.names["rows"]
    assert rows[-1]["eval/success_rate"] > rows[0]["eval/success_rate"] + 0.2
    assert run.pictures == 2


def test_a_page_has_the_text_the_code_and_the_pictures(tmp_path: Path) -> None:
    page = as_page(NOTEBOOKS / "transport.ipynb", tmp_path)
    assert page.startswith("# Optimal transport alone")
    assert page.count("```python\n") == len(code_of(NOTEBOOKS / "transport.ipynb"))
    assert page.count("![") == len(list(tmp_path.glob("*.png"))) == 3
