"""Each policy is evaluated on its own task, which is told; numbers are written whatever becomes of films."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from otpr.cli import evaluate as evaluate_command
from otpr.cli import finetune as finetune_command
from otpr.cli.main import main
from otpr.envs import Setup, task_spec
from otpr.errors import OtprError
from tiny import policy

HERE = "tests.envs.user_envs"
NEAR, OTHER, FILMED = (f"{HERE}:{name}" for name in ("make_reach", "far_away", "filmed"))
FEW = ["--episodes", "1", "--num-envs", "1", "--out", "e.json"]
NO_FILM = f"{NEAR}: the factory takes no render_mode, so it cannot be filmed."


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, task in (("near", NEAR), ("other", OTHER), ("filmed", FILMED)):
        made, own = policy(observation_dim=4, action_dim=2), task_spec(task).spec
        spec = dataclasses.replace(made.spec, action_low=own.action_low, action_high=own.action_high)
        dataclasses.replace(made, spec=spec).save(name, task=task)
    return tmp_path


def results() -> list[dict[str, Any]]:
    return json.loads(Path("e.json").read_text())


def test_policies_of_two_tasks_each_on_its_own(place: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "near", "other", *FEW]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "one sample" in line]
    assert [line.partition(",")[0] for line in told] == [f"near on {NEAR}", f"other on {OTHER}"]
    assert [(one["policy"], one["task"], one["policy_task"]) for one in results()] == [
        ("near", NEAR, NEAR),
        ("other", OTHER, OTHER),
    ]


def test_a_task_that_is_given_is_that_of_all_and_whose_it_is_not_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "near", "other", "--task", OTHER, *FEW]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "one sample" in line]
    assert [line.partition(",")[0] for line in told] == [
        f"near (trained on {NEAR}) on {OTHER}",
        f"other on {OTHER}",
    ]
    assert [(one["task"], one["policy_task"]) for one in results()] == [(OTHER, NEAR), (OTHER, OTHER)]


def test_what_cannot_be_filmed_is_refused_before_anything_is_evaluated(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "filmed", "near", "--video", "v.mp4", *FEW]) == 2
    assert capsys.readouterr().err.startswith(f"otpr: {NO_FILM}")
    assert not Path("e.json").exists()


def test_numbers_are_written_whatever_becomes_of_the_film(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def broken(*_: Any, **__: Any) -> str:
        raise OtprError("the camera fell over")

    monkeypatch.setattr(evaluate_command, "record", broken)
    assert main(["evaluate", "filmed", "--video", "v.mp4", *FEW]) == 2
    assert capsys.readouterr().err == "otpr: the camera fell over\n"
    assert [one["task"] for one in results()] == [FILMED]


def test_fine_tuning_says_that_there_will_be_no_films_before_it_begins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    class Begun(Exception):  # noqa: N818 - no error
        pass

    def begin(*_: Any, **__: Any) -> None:
        raise Begun

    monkeypatch.setattr(finetune_command.Placement, "workers", begin)
    acting = policy(observation_dim=4, action_dim=2)
    settings = finetune_command.agent_config("bc")
    for task, said in ((NEAR, f"No videos will be made: {NO_FILM}"), (FILMED, "")):
        with pytest.raises(Begun):
            finetune_command.fine_tune(
                None,  # pyright: ignore[reportArgumentType]: it is not reached
                acting,
                [],
                setup=Setup(task),
                preset="default",
                seed=0,
                agent=settings,
                loop=finetune_command.LoopConfig(),
                placement=finetune_command.Placement(),
                resume=False,
                video=True,
            )
        assert capsys.readouterr().out.startswith(said)


def test_latency_is_in_the_numbers_and_needs_something_to_go_on_with(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["evaluate", "near", *FEW, "--execute", "4", "--latency", "2"]) == 0
    assert (results()[0]["latency"], results()[0]["wait"], results()[0]["execute"]) == (2, False, 4)
    assert main(["evaluate", "near", *FEW, "--latency", "2", "--wait"]) == 0
    assert (results()[0]["latency"], results()[0]["wait"]) == (2, True)
    assert main(["evaluate", "near", *FEW]) == 0
    assert "latency" not in results()[0]
    capsys.readouterr()
    for arguments, said in (
        (["--latency", "2"], "plans have 8 actions, of which 8 are executed and 0 are left to go on with."),
        (["--wait"], "--wait says what a robot does in the time that --latency gives. Give both."),
        (["--latency", "-1"], "latency must be at least 0, given -1."),
    ):
        assert main(["evaluate", "near", *FEW, *arguments]) == 2
        assert said in capsys.readouterr().err
