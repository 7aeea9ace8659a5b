from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from otpr.errors import OtprError
from otpr.training import run_directory
from otpr.training.run_directory import RunDirectory, read_rows

CONFIG = {"seed": 3, "critic": {"widths": (256, 256), "expectile": 0.7}, "preset": "default"}


def open_run(path: Path, **options: Any) -> RunDirectory:
    return RunDirectory.open(path, **{"command": "finetune", "config": CONFIG, **options})


def snapshot(path: Path) -> dict[str, bytes]:
    """Every file below `path` by name."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def scalar_events(path: Path) -> EventAccumulator:
    events = EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return events


def tensorboard(path: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard shows them."""
    events = scalar_events(path)
    return {
        tag: [
            (event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)
        ]
        for tag in events.Tags()["tensors"]
    }


def test_new_run_writes_down_what_it_was_told_and_what_it_runs_on(tmp_path: Path):
    path = tmp_path / "runs" / "first"
    with open_run(path) as run:
        assert run.path == path
        assert run.checkpoints == path / "checkpoints"
        assert run.videos == path / "videos"
        assert run.config == {
            "seed": 3,
            "critic": {"widths": [256, 256], "expectile": 0.7},
            "preset": "default",
        }
    stored = json.loads((path / "config.json").read_text())
    assert stored == {"command": "finetune", "config": run.config}
    [start] = json.loads((path / "versions.json").read_text())
    assert start["numpy"] == np.__version__
    assert start["devices"] == ["TFRT_CPU_0"] or "cpu" in start["devices"][0].lower()
    assert {"python", "otpr", "jax", "mujoco", "git_commit", "platform", "started"} <= start.keys()
    assert read_rows(path) == []
    assert [file.name for file in (tmp_path / "runs").iterdir()] == ["first"]


def test_empty_directory_may_be_used(tmp_path: Path):
    open_run(tmp_path).close()
    assert (tmp_path / "config.json").is_file()


def test_rows_come_back_as_logged(tmp_path: Path):
    with open_run(tmp_path / "run") as run:
        run.log({"env_steps": 0, "loss": 0.1, "note": "start", "flag": True, "none": None})
        run.log({"env_steps": np.int64(10), "loss": np.float32(0.1), "late key": jnp.asarray(2.5)})
        expected = [
            {"env_steps": 0, "loss": 0.1, "note": "start", "flag": True, "none": None},
            {"env_steps": 10, "loss": float(np.float32(0.1)), "late key": 2.5},
        ]
        assert run.rows() == expected
    assert read_rows(tmp_path / "run") == expected


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path: Path):
    with open_run(tmp_path / "run") as run:
        run.log({"updates": 1, "loss": 2.0})
        assert (tmp_path / "run" / "metrics.jsonl").read_text() == '{"updates": 1, "loss": 2.0}\n'


def test_values_that_are_not_finite_become_null(tmp_path: Path):
    with open_run(tmp_path / "run") as run:
        run.log({"env_steps": 1, "a": float("nan"), "b": np.float32("inf"), "c": jnp.asarray(-jnp.inf)})
        assert run.rows() == [{"env_steps": 1, "a": None, "b": None, "c": None}]


def test_numbers_go_to_tensorboard_by_env_steps_or_else_updates(tmp_path: Path):
    with open_run(tmp_path / "run") as run:
        run.log({"env_steps": 5, "updates": 100, "loss": 0.5, "note": "text", "nan": float("nan")})
        run.log({"updates": 200, "loss": 0.25})
    assert tensorboard(tmp_path / "run") == {"loss": [(5, 0.5), (200, 0.25)], "updates": [(5, 100.0)]}


@pytest.mark.parametrize("value", [[1, 2], np.zeros(2), {"a": 1}, object()])
def test_value_that_is_no_scalar_is_refused(tmp_path: Path, value: Any):
    with open_run(tmp_path / "run") as run:
        with pytest.raises(TypeError, match="loss must be a number"):
            run.log({"env_steps": 1, "loss": value})
        assert run.rows() == []


def test_row_without_a_step_is_refused(tmp_path: Path):
    with open_run(tmp_path / "run") as run, pytest.raises(ValueError, match=r"env_steps.*updates.*loss"):
        run.log({"loss": 1.0})


def test_torn_last_line_is_left_out_and_cut_off_on_resume(tmp_path: Path):
    path = tmp_path / "run"
    with open_run(path) as run:
        run.log({"env_steps": 1})
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"env_steps": 2, "lo')
    assert read_rows(path) == [{"env_steps": 1}]
    with open_run(path, resume=True) as run:
        run.log({"env_steps": 3})
    assert (path / "metrics.jsonl").read_text() == '{"env_steps": 1}\n{"env_steps": 3}\n'


@pytest.mark.parametrize("line", ['{"env_steps": 2, "lo', "[1, 2]"])
def test_broken_line_before_the_last_is_an_error_that_names_it(tmp_path: Path, line: str):
    path = tmp_path / "run"
    open_run(path).close()
    (path / "metrics.jsonl").write_text(f'{{"env_steps": 1}}\n{line}\n{{"env_steps": 3}}\n')
    with pytest.raises(OtprError, match=r"metrics\.jsonl, line 2 is not"):
        read_rows(path)


def test_directory_that_is_no_run_has_no_rows(tmp_path: Path):
    with pytest.raises(OtprError, match="not a run directory"):
        read_rows(tmp_path)


def test_rewind_drops_exactly_the_rows_after_the_checkpoint(tmp_path: Path):
    path = tmp_path / "run"
    with open_run(path) as run:
        for step in (0, 10, 20, 20, 30):
            run.log({"env_steps": step, "loss": step / 10})
        run.log({"updates": 99, "imitation": 1.0})
        run.log({"env_steps": 21})
    with open_run(path, resume=True) as run:
        run.rewind("env_steps", 20)
        kept = [{"env_steps": step, "loss": step / 10} for step in (0, 10, 20, 20)]
        assert run.rows() == [*kept, {"updates": 99, "imitation": 1.0}]
        run.log({"env_steps": 30, "loss": 3.5})
        assert run.rows()[-1] == {"env_steps": 30, "loss": 3.5}
        assert len(run.rows()) == 6


def test_tensorboard_shows_a_rewound_run_once(tmp_path: Path):
    path = tmp_path / "run"
    with open_run(path) as run:
        for step in (0, 10, 20, 30):
            run.log({"env_steps": step, "loss": 1.0})
    times = [event.wall_time for event in scalar_events(path).Tensors("loss")]
    with open_run(path, resume=True) as run:
        run.rewind("env_steps", 10)
        for step in (20, 30, 40):
            run.log({"env_steps": step, "loss": 2.0})
    assert tensorboard(path)["loss"] == [(0, 1.0), (10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]
    assert [event.wall_time for event in scalar_events(path).Tensors("loss")][:2] == times[:2]


def test_summary_is_replaced_whole(tmp_path: Path):
    with open_run(tmp_path / "run") as run:
        run.write_summary({"final_success": np.float64(0.75), "ot_marginal_error": float("nan")})
        run.write_summary({"final_success": 0.5, "task": "a/b"})
        assert json.loads((run.path / "summary.json").read_text()) == {"final_success": 0.5, "task": "a/b"}
        before = snapshot(run.path)
        with pytest.raises(TypeError, match="curve must be"):
            run.write_summary({"curve": np.arange(2)})
        assert snapshot(run.path) == before


def test_existing_directory_is_an_error_and_stays_as_it_is(tmp_path: Path):
    path = tmp_path / "run"
    with open_run(path) as run:
        run.log({"env_steps": 1})
    before = snapshot(path)
    with pytest.raises(OtprError, match=r"already exists\. Use --resume .* --overwrite"):
        open_run(path)
    assert snapshot(path) == before


def test_overwrite_starts_anew(tmp_path: Path):
    path = tmp_path / "run"
    with open_run(path) as run:
        run.log({"env_steps": 1})
        run.write_summary({})
        run.checkpoints.mkdir()
    with open_run(path, overwrite=True, config={"seed": 4}) as run:
        assert run.rows() == []
    assert {file.name for file in path.iterdir()} == {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "lock",
        "tensorboard",
    }
    assert json.loads((path / "config.json").read_text())["config"] == {"seed": 4}
    assert list(tmp_path.iterdir()) == [path]


def test_overwrite_deletes_neither_strange_files_nor_the_run_of_another_command(tmp_path: Path):
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter").write_text("1")
    base = tmp_path / "base"
    open_run(base, command="pretrain").close()
    before = snapshot(tmp_path)
    with pytest.raises(OtprError, match="holds no run"):
        open_run(thesis, overwrite=True)
    with pytest.raises(OtprError, match="holds a run of `pretrain`"):
        open_run(base, overwrite=True)
    with pytest.raises(OtprError, match="is a file"):
        open_run(thesis / "chapter", overwrite=True)
    assert snapshot(tmp_path) == before


def test_resume_goes_on_and_notes_what_it_runs_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "run"
    with open_run(path) as run:
        run.log({"env_steps": 1})
    monkeypatch.setattr(run_directory, "software_versions", lambda: {"numpy": "99.0"})
    with open_run(path, resume=True) as run:
        run.log({"env_steps": 2})
        assert run.rows() == [{"env_steps": 1}, {"env_steps": 2}]
    starts = json.loads((path / "versions.json").read_text())
    assert [start["numpy"] for start in starts] == [np.__version__, "99.0"]


def test_resume_with_another_configuration_names_every_field_that_differs(tmp_path: Path):
    path = tmp_path / "run"
    open_run(path).close()
    before = snapshot(path)
    given = {"seed": 3, "critic": {"widths": [256, 128], "expectile": 0.9}, "steps": 5}
    with pytest.raises(OtprError, match="configured otherwise") as error:
        open_run(path, resume=True, config=given)
    assert str(error.value).splitlines()[1:-1] == [
        "  config.critic.expectile: given 0.9, stored 0.7",
        "  config.critic.widths: given [256, 128], stored [256, 256]",
        '  config.preset: given nothing, stored "default"',
        "  config.steps: given 5, stored nothing",
    ]
    with pytest.raises(OtprError, match='command: given "pretrain", stored "finetune"'):
        open_run(path, resume=True, command="pretrain")
    assert snapshot(path) == before


def test_resume_of_nothing_is_an_error_and_makes_nothing(tmp_path: Path):
    with pytest.raises(OtprError, match="no run to resume"):
        open_run(tmp_path / "missing", resume=True)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    with pytest.raises(OtprError, match="no run to resume"):
        open_run(tmp_path / "half", resume=True)
    assert snapshot(tmp_path) == {"half/config.json": b"{}"}


def test_unreadable_configuration_is_an_error_that_names_the_file(tmp_path: Path):
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "config.json").write_text('{"command": ')
    with pytest.raises(OtprError, match=r"config\.json is damaged \(JSONDecodeError"):
        open_run(tmp_path / "run", resume=True)


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path):
    with pytest.raises(OtprError, match="exclude each other"):
        open_run(tmp_path / "run", resume=True, overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_configuration_that_json_cannot_hold_is_refused_before_anything_is_made(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        open_run(tmp_path / "run", config={"rate": float("nan")})
    with pytest.raises(TypeError, match="JSON"):
        open_run(tmp_path / "run", config={"rate": object()})
    assert list(tmp_path.iterdir()) == []


def test_closing_twice_does_nothing(tmp_path: Path):
    run = open_run(tmp_path / "run")
    run.close()
    run.close()
