"""docs/data.md: every command runs as printed, with the output printed.

After a change of the output, `python tests/data/convert/test_docs.py` writes the page and its picture anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from otpr.cli.main import main

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "data.md"
FIXTURES = ROOT / "tests" / "data" / "fixtures"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
REFUSED = "demos/lift --out demos/lift "


def prepare(folder: Path) -> None:
    """The files that the page names."""
    shutil.copy(FIXTURES / "lift.hdf5", folder / "lift.hdf5")
    shutil.copytree(FIXTURES / "lerobot", folder / "my-robot")
    shutil.copytree(FIXTURES / "lerobot_images", folder / "my-camera")
    generator = np.random.default_rng(0)
    ends = np.arange(1, 41) % 10 == 0
    arrays = {
        "observations": generator.standard_normal((40, 5)),
        "actions": generator.uniform(-1, 1, (40, 2)),
    }
    np.savez(folder / "play.npz", **arrays, terminals=ends, qpos=np.zeros((40, 7)))
    arrays["actions"] *= 2
    with h5py.File(folder / "hopper.hdf5", "w") as file:
        for name, array in {**arrays, "rewards": np.full(40, 0.7), "timeouts": ends}.items():
            file[name] = array


def run(command: str) -> tuple[int, str]:
    """Exit status and what was printed."""
    program, *arguments = shlex.split(command)
    assert program == "otpr"
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        status = main(arguments)
    return status, out.getvalue()


def blocks(text: str) -> list[list[tuple[str, str]]]:
    """The commands of each block, each with the output that follows it."""
    found = []
    for body in BLOCK.findall(text):
        pieces = re.split(r"^\$ (.*)\n", body, flags=re.MULTILINE)[1:]
        found.append(list(zip(pieces[::2], pieces[1::2], strict=True)))
    return found


@pytest.mark.long
def test_every_command_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    commands = [command for block in blocks(PAGE.read_text()) for command in block]
    assert len(commands) >= 8
    for command, printed in commands:
        status, said = run(command)
        assert status == (2 if REFUSED in command else 0), said
        if printed:
            assert said == printed
    assert (tmp_path / "lift.png").exists()


def test_python_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    exec(compile(code, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.split() == ["4", "3", "4"]


def renew() -> None:
    """Write the outputs into the page, and the picture beside it."""
    text = PAGE.read_text()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare(Path(folder))
        for block in blocks(text):
            for command, printed in block:
                _, said = run(command)
                if printed:
                    text = text.replace(f"$ {command}\n{printed}", f"$ {command}\n{said}")
        shutil.copy("lift.png", ROOT / "docs" / "data_inspect.png")
    PAGE.write_text(text)


if __name__ == "__main__":
    sys.exit(renew())
