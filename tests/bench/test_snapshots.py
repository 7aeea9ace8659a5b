from __future__ import annotations

import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import fake_finetune
import pytest
from test_queue import BUDGET, PEG, Inline

from otpr.errors import OtprError
from otpr_bench import snapshots
from otpr_bench.execution import Outcome, carry_out, make_base
from otpr_bench.jobs import Job, make_jobs, parse_seeds, parse_variants
from otpr_bench.queue import Queue
from otpr_bench.results import read_results
from otpr_bench.snapshots import Place
from otpr_bench.suites import Recipe, open_suite
from tiny import files

SUITE = open_suite((PEG,), Recipe(), BUDGET)


def jobs(seeds: str = "0") -> list[Job]:
    return make_jobs(SUITE, parse_variants("otpr"), parse_seeds(seeds))


@pytest.fixture
def store(tmp_path: Path) -> str:
    return (tmp_path / "storage").as_uri()


def command(tmp_path: Path, **behaviour: Any) -> Any:
    return functools.partial(fake_finetune.carry_out, str(tmp_path / "calls"), behaviour)


def calls(tmp_path: Path) -> list[list[str]]:
    return [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]


def another_machine(tmp_path: Path) -> None:
    """Whatever the last one had in its folder is not on this one."""
    shutil.rmtree(tmp_path / "bench")


def test_a_folder_comes_back_as_it_was_without_its_lock_and_what_is_hidden(tmp_path: Path, store: str):
    local = tmp_path / "local"
    run = local / "runs" / "one"
    (run / "checkpoints" / "7").mkdir(parents=True)
    (run / "checkpoints" / ".half").mkdir()
    for name in ("metrics.jsonl", "checkpoints/7/arrays", "lock", ".hidden", "checkpoints/.half/arrays"):
        (run / name).write_text(name)
    kept = Place(local, store)
    assert not kept.fetch(run)
    kept.keep(run)
    shutil.rmtree(run)
    assert kept.fetch(run)
    assert files(run) == {name: name.encode() for name in ("metrics.jsonl", "checkpoints/7/arrays")}
    # what the storage has is what counts
    (run / "metrics.jsonl").write_text("older")
    (run / "other").touch()
    kept.fetch(run)
    assert files(run) == {name: name.encode() for name in ("metrics.jsonl", "checkpoints/7/arrays")}
    assert [path.name for path in (tmp_path / "storage").rglob("*") if path.is_file()] == ["one.zip"]


def test_a_storage_that_cannot_be_opened_is_named(tmp_path: Path):
    with pytest.raises(OtprError, match="--storage nowhere://bucket cannot be used") as told:
        Place(tmp_path, "nowhere://name:password@bucket?secret=1").fetch(tmp_path / "run")
    assert "password" not in str(told.value) and "secret" not in str(told.value)


def test_a_base_is_made_once_and_a_run_goes_on_on_another_machine(tmp_path: Path, store: str):
    place = Place(tmp_path / "bench", store)
    assert make_base(SUITE.tasks[0], place, command(tmp_path)) == Outcome()
    (job,) = jobs()
    stopped = carry_out(job, (), place, command(tmp_path, **{"0": "quit"}))
    assert stopped == Outcome(left="stopped at 500 steps")
    another_machine(tmp_path)
    assert make_base(SUITE.tasks[0], place, command(tmp_path)) == Outcome()
    done = carry_out(job, (), place, command(tmp_path))
    assert [row.eval_at for row in done.rows] == [0, 200, 400, 600, 800, 1000]
    assert [call[0] for call in calls(tmp_path)] == ["base", "finetune", "finetune"]
    assert ["--resume" in call for call in calls(tmp_path)] == [False, False, True]
    # and a third one only reads what came of it
    another_machine(tmp_path)
    assert carry_out(job, (), place, command(tmp_path)).rows == done.rows
    assert len(calls(tmp_path)) == 3


def test_a_whole_benchmark_with_a_storage(tmp_path: Path, store: str):
    results = tmp_path / "results.parquet"

    def queue(seeds: str) -> Queue:
        return Queue(
            jobs(seeds), folder=tmp_path / "bench", results=results, storage=store, command=command(tmp_path)
        )

    assert queue("0").run(Inline())
    another_machine(tmp_path)
    again = queue("0..1")
    assert again.run(Inline())
    assert [call[0] for call in calls(tmp_path)] == ["base", "finetune", "finetune"]
    assert {row.status for row in read_results(results)} == {"done"}
    assert len({row.base for row in read_results(results)}) == 1
    # the directories of runs that others did are there when they are asked for
    assert [directory.is_dir() for _, _, directory in again.finished()] == [True, True]


def test_each_checkpoint_is_brought_to_the_storage_while_the_run_goes_on(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(snapshots, "EVERY", 0.01)
    kept = Place(tmp_path / "bench", store)
    run = kept.folder / "run"
    with kept.keeping(run):
        new = tmp_path / "new"
        new.mkdir()
        (new / "arrays").write_text("five")
        (run / "checkpoints").mkdir(parents=True)
        new.rename(run / "checkpoints" / "5")  # whole at once, as checkpoints are
        for _ in range(500):
            if (tmp_path / "storage" / "run.zip").exists():
                break
            time.sleep(0.02)
    another_machine(tmp_path)
    kept.fetch(run)
    assert files(run) == {"checkpoints/5/arrays": b"five"}


def test_machines_that_share_nothing_are_told_so(tmp_path: Path):
    with pytest.raises(OtprError, match="Have all machines share --out, or give --storage"):
        carry_out(jobs()[0], (), Place(tmp_path / "bench"), command(tmp_path))
    assert Place(tmp_path).base(PEG) == tmp_path / "bases" / "metaworld-peg-insert-side-v3"
