"""The results of a suite: one Parquet file with a row for every evaluation of every run.

A run that failed has one row, without a success rate. Rows of earlier result versions stay in the file;
`otpr_bench.study.newest` selects the rows that may share a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import io
import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from otpr.errors import OtprError
from otpr.storage import write_bytes, writing

SCHEMA = 4
"""Number of the columns' meaning, kept in the file. Schema 3 had no mean returns, schema 2 no `execute`, and
schema 1 had no `packages` and called the result version `code_version`."""

RunKey: TypeAlias = tuple[str, str, str, str, int, str, str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluation of one run, or the only row of a run that failed."""

    suite: str  # its name, such as "arena-6"
    task: str  # its name, such as "metaworld/assembly-v3"
    algorithm: str  # its name, such as "otpr"
    preset: str  # its name and its changed fields, such as "default:epsilon=0.1"
    seed: int  # of the run, >= 0
    env_steps: int  # environment steps taken when the run was evaluated or failed, >= 0
    # nominal step 0, E, 2E, ... of the evaluation; a run is evaluated after the round of episodes that passes
    # this step, so `env_steps` is slightly larger
    eval_at: int
    wall_seconds: float  # duration of the run, over all its sittings, when the evaluation ended, >= 0
    success: float | None  # share of successful episodes of the policy as deployed; None if the run failed
    success_single: float | None  # the same without a choice among candidates; None if not measured
    episodes: int  # of the evaluation; 0 if the run failed
    base: str  # hash of the base policy, 12 hexadecimal digits
    settings: str  # hash of the run's settings except its seed, 12 hexadecimal digits
    # `otpr_bench.result_versions.result_version`, or the 12 hexadecimal digits of the sources' hash that
    # identified a version in files of schema 1
    result_version: str
    machine: str  # CPU model and number of cores
    status: Literal["done", "failed"]
    error: str  # why the run failed; empty if it did not
    started: str  # when the run was first started, UTC, "YYYY-MM-DDTHH:MM:SS+00:00"
    packages: str  # names and versions of those that can change a number; empty in rows of schema 1
    execute: int | None  # how many actions of a plan were executed; None if it failed or in schemas 1 and 2
    # mean over episodes of the undiscounted sum of rewards, of the policy as deployed and of one sample:
    # subtasks completed in Franka Kitchen; None where the success is, and in schemas 1 to 3
    mean_return: float | None
    mean_return_single: float | None

    def __post_init__(self) -> None:
        """Check that a run can produce the values.

        Raises:
            ValueError: a field is out of range; the message names it.
        """
        failed = self.status == "failed"
        possible = {
            "status": failed or self.status == "done",
            "success": (self.success is None) == failed and 0 <= (self.success or 0) <= 1,
            "success_single": self.success_single is None or 0 <= self.success_single <= 1,
            "episodes": self.episodes >= (0 if failed else 1),
            "wall_seconds": 0 <= self.wall_seconds < math.inf,
            "execute": self.execute is None or self.execute >= 1,
        }
        for name in ("mean_return", "mean_return_single"):
            value = getattr(self, name)
            possible[name] = value is None or (not failed and math.isfinite(value))
        possible |= {name: getattr(self, name) >= 0 for name in ("seed", "env_steps", "eval_at")}
        for name, holds in possible.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r} (status {self.status!r})")

    @property
    def run(self) -> RunKey:
        """The identity of the run: two rows with equal keys are evaluations of one run."""
        which = (self.suite, self.task, self.algorithm, self.preset, self.seed)
        return (*which, self.result_version, self.settings, self.base)


def load_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`, which have no types.

    Raises:
        OtprError: they are not installed; the message says how to install them.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise OtprError("Benchmark results need pyarrow. Install it: pip install 'otpr[bench]'") from error


def read_results(path: str | Path) -> list[Row]:
    """The rows of a results file, ordered by suite, task, algorithm, preset, seed and step.

    Raises:
        OtprError: the file is missing, damaged, no results file or written by a newer otpr, or it has other
            columns or a row that no run can produce.
    """
    pa, pq = load_pyarrow()
    path = Path(path)
    if not path.is_file():
        raise OtprError(f"There are no results in {path}: `otpr bench` writes them.")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise OtprError(f"{path} cannot be read as Parquet ({str(error)[:200]}). {_RESTORE}") from error
    rows: list[Row] = []
    for number, values in enumerate(_as_current(table, path).to_pylist(), start=1):
        try:
            rows.append(Row(**values))
        except (ValueError, TypeError) as error:
            raise OtprError(f"{path}, row {number} is no result of a run: {error}. {_RESTORE}") from error
    return rows


def add_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Add the rows of whole runs to a results file, which is created if it is missing.

    They replace the file's rows of the same runs. The file is written completely or not at all, and
    processes that add rows at the same time wait for each other.

    Raises:
        OtprError: `read_results` refuses the existing file, or the file cannot be written.
    """
    pa, pq = load_pyarrow()
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            new = {row.run for row in rows}
            kept = [row for row in read_results(path) if row.run not in new] if path.exists() else []
            ordered = sorted([*kept, *rows], key=lambda row: (row.run, row.eval_at))
            table = pa.Table.from_pylist([dataclasses.asdict(row) for row in ordered], schema=_schema())
            content = io.BytesIO()
            pq.write_table(table, content)
            write_bytes(path, content.getvalue())


_RESTORE = "Restore it from the repository or a backup, or name another file with --results."
_STAMP = b"otpr_results_schema"


def _schema() -> Any:
    pa, _ = load_pyarrow()
    kinds = {"int": pa.int64(), "float": pa.float64()}
    columns: list[Any] = []
    for field in dataclasses.fields(Row):
        kind, _, nothing = str(field.type).partition(" | ")
        columns.append(pa.field(field.name, kinds.get(kind, pa.string()), nullable=bool(nothing)))
    return pa.schema(columns, metadata={_STAMP: str(SCHEMA).encode()})


def _as_current(table: Any, path: Path) -> Any:
    """The table with the columns of the current schema."""
    pa, _ = load_pyarrow()
    stamp: bytes = (table.schema.metadata or {}).get(_STAMP, b"")
    if not stamp.isdigit():
        raise OtprError(f"{path} is Parquet, but no results of `otpr bench`: it states no schema.")
    if int(stamp) > SCHEMA:
        raise OtprError(
            f"{path} has schema {int(stamp)}, and this otpr knows {SCHEMA}. Read it with the newer otpr."
        )
    wanted = _schema()
    if int(stamp) == 1:
        names = ["result_version" if name == "code_version" else name for name in table.column_names]
        table = table.rename_columns(names)
        table = table.append_column(wanted.field("packages"), pa.array([""] * len(table), pa.string()))
    if int(stamp) < 3:
        table = table.append_column(wanted.field("execute"), pa.nulls(len(table), pa.int64()))
    if int(stamp) < SCHEMA:
        for name in ("mean_return", "mean_return_single"):
            table = table.append_column(wanted.field(name), pa.nulls(len(table), pa.float64()))
    differing = sorted({field.name for field in set(table.schema) ^ set(wanted)})
    if differing:
        raise OtprError(f"{path} has other columns than results: {', '.join(differing)}. {_RESTORE}")
    return table


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder's lock: of two processes that read, add and write, one would lose its rows."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # the folder belongs to the repository, so it must not gain a lock file
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
