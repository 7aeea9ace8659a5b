from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otpr.errors import OtprError
from otpr.npz import read_npz
from otpr.storage import DamagedFile, check_writable, read_json, sealed_folder, write_json
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


def test_places_that_can_be_written_are_accepted_and_nothing_is_made(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    check_writable(tmp_path / "a" / "b" / "new.json", "--out")
    check_writable(tmp_path / "file", "--out")
    check_writable(tmp_path / "folder", "--out", folder=True)
    check_writable(tmp_path / "c" / "d", "--run-dir", folder=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "old"


def test_places_that_cannot_be_written_are_refused_with_the_option(tmp_path: Path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()

    def refusal(path: Path, *, folder: bool = False) -> str:
        with pytest.raises(OtprError) as caught:
            check_writable(path, "--out", folder=folder)
        return str(caught.value)

    advice = "Give another place with --out."
    place = tmp_path / "file" / "x" / "y.json"
    assert refusal(place) == (
        f"{place} cannot be written: {tmp_path / 'file'} is a file, not a folder. {advice}"
    )
    place = tmp_path / "folder"
    assert refusal(place) == f"{place} is a folder, and a file is to be written. {advice}"
    place = tmp_path / "file"
    assert refusal(place, folder=True) == f"{place} is a file, and a folder is to be written. {advice}"
    place = Path("/proc/otpr/x.json")
    assert refusal(place).startswith(f"{place} cannot be written (") and advice in refusal(place)


def test_a_place_that_this_user_may_not_write_to_is_refused(ordinary_user: Path):
    place = ordinary_user / "new" / "x.json"
    with pytest.raises(OtprError) as caught:
        check_writable(place, "--out")
    assert str(caught.value) == (
        f"{place} cannot be written (Permission denied). Give another place with --out."
    )
