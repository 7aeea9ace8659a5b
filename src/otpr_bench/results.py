"""The raw results of a suite: one Parquet file, a row for every evaluation of every run.

A run that failed has one row: how far it came and why it ended, and no success. Rows of earlier versions of
the code stay in the file; `otpr_bench.study.newest` chooses those that may stand in one table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib
import math
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

from otpr.errors import OtprError
from otpr.storage import writing

SCHEMA = 1
"""Number of the columns' meaning, kept in the file; a file with a higher one is of a newer otpr."""

_KEY = b"otpr_results_schema"

RunKey: TypeAlias = tuple[str, str, str, str, int, str, str, str]


@dataclasses.dataclass(frozen=True)
class Row:
    """One evaluation of one run, or the one row of a run that failed.

    Attributes:
        suite: the suite, e.g. `"arena-6"`.
        task: the task, e.g. `"metaworld/assembly-v3"`.
        algorithm: its name, e.g. `"otpr"`.
        preset: named settings of it, e.g. `"default"`.
        seed: of the run, >= 0.
        env_steps: environment steps that the run had taken when it was evaluated, or when it failed, >= 0.
        eval_at: the nominal step 0, E, 2E, ... that the evaluation belongs to. A run is evaluated after the
            round of episodes that passes it, so `env_steps` is a little more.
        wall_seconds: of the run, over all its sittings, when that evaluation ended, >= 0.
        success: share of the episodes that succeeded, in [0, 1], of the policy as deployed; None where the
            run failed.
        success_single: of one sample without a choice; None where it was not measured.
        episodes: of the evaluation; 0 where the run failed.
        base: hash of the base policy, 12 hexadecimal digits.
        settings: hash of the run's settings but for the seed, 12 hexadecimal digits.
        code_version: `otpr_bench.version.code_version` of the algorithm and the task.
        machine: CPU model and number of cores.
        status: whether the run was done or failed.
        error: why it failed; empty where it did not.
        started: when the run was started first, UTC, `YYYY-MM-DDTHH:MM:SS+00:00`.
    """

    suite: str
    task: str
    algorithm: str
    preset: str
    seed: int
    env_steps: int
    eval_at: int
    wall_seconds: float
    success: float | None
    success_single: float | None
    episodes: int
    base: str
    settings: str
    code_version: str
    machine: str
    status: Literal["done", "failed"]
    error: str
    started: str

    def __post_init__(self) -> None:
        """Refuse what no run can have measured.

        Raises:
            ValueError: names the field.
        """
        if self.status not in ("done", "failed"):
            raise ValueError(f"status is {self.status!r}")
        if (self.success is None) != (self.status == "failed"):
            raise ValueError(f"success is {self.success} and status {self.status}")
        for name in ("success", "success_single"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}")
        for name in ("seed", "env_steps", "eval_at", "wall_seconds", "episodes"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"{name} is {number}")
        if self.status == "done" and self.episodes < 1:
            raise ValueError(f"episodes is {self.episodes}")

    @property
    def run(self) -> RunKey:
        """What tells one run from another: all but what was measured."""
        return (
            self.suite,
            self.task,
            self.algorithm,
            self.preset,
            self.seed,
            self.code_version,
            self.settings,
            self.base,
        )


def load_pyarrow() -> tuple[Any, Any]:
    """The modules `pyarrow` and `pyarrow.parquet`, which have no types.

    Raises:
        OtprError: they are not installed; it says how to do that.
    """
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise OtprError(
            "Results of benchmarks need pyarrow. Install it with: pip install 'otpr[bench]'"
        ) from error


def read_results(path: str | Path) -> list[Row]:
    """The rows of a results file, in the order of suite, task, algorithm, preset, seed and step.

    Raises:
        OtprError: there is no such file, it is no Parquet file or damaged, of a newer schema, has other
            columns, or a row that no run can have measured.
    """
    pa, pq = load_pyarrow()
    path = Path(path)
    if not path.is_file():
        raise OtprError(f"There are no results in {path}: `otpr bench` writes them.")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise OtprError(f"{path} cannot be read as Parquet ({str(error)[:200]}). {_BACK}") from error
    _check_schema(table.schema, path)
    rows: list[Row] = []
    for number, values in enumerate(table.to_pylist(), start=1):
        try:
            rows.append(Row(**values))
        except (ValueError, TypeError) as error:
            raise OtprError(f"{path}, row {number} is not as a run measures it: {error}. {_BACK}") from error
    return rows


def add_rows(path: str | Path, rows: Sequence[Row]) -> None:
    """Put the rows of whole runs into a results file, which is made where there is none.

    They replace the rows that the file has of the same runs. The file is written whole or not at all, and two
    processes that add at the same time both succeed.

    Raises:
        OtprError: as in `read_results` for the file that is there, or it cannot be written.
    """
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            new = {row.run for row in rows}
            kept = [row for row in read_results(path) if row.run not in new] if path.exists() else []
            _write(path, sorted([*kept, *rows], key=_order))


_BACK = "Bring it back from the repository or a backup, or name another file with --results."


def _order(row: Row) -> tuple[Any, ...]:
    return (*row.run, row.eval_at)


def _schema() -> Any:
    pa, _ = load_pyarrow()
    text, number, real = pa.string(), pa.int64(), pa.float64()
    kinds = {
        "seed": number,
        "env_steps": number,
        "eval_at": number,
        "wall_seconds": real,
        "success": real,
        "success_single": real,
        "episodes": number,
    }
    nullable = {"success", "success_single"}
    return pa.schema(
        [
            pa.field(field.name, kinds.get(field.name, text), nullable=field.name in nullable)
            for field in dataclasses.fields(Row)
        ],
        metadata={_KEY: str(SCHEMA).encode()},
    )


def _check_schema(found: Any, path: Path) -> None:
    metadata: dict[bytes, bytes] = found.metadata or {}
    stamp = metadata.get(_KEY, b"")
    if not stamp.isdigit():
        raise OtprError(f"{path} is Parquet, but no results of `otpr bench`: it does not say its schema.")
    if int(stamp) > SCHEMA:
        raise OtprError(
            f"{path} has schema {int(stamp)}; this otpr knows {SCHEMA}. Read it with the newer otpr that "
            "wrote it."
        )
    wanted = _schema()
    if not found.equals(wanted):
        differing = sorted(
            name
            for name in {*found.names, *wanted.names}
            if name not in found.names
            or name not in wanted.names
            or not found.field(name).equals(wanted.field(name))
        )
        raise OtprError(
            f"{path} has other columns than results of schema {SCHEMA}: "
            f"{', '.join(differing) or 'their order'}. {_BACK}"
        )


def _write(path: Path, rows: Sequence[Row]) -> None:
    pa, pq = load_pyarrow()
    table = pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=_schema())
    part = path.with_name(f".{path.name}.part")
    with open(part, "wb") as stream:
        pq.write_table(table, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, path)


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """One process at a time: two that read, add and write would lose the rows of one."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # no lock file: the folder is in the repository
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
