from __future__ import annotations

import dataclasses
import fcntl
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench_rows import row
from otpr.errors import OtprError
from otpr_bench.results import Row, add_rows, read_results

FAILED = row(seed=1, status="failed", success=None, episodes=0, error="exit status 1: no luck")


def test_rows_come_back_as_they_were_in_order(tmp_path):
    rows = [row(eval_at=0), row(success=1.0, success_single=0.25), FAILED, row(task="metaworld/push-v3")]
    add_rows(tmp_path / "new" / "results.parquet", rows[::-1])
    assert read_results(tmp_path / "new" / "results.parquet") == rows
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["results.parquet"]


def test_rows_of_a_run_replace_its_earlier_ones_and_no_others(tmp_path):
    file = tmp_path / "results.parquet"
    others = [row(seed=2), row(result_version="1.2"), row(settings="6" * 12), row(base="a" * 12)]
    add_rows(file, [FAILED, *others])
    done = [row(seed=1, eval_at=0), row(seed=1)]
    add_rows(file, done)
    assert sorted(map(repr, read_results(file))) == sorted(map(repr, [*others, *done]))


def test_one_process_adds_at_a_time_or_the_rows_of_another_would_be_lost(tmp_path):
    file = tmp_path / "results.parquet"
    add_rows(file, [row(seed=0)])
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # as another process that is adding
    adding = threading.Thread(target=add_rows, args=(file, [row(seed=1)]))
    adding.start()
    adding.join(0.3)
    assert [row.seed for row in read_results(file)] == [0]
    os.close(folder)
    adding.join()
    assert [row.seed for row in read_results(file)] == [0, 1]


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "changes",
    [
        {"success": 1.5},
        {"success": None},
        {"success": float("nan")},
        {"status": "failed"},
        {"status": "lost"},
        {"success_single": -0.1},
        {"seed": -1},
        {"episodes": 0},
        {"wall_seconds": float("inf")},
        {"execute": 0},
        {"mean_return": float("nan")},
        {"mean_return_single": float("inf")},
    ],
)
def test_what_no_run_can_measure_is_no_row(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        row(**changes)


def test_a_missing_file_says_who_writes_it(tmp_path):
    with pytest.raises(OtprError, match=r"no results in .*`otpr bench` writes them"):
        read_results(tmp_path / "none.parquet")


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "middle"])
def test_a_damaged_file_is_refused_and_stays(tmp_path, damage):
    file = tmp_path / "results.parquet"
    add_rows(file, [row(seed=seed) for seed in range(50)])
    whole = file.read_bytes()
    middle = bytearray(whole)
    middle[20:60] = b"\xff" * 40
    content = {"cut": whole[:-20], "text": b"suite,task\n", "empty": b"", "middle": bytes(middle)}[damage]
    file.write_bytes(content)
    with pytest.raises(OtprError, match=r"results.parquet"):
        read_results(file)
    with pytest.raises(OtprError, match=r"results.parquet"):
        add_rows(file, [row()])
    assert file.read_bytes() == content


def forged(file: Path, change: Any) -> None:
    add_rows(file, [row()])
    pq.write_table(change(pq.read_table(file)), file)


RETURNS = ["mean_return", "mean_return_single"]  # the columns that schema 4 brought


def stamped(table: pa.Table, stamp: bytes) -> pa.Table:
    return table.replace_schema_metadata({b"otpr_results_schema": stamp})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: stamped(table, b"5"), "schema 5, and this otpr knows 4"),
        (lambda table: stamped(table, b"many"), "states no schema"),
        (lambda table: table.replace_schema_metadata(None), "states no schema"),
        (lambda table: table.drop_columns(["machine"]), "other columns .*: machine"),
        (lambda table: table.append_column("mood", pa.array(["good"])), "other columns .*: mood"),
        (
            lambda table: table.set_column(4, "seed", pa.array(["none"])),
            "other columns .*: seed",
        ),
        (
            lambda table: table.set_column(8, table.schema.field(8), pa.array([7.0])),
            "row 1 is no result of a run: success is 7.0",
        ),
    ],
    ids=["newer", "odd stamp", "no stamp", "fewer", "more", "type", "value"],
)
def test_another_table_is_refused(tmp_path, change, message):
    file = tmp_path / "results.parquet"
    forged(file, change)
    with pytest.raises(OtprError, match=message):
        read_results(file)


def test_rows_of_schema_1_keep_the_hash_that_identified_their_version(tmp_path):
    file = tmp_path / "results.parquet"
    add_rows(file, [row(result_version="0123456789ab"), FAILED])
    table = pq.read_table(file)
    names = ["code_version" if name == "result_version" else name for name in table.column_names]
    old_table = table.rename_columns(names).drop_columns(["packages", "execute", *RETURNS])
    pq.write_table(stamped(old_table, b"1"), file)
    first, *_ = old = read_results(file)
    assert (first.result_version, first.packages, first.execute) == ("0123456789ab", "", None)
    add_rows(file, [row(result_version="1.1", eval_at=0)])
    assert read_results(file) == sorted([*old, row(result_version="1.1", eval_at=0)], key=lambda row: row.run)


def test_rows_of_schema_2_do_not_say_how_many_actions_were_executed(tmp_path):
    file = tmp_path / "results.parquet"
    add_rows(file, [row()])
    pq.write_table(stamped(pq.read_table(file).drop_columns(["execute", *RETURNS]), b"2"), file)
    assert read_results(file) == [row(execute=None)]


def test_rows_of_schema_3_have_no_mean_returns(tmp_path):
    file = tmp_path / "results.parquet"
    add_rows(file, [row(mean_return=2.5, mean_return_single=2.25)])
    assert read_results(file) == [row(mean_return=2.5, mean_return_single=2.25)]
    pq.write_table(stamped(pq.read_table(file).drop_columns(RETURNS), b"3"), file)
    assert read_results(file) == [row()]


def test_the_order_of_the_columns_does_not_matter(tmp_path):
    file = tmp_path / "results.parquet"
    forged(file, lambda table: table.select(table.column_names[::-1]))
    assert read_results(file) == [row()]


def test_without_pyarrow_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OtprError, match=r"pip install 'otpr\[bench\]'"):
        read_results(tmp_path / "results.parquet")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OtprError, match="cannot be written"):
        add_rows(tmp_path / "file" / "results.parquet", [row()])


def test_every_field_is_a_column(tmp_path):
    add_rows(tmp_path / "results.parquet", [row()])
    names = pq.read_schema(tmp_path / "results.parquet").names
    assert names == [field.name for field in dataclasses.fields(Row)]
