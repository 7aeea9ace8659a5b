from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_finetune
import pytest
import ray
from rich.console import Console

from otpr.envs.shifts import Shift
from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr_bench import result_versions
from otpr_bench.execution import Command
from otpr_bench.jobs import Job, make_jobs, parse_seeds, parse_variants
from otpr_bench.plan import durations
from otpr_bench.queue import Queue
from otpr_bench.records import machine
from otpr_bench.results import Row, add_rows, read_results
from otpr_bench.shifts import Measured, Subject, cells_of, in_order, runs_policy
from otpr_bench.snapshots import Place
from otpr_bench.suites import Budget, Recipe, open_suite

PEG, PUSH = "metaworld/peg-insert-side-v3", "metaworld/push-v3"
BUDGET = Budget(env_steps=1000, eval_every=200, eval_episodes=10, final_eval_episodes=10)
ALL = 4.0  # processors that the fixture's Ray has: runs that take them all come one after the other
QUICK: dict[str, Any] = {"cpus": ALL, "grace": 0.6, "fresh": False}


class Inline:
    """In the place of Ray where the queue's own decisions are tested: does a task when it is asked for."""

    exceptions = ray.exceptions

    def remote(self, **options: Any) -> Callable[[Any], Any]:
        return lambda work: SimpleNamespace(remote=lambda *arguments: functools.partial(work, *arguments))

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:num_returns], references[num_returns:]

    def cancel(self, reference: Any, force: bool) -> None:
        """There is nothing under way."""

    def get(self, reference: Any) -> Any:
        try:
            return reference()
        except Exception as error:
            raise ray.exceptions.RayTaskError("task", "", error) from error


@dataclasses.dataclass
class Bench:
    """A benchmark in a folder, whose runs are fake."""

    folder: Path
    behaviour: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = (PEG,)
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    budget: Budget = BUDGET
    has_bases: bool = True

    @property
    def results(self) -> Path:
        return self.folder / "kept" / "results.parquet"

    @property
    def command(self) -> Command:
        return functools.partial(fake_finetune.carry_out, str(self.folder / "calls"), dict(self.behaviour))

    def jobs(self, algorithms: str = "otpr", seeds: str = "0") -> list[Job]:
        suite = open_suite(self.tasks, self.recipe, self.budget)
        return make_jobs(suite, parse_variants(algorithms), parse_seeds(seeds))

    def queue(self, algorithms: str = "otpr", seeds: str = "0", **settings: Any) -> Queue:
        for job in self.jobs(algorithms, seeds):
            folder = Place(self.folder / "bench").base(job.task.id)
            if self.has_bases and not folder.exists():
                fake_finetune.base(str(folder), job.task.id, json.dumps(dataclasses.asdict(self.recipe)), 0.3)
        settings = QUICK | {"command": self.command} | settings
        return Queue(
            self.jobs(algorithms, seeds), folder=self.folder / "bench", results=self.results, **settings
        )

    def run(self, algorithms: str = "otpr", seeds: str = "0", on: Any = None, **settings: Any) -> bool:
        return self.queue(algorithms, seeds, **settings).run(on or Inline())

    def calls(self, name: str = "finetune") -> list[list[str]]:
        """The calls so far; then they are forgotten."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [call for line in lines if (call := json.loads(line))[0] == name]

    def rows(self, seed: int = 0) -> list[Row]:
        return [row for row in read_results(self.results) if row.seed == seed]

    def runs(self) -> list[Path]:
        return sorted((self.folder / "bench" / "runs").glob("*/*/*"))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def option(call: list[str], name: str) -> str:
    return call[call.index(name) + 1]


# ---------------------------------------------------------------------- cells of the suite shifts


@pytest.mark.long
def test_cells_of_policies_are_measured_as_tasks_with_the_same_outcomes(bench, ray_here):
    # here, because other tests import this module in processes that have no `tiny`
    from tiny import policy

    subject = Subject("metaworld/reach-v3", "bc", "", 0, "one sample", 40, runs_policy(policy()))
    cells = cells_of(subject, [Shift("gain", 1), Shift("light", 1)], 4)
    found = dict(bench.queue(cpus=ALL / 2).cells(ray, cells))
    assert found == dict(in_order(cells))
    assert isinstance(found[cells[0]], Measured) and isinstance(found[cells[2]], str)


class Busy(Inline):
    """In the place of a Ray that is busy: no task ends."""

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        return [], references


def test_cells_are_left_where_the_queue_is_to_stop(bench):
    subject = Subject(PEG, "bc", "", 0, "one sample", None, lambda _, episodes: Measured([True] * episodes))
    cells = cells_of(subject, [Shift("gain", 1), Shift("gain", 2)], 4)
    assert [cell for cell, _ in bench.queue().cells(Inline(), cells)] == cells
    queue = bench.queue()
    queue._stop.requested = True
    assert list(queue.cells(Busy(), cells)) == []


# ------------------------------------------------------------------------------------------- runs and results


def test_every_method_runs_on_every_task_with_every_seed_one_seed_after_the_other(bench):
    bench.tasks = (PEG, PUSH)
    assert bench.run("otpr,otpr:paper", "0..1")
    calls = bench.calls()
    order = [(option(call, "--seed"), option(call, "--task"), option(call, "--preset")) for call in calls]
    tasks_and_presets = [(task, preset) for task in (PEG, PUSH) for preset in ("default", "paper")]
    assert order == [(seed, *rest) for seed in ("0", "1") for rest in tasks_and_presets]
    assert len({row.run for row in read_results(bench.results)}) == 8


def test_a_run_has_a_row_for_each_evaluation_and_one_for_the_base(bench):
    bench.run()
    rows = bench.rows()
    assert [row.eval_at for row in rows] == [0, 200, 400, 600, 800, 1000]
    assert [row.success for row in rows] == [0.3, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert [row.success_single for row in rows] == [0.3, None, None, None, None, 0.25]
    assert [row.episodes for row in rows] == [100, 10, 10, 10, 10, 10]
    assert [row.execute for row in rows] == [4, 2, 2, 2, 2, 2]
    assert [row.mean_return for row in rows] == [0.6, 0.4, 0.8, 1.2, 1.6, 2.0]
    assert [row.mean_return_single for row in rows] == [0.6, None, None, None, None, None]
    assert [row.wall_seconds for row in rows] == [0, 2.5, 4.5, 6.5, 8.5, 10.5]  # the evaluation itself counts
    assert {row.status for row in rows} == {"done"}
    assert {(row.suite, row.result_version, row.error) for row in rows} == {("open", "2.1", "")}
    assert len(rows[0].base) == len(rows[0].settings) == 12


def test_what_a_finished_run_needs_no_more_is_deleted(bench):
    bench.run()
    (run,) = bench.runs()
    assert (run / "metrics.jsonl").exists()
    assert not (run / "checkpoints").exists()


def test_done_runs_are_skipped(bench):
    bench.run(seeds="0..1")
    bench.calls()
    assert bench.run(seeds="0..2")
    assert [option(call, "--seed") for call in bench.calls()] == ["2"]


@pytest.mark.parametrize(
    ("versions", "name", "raised"),
    [("ALGORITHM_VERSIONS", "otpr", "3.1"), ("SIMULATOR_VERSIONS", "metaworld", "2.2")],
)
def test_a_raised_result_version_runs_anew_and_keeps_the_old_rows(bench, monkeypatch, versions, name, raised):
    bench.run("otpr,bc")
    bench.calls()
    monkeypatch.setitem(getattr(result_versions, versions), name, int(raised[0 if name == "otpr" else -1]))
    bench.run("otpr,bc")
    found = [row.result_version for row in bench.rows() if (row.algorithm, row.eval_at) == ("otpr", 1000)]
    assert found == ["2.1", raised]
    assert len(bench.calls()) == (1 if name == "otpr" else 2)


def test_rows_that_a_hash_identifies_are_another_version_of_their_method(bench):
    bench.run()
    bench.calls()
    rows = [dataclasses.replace(row, result_version="0123456789ab") for row in bench.rows()]
    bench.results.unlink()
    shutil.rmtree(bench.folder / "bench" / "runs")
    add_rows(bench.results, rows)
    bench.run()
    assert len(bench.calls()) == 1
    assert {row.result_version for row in bench.rows()} == {"0123456789ab", "2.1"}


def test_other_packages_are_recorded_and_make_no_other_run(bench, monkeypatch):
    bench.run()
    bench.calls()
    assert re.search(r"^jax [\d.]+, .*, metaworld [\d.]+$", bench.rows()[0].packages)
    monkeypatch.setattr("otpr_bench.records.package_versions", lambda task: "jax 0.0")
    bench.run(seeds="0..1")
    assert [option(call, "--seed") for call in bench.calls()] == ["1"]
    assert {row.packages for row in bench.rows(seed=1)} == {"jax 0.0"}


def test_other_settings_run_anew(bench):
    bench.run()
    bench.run("otpr:default:epsilon=0.1")
    bench.budget = dataclasses.replace(BUDGET, final_eval_episodes=20)
    bench.run()
    calls = bench.calls()
    assert [option(call, "--set") for call in calls if "--set" in call] == ["epsilon=0.1"]
    last = [row for row in bench.rows() if row.eval_at == 1000]
    assert len({row.settings for row in last}) == 3
    assert {row.preset for row in last} == {"default", "default:epsilon=0.1"}


def test_a_run_of_one_core_leaves_the_machines_other_cores_alone(bench):
    bench.run(cpus=1.0)
    (call,) = bench.calls()
    assert option(call, "--rollout") == "lockstep"
    assert "--num-workers" not in call


def test_a_run_has_as_many_workers_as_it_takes_cores_and_names_its_machine(bench):
    bench.run(seeds="0..1", cpus=2.0)
    assert [option(call, "--num-workers") for call in bench.calls()] == ["2", "2"]
    assert {row.machine for row in read_results(bench.results)} == {machine()}


@pytest.mark.long
def test_runs_go_on_side_by_side_where_there_are_cores_for_them(bench, ray_here):
    """Each waits until the other has begun."""
    bench.behaviour = {"0": "meet", "1": "meet"}
    assert bench.run(seeds="0..1", cpus=2.0, on=ray)
    assert {row.status for row in read_results(bench.results)} == {"done"}


# --------------------------------------------------------------------------------------------------- failures


def test_a_run_that_fails_stops_no_other_and_is_shown_as_failed(bench, capsys):
    bench.behaviour = {"0": "fail"}
    queue = bench.queue(seeds="0..1")
    assert queue.run(Inline())
    (failed,) = bench.rows(seed=0)
    assert (failed.status, failed.success, failed.episodes) == ("failed", None, 0)
    assert failed.error == "exit status 1: Traceback of\nValueError: no luck"
    assert bench.rows(seed=1)[-1].success == 1.0
    assert queue.failures() == [failed]
    assert "seed 0: FAILED after 0 steps: ValueError: no luck" in capsys.readouterr().out


def test_a_failed_run_is_tried_again_only_when_asked_for(bench):
    bench.behaviour = {"0": "fail"}
    bench.run()
    bench.behaviour = {}
    bench.calls()
    assert bench.run()
    assert bench.calls() == []
    bench.run(retry_failed=True)
    assert bench.rows()[-1].status == "done"
    assert {row.status for row in bench.rows()} == {"done"}


def test_a_run_that_failed_on_its_way_begins_anew(bench):
    bench.behaviour = {"0": "raise"}
    bench.run()
    (failed,) = bench.rows()
    assert (failed.env_steps, failed.eval_at) == (500, 400)
    assert failed.error.endswith("RuntimeError: out of the blue")
    bench.behaviour = {}
    bench.calls()
    time.sleep(1.1)  # the start is known to the second
    bench.run(retry_failed=True)
    assert "--resume" not in bench.calls()[0]
    assert len(bench.rows()) == 6


def test_a_run_that_ends_well_without_its_last_evaluation_has_failed(bench):
    bench.behaviour = {"0": "no-end"}
    bench.run()
    (failed,) = bench.rows()
    assert "metrics.jsonl is damaged (the last evaluation is missing)" in failed.error
    assert str(bench.folder) not in failed.error


def test_a_run_that_somebody_else_stopped_is_left_for_another_time(bench, capsys):
    bench.behaviour = {"0": "quit"}
    assert not bench.run()
    assert "stopped at 500 steps" in capsys.readouterr().out
    assert not bench.results.exists()
    bench.behaviour = {}
    assert bench.run()
    assert ["--resume" in call for call in bench.calls()] == [False, True]


@pytest.mark.long
def test_a_run_whose_process_is_killed_goes_on_where_it_was(bench, ray_here):
    bench.behaviour = {"0": "die once"}
    assert bench.run(on=ray)
    assert ["--resume" in call for call in bench.calls()] == [False, True]
    assert [row.eval_at for row in bench.rows()] == [0, 200, 400, 600, 800, 1000]


@pytest.mark.long
def test_a_run_whose_process_is_killed_each_time_has_failed(bench, ray_here):
    bench.behaviour = {"0": "die"}
    assert bench.run(seeds="0..1", on=ray)
    (failed,) = bench.rows(seed=0)
    why = "the process or its machine died 3 times (WorkerCrashedError)"
    assert failed.error == f"{why}; what it wrote is in the folder `logs` of --out"
    assert (failed.env_steps, failed.execute, failed.machine) == (500, None, "unknown")
    assert bench.rows(seed=1)[-1].success == 1.0
    # three times on its way there, and three times without coming any further
    assert sum(option(call, "--seed") == "0" for call in bench.calls()) == 6


def test_a_machine_with_another_version_runs_nothing(bench):
    (job,) = bench.jobs()
    other = dataclasses.replace(job, result_version="9.9")
    queue = bench.queue()
    queue._jobs = [other]
    assert queue.run(Inline())
    assert bench.calls() == []
    (failed,) = bench.rows()
    assert "has result version 2.1 of otpr" in failed.error


# ---------------------------------------------------------------------------------------- stopped and gone on


def waited(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import ray
from test_queue import Bench
from otpr.cluster import connected
bench = Bench(Path(sys.argv[2]), {"0": "endless", "1": "endless"})
with connected("local", 4):
    print("complete", bench.run(seeds="0..1", on=ray, cpus=2.0, grace=120.0))
"""


@pytest.fixture
def going(bench: Bench) -> Iterator[subprocess.Popen[str]]:
    """A queue in another process, both runs of which have logged something."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(bench.folder)],
        stdout=subprocess.PIPE,
        text=True,
    )

    def logged() -> bool:
        files = [run / "metrics.jsonl" for run in bench.runs()]
        return len(files) == 2 and all(file.exists() and file.stat().st_size for file in files)

    waited(logged)
    yield process
    process.kill()
    process.communicate()


@pytest.mark.long
def test_a_stopped_queue_stops_its_runs_and_the_next_goes_on_with_them(bench, going):
    going.send_signal(signal.SIGINT)
    output, _ = going.communicate(timeout=120)
    assert going.returncode == 0
    assert "complete False" in output
    assert not bench.results.exists()
    assert len(bench.calls()) == 2
    assert bench.queue(seeds="0..1", cpus=2.0).plan().forecast().startswith("2 runs are left")
    assert bench.run(seeds="0..1")
    assert all("--resume" in call for call in bench.calls())
    assert [row.eval_at for row in bench.rows(seed=1)] == [0, 200, 400, 600, 800, 1000]


@pytest.mark.long
def test_a_killed_queue_is_gone_on_with_after_its_runs_have_let_go(bench, going):
    going.kill()
    going.wait()
    bench.behaviour = {}
    assert bench.run(seeds="0..1")
    assert {row.status for row in read_results(bench.results)} == {"done"}


def test_two_queues_do_not_share_a_folder(bench):
    queue = bench.queue()
    lock = RunLock.take(bench.folder / "bench")
    with pytest.raises(OtprError, match="is going on: process"):
        queue.run(Inline())
    lock.release()
    assert bench.calls() == []
    assert queue.run(Inline())


@pytest.mark.long
def test_at_the_end_of_the_budget_runs_are_stopped_and_left_for_another_time(bench, ray_here, capsys):
    bench.behaviour = {"0": "endless"}
    bench.run(seeds="9", on=ray)  # so that Ray has a process that starts at once
    assert not bench.run(seeds="0..1", on=ray, budget=3.0)
    assert "seed 0: stopped at" in capsys.readouterr().out
    bench.calls()
    bench.behaviour = {}
    assert bench.run(seeds="0..1")
    assert [("--resume" in call) for call in bench.calls()] == [True, False]


@pytest.mark.long
def test_a_run_that_does_not_stop_is_ended_and_gone_on_with(bench, ray_here):
    bench.behaviour = {"0": "deaf"}
    bench.run(seeds="9", on=ray)
    assert not bench.run(on=ray, budget=3.0)
    assert bench.rows() == []
    bench.calls()
    bench.behaviour = {}
    assert bench.run()
    assert [("--resume" in call) for call in bench.calls()] == [True]


def test_a_run_that_ended_unseen_is_taken_in(bench):
    bench.run()
    bench.calls()
    bench.results.unlink()
    assert bench.run()
    assert bench.calls() == []
    assert len(bench.rows()) == 6


@pytest.mark.parametrize("file", ["config.json", "versions.json", "metrics.jsonl"])
def test_a_damaged_run_fails_and_is_begun_anew_when_asked_for(bench, file):
    bench.run()
    (run,) = bench.runs()
    (run / "summary.json").unlink()
    (run / file).write_text("{torn\n")
    bench.results.unlink()
    bench.calls()
    bench.run()
    (failed,) = bench.rows()
    assert file in failed.error
    bench.run(retry_failed=True)
    assert ["--resume" in call for call in bench.calls()] == [True, False]
    assert bench.runs() == [run]
    assert {row.status for row in bench.rows()} == {"done"}


def test_a_damaged_summary_is_a_failed_run(bench):
    bench.run()
    (run,) = bench.runs()
    (run / "summary.json").write_text("{torn")
    bench.results.unlink()
    bench.run()
    (failed,) = bench.rows()
    assert "summary.json is damaged" in failed.error


def test_an_unfinished_run_of_a_moved_benchmark_fails_and_says_why(bench):
    bench.run()
    bench.results.unlink()
    (run,) = bench.runs()
    (run / "summary.json").unlink()
    shutil.move(bench.folder / "bench", bench.folder / "elsewhere")
    (bench.folder / "bench").symlink_to(bench.folder / "elsewhere")
    bench.run()
    (failed,) = bench.rows()
    assert "configured otherwise" in failed.error


# ------------------------------------------------------------------------------------------------------ bases


def test_the_base_is_made_once_and_used_by_all(bench):
    bench.has_bases = False
    bench.run(seeds="0..1")
    bench.run(seeds="2")
    (call,) = [
        json.loads(line) for line in (bench.folder / "calls").read_text().splitlines() if '"base"' in line
    ]
    assert call[2] == PEG
    assert json.loads(call[3]) == dataclasses.asdict(Recipe())
    assert len({row.base for row in read_results(bench.results)}) == 1


@pytest.mark.parametrize(("success", "cure"), [(0.12, "more"), (0.67, "fewer")])
def test_a_base_outside_the_band_is_said_loudly(bench, capsys, success, cure):
    bench.has_bases, bench.behaviour = False, {"base": success}
    bench.run()
    output = capsys.readouterr().out
    assert f"The base of {PEG} succeeds in {success:.0%} of 100 episodes.\nWARNING: that is outside" in output
    assert f"{cure} demonstrations" in output


def test_a_base_that_cannot_be_made_stops_only_its_own_runs(bench, capsys):
    bench.has_bases, bench.behaviour = False, {"base": "fail"}
    with pytest.raises(OtprError, match=f"The base of {PEG} was not made: exit status 2: otpr: the expert"):
        bench.run()
    assert bench.calls() == []
    bench.behaviour = {}
    assert bench.run()


def test_a_changed_base_is_refused(bench):
    bench.run()
    weights = bench.folder / "bench/bases/metaworld-peg-insert-side-v3/pretrain/policy/weights.safetensors"
    weights.write_bytes(b"others")
    with pytest.raises(OtprError, match=r"not as it was made: pretrain/policy/weights.safetensors changed"):
        bench.queue()


def test_another_recipe_is_refused(bench):
    bench.run()
    bench.recipe = Recipe(demonstrations=11)
    with pytest.raises(OtprError, match=r'"demonstrations": 10.*"demonstrations": 11.*--out'):
        bench.queue()


@pytest.mark.parametrize("content", ["{torn", "[]", '{"task": "metaworld/peg-insert-side-v3"}'])
def test_a_damaged_record_of_a_base_is_refused(bench, content):
    bench.run()
    (bench.folder / "bench/bases/metaworld-peg-insert-side-v3/base.json").write_text(content)
    with pytest.raises(OtprError, match=r"base\.json is damaged"):
        bench.queue()


def test_a_base_made_again_that_comes_out_the_same_needs_no_new_runs(bench):
    bench.behaviour = {"1": "fail"}
    bench.run(seeds="0..1")
    bench.calls()
    shutil.rmtree(bench.folder / "bench/bases")
    bench.has_bases, bench.behaviour = False, {}
    assert bench.run(seeds="0..1")
    assert bench.calls() == []


# --------------------------------------------------------------------------------------------------- the plan


def test_the_plan_says_what_is_done_to_do_and_failed_and_how_long_it_takes(bench):
    bench.tasks = (PEG, PUSH)
    plan = bench.queue(seeds="0..1").plan()
    assert list(plan.states.values()) == ["to do"] * 4
    never = "no run with their settings has been completed on this machine."
    assert plan.forecast() == f"4 runs are left; how long they take is not known: {never}"
    bench.behaviour = {"1": "fail"}
    bench.tasks = (PEG,)
    bench.run(seeds="0..1")
    bench.tasks = (PEG, PUSH)
    queue = bench.queue(seeds="0..2")
    queue.side_by_side = 2
    plan = queue.plan()
    assert [plan.states[job] for job in queue._jobs] == ["done", "to do", "failed", "to do", "to do", "to do"]
    # a run took 10.5 seconds and is given 20 more to start
    assert plan.forecast() == (
        "4 runs are left: about 1 min with 2 side by side, and the time of 3 of them, which is not known: "
        + never
    )
    table = Console(width=100)
    with table.capture() as shown:
        table.print(plan.table())
    assert [line.split() for line in shown.get().splitlines()[1:]] == [
        [PEG, "30%", "1", "0", "1", "1"],
        [PUSH, "30%", "0", "0", "3", "0"],
    ]


def test_durations_are_means_over_completed_runs_of_the_same_settings(bench):
    bench.run(seeds="0..1")
    rows = read_results(bench.results)
    longer = [dataclasses.replace(row, wall_seconds=2 * row.wall_seconds) for row in rows if row.seed == 1]
    other = [dataclasses.replace(row, settings="0" * 12, wall_seconds=3.0) for row in rows]
    found = durations([*(row for row in rows if row.seed == 0), *longer, *other], rows[0].machine)
    assert found == {rows[0].settings: (10.5 + 21.0) / 2, "0" * 12: 3.0}


def test_a_run_that_has_come_half_the_way_counts_half(bench):
    bench.run()
    [job] = bench.jobs(seeds="1")
    plan = dataclasses.replace(bench.queue(seeds="1").plan(), seconds={job.settings: 1200.0})
    assert plan.forecast() == "1 run is left: about 20 min."
    assert dataclasses.replace(plan, steps={job: 500}).forecast() == "1 run is left: about 10 min."


def test_times_of_another_machine_do_not_count(bench, monkeypatch):
    bench.run()
    monkeypatch.setattr("otpr_bench.queue.machine", lambda: "a faster one, 64 cores")
    assert "not known" in bench.queue(seeds="1").plan().forecast()


def test_a_finished_run_gives_the_others_a_number(bench, capsys):
    bench.run(seeds="0..1")
    lines = [line for line in capsys.readouterr().out.splitlines() if "seed 0" in line]
    assert "30% before, 100% after 1,000 steps and 0.2 minutes. 1 run is left: about 1 min." in lines[0]
