from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otpr.errors import OtprError
from otpr.npz import read_npz
from otpr.storage import DamagedFile, read_json, sealed_folder, write_json
from otpr.trees import read_arrays, read_metadata


@pytest.mark.parametrize("read", [read_arrays, read_metadata, read_npz, read_json])
def test_pipe_folder_or_missing_file_is_refused_at_once(tmp_path: Path, read: Callable[[Path], Any]):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="no regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(DamagedFile, match="no regular file"):
        read(tmp_path)
    with pytest.raises(DamagedFile, match="FileNotFoundError"):
        read(tmp_path / "missing")
    with pytest.raises(DamagedFile, match="no regular file"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"[" * 10**6, "RecursionError"),
        (b'{"a":' * 10**5, "RecursionError"),
        (b"1" * 10**5, "Exceeds the limit"),
        (b"1e999", "too large"),
        (b"-1e999", "too large"),
        (b"NaN", "NaN is no JSON"),
        (b"-Infinity", "-Infinity is no JSON"),
        (b"\xff\xfe", "Unicode"),
        (b"!!python/object/apply:os.abort []", "JSONDecodeError"),
        (b"", "JSONDecodeError"),
    ],
)
def test_absurd_document_is_refused(tmp_path: Path, text: bytes, reason: str):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(DamagedFile, match=reason):
        read_json(tmp_path / "a.json")


def test_document_of_a_gigabyte_is_refused_unread(tmp_path: Path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(10**9)  # takes no room on the disk
    with pytest.raises(DamagedFile, match="1,000,000,000 bytes are more than"):
        read_json(tmp_path / "a.json")


# ---------------------------------------------------------------------------------------------------- writing


def test_block_that_raises_leaves_what_was_there(tmp_path: Path):
    for text in ("old", "new"):
        try:
            with sealed_folder(tmp_path / "folder") as new:
                write_json(new / "a.json", text)
                if text == "new":
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    assert read_json(tmp_path / "folder" / "a.json") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_value_that_is_no_json_changes_nothing(tmp_path: Path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == 1
    with pytest.raises(OtprError, match=r"b\.json cannot be written \(No such file or directory\)"):
        write_json(tmp_path / "missing" / "b.json", 1)
