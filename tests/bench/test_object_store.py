"""`--storage` on an object store: moto's S3, in an environment and a process of its own."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_queue import Inline
from test_snapshots import SUITE, another_machine, calls, command, jobs

from otpr.errors import OtprError
from otpr_bench.execution import Outcome, carry_out, make_base
from otpr_bench.queue import Queue
from otpr_bench.results import read_results
from otpr_bench.snapshots import Place
from tiny import files

SERVER = Path(__file__).parents[2] / ".venv-moto" / "bin" / "moto_server"

pytestmark = pytest.mark.skipif(
    not SERVER.is_file(), reason="moto, which emulates S3, is not installed: `make test-storage` does"
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Host and port of an S3 with the bucket `bench`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [str(SERVER), "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    request = urllib.request.Request(f"http://127.0.0.1:{port}/bench", method="PUT")
    for attempt in range(300):
        try:
            urllib.request.urlopen(request).close()
            break
        except OSError:
            assert process.poll() is None and attempt < 299, "it does not start"
            time.sleep(0.2)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture
def store(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    where = f"scheme=http&endpoint_override={server}&region=us-east-1"
    return f"s3://bench/{tmp_path.name}?{where}"


def objects(server: str) -> str:
    with urllib.request.urlopen(f"http://{server}/bench?list-type=2") as answer:
        return answer.read().decode()


def test_a_folder_comes_back_as_it_was_and_is_one_object(tmp_path: Path, store: str, server: str):
    place = Place(tmp_path / "local", store)
    run = place.folder / "runs" / "one"
    (run / "checkpoints" / "7").mkdir(parents=True)
    contents = {"metrics.jsonl": b"{}", "checkpoints/7/arrays": bytes(range(256)) * 50_000}
    for name, content in contents.items():
        (run / name).write_bytes(content)
    assert not place.fetch(run)
    place.keep(run)
    (run / "metrics.jsonl").write_bytes(b"later")
    place.keep(run)
    shutil.rmtree(run)
    assert place.fetch(run)
    assert files(run) == {**contents, "metrics.jsonl": b"later"}
    assert objects(server).count(f"{tmp_path.name}/runs/one.zip<") == 1
    assert ".part" not in objects(server)


def test_a_run_goes_on_on_another_machine(tmp_path: Path, store: str):
    place, (job,) = Place(tmp_path / "bench", store), jobs()
    assert make_base(SUITE.tasks[0], place, command(tmp_path)) == Outcome()
    stopped = carry_out(job, (), place, command(tmp_path, **{"0": "quit"}))
    assert stopped == Outcome(left="stopped at 500 steps")
    another_machine(tmp_path)
    done = carry_out(job, (), place, command(tmp_path))
    assert [row.eval_at for row in done.rows] == [0, 200, 400, 600, 800, 1000]
    assert ["--resume" in call for call in calls(tmp_path)] == [False, False, True]


def test_a_whole_benchmark(tmp_path: Path, store: str):
    results = tmp_path / "results.parquet"

    def queue(seeds: str) -> Queue:
        return Queue(
            jobs(seeds), folder=tmp_path / "bench", results=results, storage=store, command=command(tmp_path)
        )

    assert queue("0").run(Inline())
    another_machine(tmp_path)
    assert queue("0..1").run(Inline())
    assert [call[0] for call in calls(tmp_path)] == ["base", "finetune", "finetune"]
    assert {row.status for row in read_results(results)} == {"done"}
    assert json.dumps(store) not in results.read_bytes().decode(errors="replace")


def test_a_bucket_that_is_not_there_is_an_error_that_names_it(tmp_path: Path, store: str):
    place = Place(tmp_path, store.replace("s3://bench/", "s3://nowhere/"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "file").touch()
    with pytest.raises(OtprError, match="--storage s3://nowhere/"):
        place.keep(tmp_path / "run")
