"""One run at a time in a run directory.

The lock is the operating system's (`flock`) on the file `lock`, held while the run is open. It ends with the
process, so there are no stale locks. The file's content only names the holder. Child processes do not inherit
the lock.

The package filelock takes the same lock, and would replace about fifteen lines: the holder's name and the
warning where a file system has no locks, at which filelock raises, would remain. It would not bring otpr to
Windows, which has no `flock`: a new run directory is renamed while its lock is open, which Windows refuses.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from pathlib import Path
from typing import Self

from otpr.errors import OtprError
from otpr.storage import writing

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""The error codes of a file system without locks."""


class RunLock:
    """A lock on a run directory, which the file's descriptor holds; `RunLock.take` makes one."""

    def __init__(self, descriptor: int):
        self._descriptor: int | None = descriptor

    @classmethod
    def take(cls, path: Path) -> Self:
        """Lock the run directory `path` for this process.

        If the file system has no locks, the run continues without one and prints a warning to standard error.

        Raises:
            OtprError: another run has it, here or (where the file system passes locks on) on another machine;
                or the file cannot be written.
        """
        file = path / "lock"
        with writing(file):
            lock = cls(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666))
        try:
            lock._lock(path)
            with writing(file):
                lock._write_owner()
        except BaseException:
            lock._close()
            raise
        return lock

    def release(self) -> None:
        """Release the lock; a second call does nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(
                OSError
            ):  # a disk that has become read-only: the name is only information
                os.ftruncate(self._descriptor, 0)
            self._close()

    def _lock(self, path: Path) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                print(
                    f"otpr: the file system of {path} offers no locks; see to it that no other run uses it.",
                    file=sys.stderr,
                )
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise OtprError(f"{path / 'lock'} cannot be locked ({error.strerror}).") from error
            raise OtprError(
                f"The run in {path} is going on: {self._owner()}. Wait for it, stop it, or use another "
                "directory."
            ) from error
        # The previous holder may have replaced the directory that was opened here.
        if not (path / "lock").exists() or not os.path.samestat(
            os.fstat(self._descriptor), os.stat(path / "lock")
        ):
            raise OtprError(f"The run in {path} was replaced just now. Look at it, then start again.")

    def _write_owner(self) -> None:
        assert self._descriptor is not None
        started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(owner).encode() + b"\n", 0)

    def _owner(self) -> str:
        """The holder according to the file, which may not be written yet."""
        assert self._descriptor is not None
        try:
            owner = json.loads(os.pread(self._descriptor, 1000, 0))
            return f"process {owner['pid']} on {owner['host']}, since {owner['started']}"
        except (ValueError, TypeError, KeyError, RecursionError):
            return "its process does not say which it is"

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
