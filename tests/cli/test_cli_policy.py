"""`otpr policy inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from otpr.cli.main import main
from otpr.policies.files import FORMAT
from otpr.policies.loading import load_policy
from tiny import POLICY, TASK, chooser, policy

FIXTURES = Path(__file__).parents[1] / "fixtures"


def inspected(path: Path | str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["policy", "inspect", str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_says_what_the_policy_is_takes_and_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    saved = policy(history=2, execute=4)
    saved.save(tmp_path / "run" / "policy", task=TASK)
    found = inspected(tmp_path / "run", capsys)
    assert found["path"] == str(tmp_path / "run" / "policy")
    assert (found["format"], found["sealed"], found["task"]) == (FORMAT, True, TASK)
    assert found["spec"] == saved.spec.to_json()
    assert (found["spec"]["history"], found["spec"]["horizon"], found["spec"]["execute"]) == (2, 8, 4)
    files = [file.stat().st_size for file in (tmp_path / "run" / "policy").iterdir()]
    assert found["bytes"] == sum(files)
    assert found["encoder"]["parameters"] == 2 * 39  # a mean and a scale of each number
    assert found["generator"]["kind"] == "diffusion"
    assert found["generator"]["denoising_steps"] == POLICY["denoising_steps"]
    assert (found["chooser"], found["candidates"]) == (None, 1)


def test_in_words_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    saved = policy(chooser=chooser(), execute=4)
    saved.save(tmp_path / "policy", task=TASK)
    assert main(["policy", "inspect", str(tmp_path / "policy")]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    assert lines[0] == f"{tmp_path / 'policy'}: policy for {TASK}"
    assert lines[1].startswith(f"files         format {FORMAT}, ")
    assert lines[1].endswith(" bytes, checksums agree")
    assert lines[2 : 2 + len(saved.spec.lines())] == saved.spec.lines()
    parts = dict(line.split(maxsplit=1) for line in lines[2 + len(saved.spec.lines()) :])
    assert parts.keys() == {"encoder", "generator", "chooser", "candidates"}
    assert parts["generator"].startswith("diffusion, ")
    assert f"denoising steps {POLICY['denoising_steps']}" in parts["generator"]
    assert parts["chooser"].startswith("otpr/compatibility, ")
    assert parts["candidates"] == "6"


@pytest.mark.parametrize("name", sorted(folder.name for folder in FIXTURES.glob("policy-*")))
def test_policies_of_earlier_formats_are_told_by_their_format(name: str, capsys: pytest.CaptureFixture[str]):
    found = inspected(FIXTURES / name, capsys)
    number = int(name.partition("-")[2])
    assert (found["format"], found["sealed"]) == (number, number > 1)
    assert found["spec"] == load_policy(FIXTURES / name).spec.to_json()


def test_damage_is_an_error_that_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    policy().save(tmp_path / "policy", task=TASK)
    [weights] = (tmp_path / "policy").glob("weights.*")
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    assert main(["policy", "inspect", str(tmp_path / "policy")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert str(weights) in said.err


def test_where_there_is_none_it_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["policy", "inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"otpr: There is no policy in {tmp_path}")


def test_misspelt_second_word_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]):
    assert main(["policy", "inspct", "x"]) == 2
    assert capsys.readouterr().err == (
        "otpr: Unknown command after `otpr policy`: 'inspct'. Did you mean 'inspect' or 'import'?\n"
    )
