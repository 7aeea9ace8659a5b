"""Full disks, read-only disks, folders that go away: an error that says so; what was saved before stays."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter, read_experience
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.policies.loading import load_policy
from otpr.spec import Spec
from otpr.training import checkpoints
from otpr.training.run_directory import RunDirectory, read_rows
from tiny import TASK, arrays, assert_same_arrays, files, policy

TREE = {"x": np.arange(100_000.0)}
LARGER = {"x": np.arange(300_000.0)}
OTHER = policy(observation_dim=300, action_dim=2)
SMALL = policy(observation_dim=3, action_dim=2)
SPEC = Spec.flat(3, 2)


def episode(steps: int) -> Episode:
    return Episode(
        observations={"state": np.zeros((steps + 1, 3), np.float32)},
        actions=np.zeros((steps, 2), np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=steps,
    )


def experience(run: RunDirectory) -> ExperienceWriter:
    return ExperienceWriter(run.path / "experience", Setup(TASK), SPEC)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """A run with a row, an episode, a checkpoint and a policy."""
    yield from begun(tmp_path)


def begun(folder: Path) -> Iterator[RunDirectory]:
    with RunDirectory.open(folder / "run", command="c", config={}) as run:
        run.log({"env_steps": 1})
        experience(run).add([episode(5)])
        checkpoints.save(run.checkpoints, 1, TREE, {"n": 1})
        SMALL.save(run.path / "policy", task=TASK)
        yield run


def attempts(run: RunDirectory) -> dict[str, Callable[[], Any]]:
    """Everything that writes, by the file that the error names."""
    return {
        "metrics.jsonl": lambda: run.log({"env_steps": 2, "note": "x" * 100_000}),
        "checkpoints/2": lambda: checkpoints.save(run.checkpoints, 2, LARGER, {"n": 2}),
        "checkpoints/1": lambda: checkpoints.save(run.checkpoints, 1, LARGER, {"n": 2}),
        "experience/episodes-000001.safetensors": lambda: experience(run).add([episode(20_000)]),
        "policy": lambda: OTHER.save(run.path / "policy", task=TASK),
        "summary.json": lambda: run.write_summary({"note": "x" * 100_000}),
    }


def assert_unharmed(run: RunDirectory) -> None:
    """What was saved is there, and nothing else but rows that were begun."""
    tree, state = checkpoints.load(run.checkpoints, 1, TREE)
    assert_same_arrays(tree, TREE)
    assert state == {"n": 1}
    assert [path.name for path in run.checkpoints.iterdir()] == ["1"]
    assert [len(one) for one in read_experience(run.path / "experience")] == [5]
    assert_same_arrays(arrays(load_policy(run.path)), arrays(SMALL))
    assert read_rows(run.path) == [{"env_steps": 1}]
    assert not [path for path in run.path.iterdir() if path.name.startswith(".policy")]


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """As on a full disk, but for this process alone: no file may grow beyond the size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_is_full_costs_nothing_that_was_saved(run: RunDirectory):
    for name, write in attempts(run).items():
        with largest_file(10_000), pytest.raises(OtprError) as caught:
            write()
        assert str(caught.value).startswith(f"{run.path / name} cannot be written (File too large).")
        assert "Look whether the disk is full" in str(caught.value)
        assert_unharmed(run)
    run.close()
    # with room again the run goes on, its torn row forgotten
    with RunDirectory.open(run.path, command="c", config={}, resume=True) as again:
        again.log({"env_steps": 2})
        experience(again).add([episode(20_000)])
        checkpoints.save(again.checkpoints, 2, LARGER, {"n": 2})
    assert [len(one) for one in read_experience(run.path / "experience")] == [5, 20_000]
    assert read_rows(run.path) == [{"env_steps": 1}, {"env_steps": 2}]
    assert checkpoints.latest(run.checkpoints) == 2


def test_run_whose_folder_was_removed_or_moved_says_so_and_makes_nothing(run: RunDirectory, tmp_path: Path):
    collected = experience(run)
    for go in (lambda: run.path.rename(tmp_path / "moved"), lambda: shutil.rmtree(tmp_path / "moved")):
        go()
        with pytest.raises(OtprError, match=r"metrics\.jsonl was removed, moved or replaced while"):
            run.log({"env_steps": 2})
        with pytest.raises(OtprError, match=r"experience was removed, moved or replaced while"):
            collected.add([episode(5)])
        with pytest.raises(OtprError, match=r"checkpoints cannot be written \(No such file or directory\)"):
            checkpoints.save(run.checkpoints, 2, TREE, {})
        with pytest.raises(OtprError, match=r"summary\.json cannot be written \(No such file or directory\)"):
            run.write_summary({})
        assert not run.path.exists()


def test_run_whose_folder_was_replaced_does_not_write_into_the_new_one(run: RunDirectory):
    collected = experience(run)
    shutil.rmtree(run.path)
    with RunDirectory.open(run.path, command="c", config={}):
        with pytest.raises(OtprError, match=r"metrics\.jsonl was removed, moved or replaced while"):
            run.log({"env_steps": 2})
        experience(run).add([episode(7)])
        before = files(run.path / "experience")
        with pytest.raises(OtprError, match=r"experience was removed, moved or replaced while"):
            collected.add([episode(5)])
        assert files(run.path / "experience") == before
        assert read_rows(run.path) == []


@contextlib.contextmanager
def disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own at the folder."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "otpr-test", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"this user may not mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(file: Path) -> None:
    """Leave no room beside the file."""
    with open(file, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_file_system_without_room(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    with disk(place, "4m"):
        for run in begun(place):
            fill(place / "filler")
            for name, write in attempts(run).items():
                with pytest.raises(OtprError) as caught:
                    write()
                assert "cannot be written (No space left on device)" in str(caught.value), name
                assert_unharmed(run)
            (place / "filler").unlink()
            checkpoints.save(run.checkpoints, 2, TREE, {"n": 2})
        # and one that is full from the start
        fill(place / "filler")
        with pytest.raises(OtprError, match=r"cannot be written \(No space left on device\)"):
            RunDirectory.open(place / "second", command="c", config={})
        assert not (place / "second").exists()


def test_file_system_that_is_read_only(tmp_path: Path):
    place = tmp_path / "disk"
    place.mkdir()
    with disk(place, "8m"):
        for run in begun(place):
            run.close()
        remount = ["mount", "-o", "remount,ro", str(place)]
        subprocess.run(remount, check=True, capture_output=True)
        before = files(place)
        for name, write in attempts(run).items():
            if name != "metrics.jsonl":
                with pytest.raises(OtprError, match=r"cannot be written \(Read-only file system\)"):
                    write()
        for folder, options in (("run", {"resume": True}), ("run", {"overwrite": True}), ("new", {})):
            with pytest.raises(OtprError, match=r"cannot be written \(Read-only file system\)"):
                RunDirectory.open(place / folder, command="c", config={}, **options)
        assert files(place) == before
        # what only reads, works
        assert_unharmed(run)


@pytest.mark.faults
def test_command_on_a_full_disk_ends_with_a_line_and_status_2(tmp_path: Path):
    """Its imitation gets as far as the first row that does not fit."""
    from otpr.data.dataset_writer import write_dataset
    from tiny import POLICY, demonstrations, options

    write_dataset(demonstrations(), tmp_path / "demos", task_id=TASK, expert="e", noise=0.1, seed=0)
    settings = {**POLICY, "data": "demos", "run_dir": "run", "updates": 500, "batch_size": 32}
    script = """if True:
        import resource, sys
        from otpr.cli.main import main
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, -1))
        sys.exit(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", script, "pretrain", *options(settings)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"otpr: {tmp_path / 'run' / 'checkpoints' / '500'} cannot be"
    )
    assert "Traceback" not in done.stderr
    assert checkpoints.latest(tmp_path / "run" / "checkpoints") is None
