from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from otpr.errors import OtprError
from otpr.training.lock import RunLock
from otpr.training.run_directory import RunDirectory
from tiny import files


def open_run(path: Path, **options: Any) -> RunDirectory:
    return RunDirectory.open(path, command="c", config={}, **options)


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_second_run_in_a_directory_is_refused_and_changes_nothing(tmp_path: Path, options: dict[str, bool]):
    with open_run(tmp_path / "run") as run:
        run.log({"env_steps": 1})
        before = files(tmp_path)
        with pytest.raises(OtprError) as caught:
            open_run(tmp_path / "run", **options)
        assert f"The run in {tmp_path / 'run'} is going on: process {os.getpid()} on " in str(caught.value)
        assert f"{socket.gethostname()}, since 20" in str(caught.value)
        assert files(tmp_path) == before
        run.log({"env_steps": 2})  # unharmed
    with open_run(tmp_path / "run", **options):
        pass


def test_lock_is_free_after_the_run_was_closed_and_the_file_empty(tmp_path: Path):
    open_run(tmp_path / "run").close()
    assert (tmp_path / "run" / "lock").read_bytes() == b""
    with open_run(tmp_path / "run", resume=True):
        owner = json.loads((tmp_path / "run" / "lock").read_text())
    assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())


def test_lock_ends_with_a_process_that_is_killed_but_not_before(tmp_path: Path):
    open_run(tmp_path / "run").close()
    script = """if True:
        import subprocess, sys, time
        from pathlib import Path
        from otpr.training.lock import RunLock
        lock = RunLock.take(Path(sys.argv[1]))
        # a process that it starts outlives it, and does not have the lock
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(child.pid, flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with pytest.raises(OtprError, match=f"is going on: process {holder.pid} on"):
            open_run(tmp_path / "run", resume=True)
        holder.kill()
        holder.wait()
        with open_run(tmp_path / "run", resume=True):
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize(
    "owner",
    [
        {"pid": 2**22 - 1, "host": "here", "started": "2020-01-01"},  # gone
        {"pid": 1, "host": "here", "started": "2020-01-01"},  # another process has its number now
        {"pid": 1, "host": "elsewhere", "started": "2020-01-01"},  # before a reboot
        [],
    ],
)
def test_what_an_old_file_says_locks_nothing(tmp_path: Path, owner: Any):
    open_run(tmp_path / "run").close()
    (tmp_path / "run" / "lock").write_text(json.dumps(owner))
    open_run(tmp_path / "run", resume=True).close()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 5000, b"7", b'{"pid": 1}'])
def test_holder_that_does_not_say_who_it_is_is_respected(tmp_path: Path, content: bytes):
    lock = RunLock.take(tmp_path)
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(OtprError, match="its process does not say which it is"):
        RunLock.take(tmp_path)
    lock.release()


def test_directory_replaced_while_it_was_locked_is_not_mistaken_for_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    flock = fcntl.flock

    def replace_first(descriptor: int, how: int) -> None:
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", replace_first)
    with pytest.raises(OtprError, match="was replaced just now"):
        RunLock.take(tmp_path)


def test_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def no_locks(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    open_run(tmp_path / "run").close()
    assert "offers no locks; see to it that no other run uses it" in capsys.readouterr().err
