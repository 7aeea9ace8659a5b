"""Loggers beside metrics.jsonl; W&B by its real library, offline. TensorBoard: test_run_directory.py."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from otpr.errors import OtprError
from otpr.training import sinks
from otpr.training.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "library"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()


def open_run(path: Path, *log: str, **options: Any) -> RunDirectory:
    return RunDirectory.open(
        path, command="finetune", config={"seed": 3, "agent": {"a": 1}}, log=log, **options
    )


def records(file: Path) -> list[Any]:
    """What is in one of W&B's files: blocks of 32 KiB of (sum 4, length 2, kind 1, part of a record)."""
    content, at, part, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # too short for a header: padding
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        part += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b""
    return found


def stored_by_wandb(run: Path) -> list[list[Any]]:
    """The records of each sitting of a run, the oldest first."""
    wandb.teardown()  # its own process writes the last of them
    return [records(file) for file in sorted(run.glob("wandb/offline-run-*/*.wandb"))]


def history(sitting: list[Any]) -> list[dict[str, Any]]:
    return [
        {
            item.nested_key[0] if item.nested_key else item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for record in sitting
        if record.WhichOneof("record_type") == "history"
    ]


def shown(sitting: list[Any]) -> list[dict[str, Any]]:
    """The rows, without what W&B adds but its step."""
    own = ("_runtime", "_timestamp", "_wandb")
    return [{name: value for name, value in row.items() if name not in own} for row in history(sitting)]


def test_wandb_shows_the_numbers_and_a_resumed_run_goes_on_with_its_run(tmp_path: Path):
    path = tmp_path / "walk"
    with open_run(path, "wandb", "tensorboard") as run:
        run.log({"env_steps": 0, "row": 1, "loss": 0.5, "note": "text"})
        run.log({"env_steps": 10, "row": 2, "eval/success": 0.25, "nan": float("nan")})
        run.log({"env_steps": 20, "row": 3, "loss": 0.125})
    assert (path / "tensorboard").is_dir()
    [first] = stored_by_wandb(path)
    assert shown(first) == [
        {"_step": 0, "env_steps": 0, "row": 1, "loss": 0.5},
        {"_step": 1, "env_steps": 10, "row": 2, "eval/success": 0.25},
        {"_step": 2, "env_steps": 20, "row": 3, "loss": 0.125},
    ]
    [told] = [record.run for record in first if record.WhichOneof("record_type") == "run"]
    config = {item.key: json.loads(item.value_json) for item in told.config.update}
    assert (told.project, told.display_name) == ("otpr", "walk")
    assert config.items() >= {"command": "finetune", "seed": 3, "agent": {"a": 1}}.items()
    [axis] = [record.metric for record in first if record.WhichOneof("record_type") == "metric"]
    assert (axis.glob_name, axis.step_metric) == ("*", "env_steps")

    with open_run(path, "wandb", resume=True) as run:
        run.rewind("row", 2)
        run.log({"env_steps": 20, "row": 3, "loss": 0.125})
        run.log({"env_steps": 30, "row": 4, "loss": 0.0625})
    [_, second] = stored_by_wandb(path)
    # offline, nothing knows what was sent: the record is whole, and every row is in it once
    assert shown(second) == [*shown(first), {"_step": 3, "env_steps": 30, "row": 4, "loss": 0.0625}]
    ids = {record.run.run_id for sitting in (first, second) for record in sitting if record.HasField("run")}
    assert ids == {json.loads((path / "logger_id.json").read_text())["id"]}
    assert json.loads((path / "config.json").read_text())["config"] == {"seed": 3, "agent": {"a": 1}}


def test_wandb_is_not_sent_again_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Online, a resumed run starts at the step after its last; offline, this has to be played."""
    with open_run(tmp_path / "run", "wandb") as run:
        run.log({"env_steps": 0, "loss": 0.5})
    monkeypatch.setattr(wandb.Run, "step", 1)
    with open_run(tmp_path / "run", "wandb", resume=True) as run:
        run.rewind("env_steps", 0)
        run.log({"env_steps": 10, "loss": 0.25})
    [_, second] = stored_by_wandb(tmp_path / "run")
    assert shown(second) == [{"_step": 1, "env_steps": 10, "loss": 0.25}]


def test_two_runs_of_wandb_go_on_side_by_side(tmp_path: Path):
    with open_run(tmp_path / "outer", "wandb") as outer, open_run(tmp_path / "inner", "wandb") as inner:
        inner.log({"updates": 1, "loss": 1.0})
        outer.log({"updates": 2, "loss": 2.0})
    for name, row in (("outer", {"updates": 2, "loss": 2.0}), ("inner", {"updates": 1, "loss": 1.0})):
        [sitting] = stored_by_wandb(tmp_path / name)
        assert shown(sitting) == [{"_step": 0, **row}]


def test_failure_of_wandb_says_what_to_do_and_the_run_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(**_: Any) -> None:
        raise wandb.errors.CommError("no way to the server.")

    with monkeypatch.context() as patch:
        patch.setattr(wandb, "init", fail)
        with pytest.raises(OtprError, match=r"Weights & Biases failed: no way to the server\. Log in with"):
            open_run(tmp_path / "run", "wandb")
    with open_run(tmp_path / "run", "none", resume=True) as run:
        run.log({"updates": 1})


def test_none_leaves_metrics_alone(tmp_path: Path):
    with open_run(tmp_path / "run", "none") as run:
        run.log({"updates": 1, "loss": 2.0})
        run.rewind("updates", 1)
        assert run.rows() == [{"updates": 1, "loss": 2.0}]
    assert {file.name for file in run.path.iterdir()} == {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "lock",
    }


def test_a_logger_named_at_a_resume_shows_the_rows_before_it_too(tmp_path: Path):
    with open_run(tmp_path / "run", "none") as run:
        run.log({"updates": 1, "loss": 2.0})
    with open_run(tmp_path / "run", "wandb", resume=True) as run:
        run.rewind("updates", 1)
    [sitting] = stored_by_wandb(tmp_path / "run")
    assert shown(sitting) == [{"_step": 0, "updates": 1, "loss": 2.0}]


class Database(types.ModuleType):
    """As much of Trackio as is used, by its documentation: its pins of Pillow exclude the locked one."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.rows: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.open: set[str] = set()

    def init(self, *, project: str, name: str, config: dict[str, Any], resume: str) -> types.SimpleNamespace:
        assert (project, resume, config) == (
            "otpr",
            "allow",
            {"command": "finetune", "seed": 3, "agent": {"a": 1}},
        )
        self.open.add(name)
        rows = self.rows.setdefault(name, [])
        return types.SimpleNamespace(
            log=lambda metrics, step: rows.append((step, metrics)), finish=lambda: self.open.discard(name)
        )

    def Api(self) -> types.SimpleNamespace:  # noqa: N802 - its name
        def runs(project: str) -> list[types.SimpleNamespace]:
            assert project == "otpr"
            assert not self.open
            return [
                types.SimpleNamespace(name=name, delete=lambda name=name: self.rows.pop(name))
                for name in self.rows
            ]

        return types.SimpleNamespace(runs=runs)


def test_trackio_shows_a_rewound_run_once_and_leaves_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    database = Database()
    database.rows["another"] = [(0, {"loss": 9.0})]
    monkeypatch.setitem(sys.modules, "trackio", database)
    with open_run(tmp_path / "walk", "trackio") as run:
        for step in (0, 10, 20):
            run.log({"env_steps": step, "loss": 0.5, "note": "text"})
    with open_run(tmp_path / "walk", "trackio", resume=True) as run:
        run.rewind("env_steps", 10)
        run.log({"env_steps": 20, "loss": 0.25})
    name = f"walk-{json.loads((tmp_path / 'walk/logger_id.json').read_text())['id']}"
    assert database.rows == {
        "another": [(0, {"loss": 9.0})],
        name: [(0, {"loss": 0.5}), (10, {"loss": 0.5}), (20, {"loss": 0.25})],
    }
    assert not database.open


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_missing_library_is_refused_before_anything_is_made(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(OtprError) as error:
        open_run(tmp_path / "run", "tensorboard", name)
    assert str(error.value) == f"--log {name} needs {name}. Install it with: pip install 'otpr[{name}]'"
    assert not (tmp_path / "run").exists()


def test_names_that_make_no_choice_are_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(OtprError, match=r"Unknown logger 'wandbb'\. Did you mean 'wandb'"):
        open_run(tmp_path / "run", "wandbb")
    with pytest.raises(OtprError, match="--log none stands alone, given none wandb"):
        open_run(tmp_path / "run", "none", "wandb")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": 3}'])
def test_damaged_id_is_named(tmp_path: Path, text: str):
    (tmp_path / "logger_id.json").write_text(text)
    with pytest.raises(OtprError, match=r"logger_id\.json is damaged"):
        sinks.open_sinks(("wandb",), tmp_path, {})
