from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpr.data.episode_arrays import digest, pack, unpack
from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter, read_about, read_experience
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.spec import Entry, Spec
from otpr.storage import DamagedFile
from otpr.trees import read_arrays, read_metadata, to_bytes
from tiny import files, reseal

TASK = "robosuite/lift"
SPEC = Spec(
    {"arm": Entry((3,)), "camera": Entry((4, 5, 3), "uint8", "image"), "exact/touch": Entry((2,), "float64")},
    (-1.0, -1.0),
    (1.0, 1.0),
    20.0,
)
FLAT = Spec.flat(3, 2)


def episode(seed: int, length: int | None = None, spec: Spec = SPEC) -> Episode:
    """Of 1 to 9 steps; what its arrays hold, and how it ends, follows from the seed."""
    generator = np.random.default_rng(seed)
    steps = length or int(generator.integers(1, 10))
    observations = {
        name: (generator.uniform(0, 255, (steps + 1, *entry.shape))).astype(entry.dtype)
        for name, entry in spec.observation.items()
    }
    return Episode(
        observations=observations,  # pyright: ignore[reportArgumentType]
        actions=generator.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32),
        rewards=generator.normal(size=steps).astype(np.float32),
        terminated=seed % 2 == 0,
        truncated=seed % 3 == 0,
        success=seed % 5 == 0,
        seed=None if seed % 7 == 0 else seed * 1000,
    )


ROUNDS = [[episode(1), episode(2), episode(7)], [episode(3)], [episode(5), episode(6, length=1)]]


def written(
    folder: Path, rounds: Sequence[Sequence[Episode]] = ROUNDS, spec: Spec = SPEC
) -> ExperienceWriter:
    writer = ExperienceWriter(folder, Setup(TASK), spec)
    for episodes in rounds:
        writer.add(episodes)
    return writer


def content(episode: Episode) -> list[Any]:
    """Everything in an episode, to the bit."""
    arrays = {**episode.observations, "actions": episode.actions, "rewards": episode.rewards}
    rest = [episode.terminated, episode.truncated, episode.success, episode.seed]
    return [*((name, a.dtype, a.shape, a.tobytes()) for name, a in sorted(arrays.items())), *rest]


def assert_equal(found: Iterable[Episode], rounds: Sequence[Sequence[Episode]]) -> None:
    expected = [content(episode) for episodes in rounds for episode in episodes]
    assert [content(episode) for episode in found] == expected


def assert_holds(folder: Path, rounds: Sequence[Sequence[Episode]]) -> None:
    assert_equal(read_experience(folder), rounds)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written(tmp_path / "experience")
    return tmp_path / "experience"


@given(seeds=st.lists(st.integers(0, 10**6), min_size=1, max_size=5), flat=st.booleans())
def test_episodes_come_back_from_their_arrays_bit_for_bit(seeds: list[int], flat: bool):
    spec = FLAT if flat else SPEC
    episodes = [episode(seed, spec=spec) for seed in seeds]
    assert [content(one) for one in unpack(pack(episodes, spec), spec)] == [content(one) for one in episodes]


def test_what_is_written_is_read_in_its_order(folder: Path):
    assert_holds(folder, ROUNDS)
    assert sorted(path.name for path in folder.iterdir()) == [
        "SHA256SUMS",
        "dataset.json",
        "episodes-000000.safetensors",
        "episodes-000003.safetensors",
        "episodes-000004.safetensors",
    ]
    about = read_about(folder)
    assert (about.task, about.spec) == (TASK, SPEC)
    assert about.written_by.startswith("otpr ")


def test_round_without_episodes_writes_nothing(tmp_path: Path):
    writer = written(tmp_path / "e", [ROUNDS[0], [], ROUNDS[1]])
    assert writer.count == 2
    assert_holds(tmp_path / "e", ROUNDS[:2])


def test_files_are_written_once_and_stay_as_they_are(tmp_path: Path):
    writer = written(tmp_path / "e", ROUNDS[:2])
    before = files(tmp_path / "e")
    writer.add(ROUNDS[2])
    after = files(tmp_path / "e")
    assert after.items() > before.items() and len(after) == len(before) + 1


def test_digest_is_the_chain_of_the_files_digests(folder: Path, tmp_path: Path):
    """By hand, and the same for a writer that went on where another stopped."""
    chain = hashlib.sha256((folder / "dataset.json").read_bytes()).hexdigest()
    for file in sorted(folder.glob("*.safetensors")):
        chain = hashlib.sha256((chain + digest(read_arrays(file))).encode()).hexdigest()
    writer = written(tmp_path / "other", ROUNDS[:1])
    assert writer.digest != chain
    writer = ExperienceWriter(tmp_path / "other", Setup(TASK), SPEC)
    writer.add(ROUNDS[1])
    writer.add(ROUNDS[2])
    assert writer.digest == ExperienceWriter(folder, Setup(TASK), SPEC).digest == chain
    assert writer.count == 3
    assert files(tmp_path / "other") == files(folder)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_run_that_goes_on_from_a_checkpoint_replaces_what_came_later(tmp_path: Path, kept: int):
    writer = ExperienceWriter(tmp_path / "e", Setup(TASK), SPEC)
    digests = [writer.digest]
    for episodes in ROUNDS:
        writer.add(episodes)
        digests.append(writer.digest)
    (tmp_path / "e" / ".episodes-000006.safetensors.part").write_bytes(b"killed here")
    again = ExperienceWriter(tmp_path / "e", Setup(TASK), SPEC)
    found = again.back_to(kept, digests[kept])
    assert (again.count, again.digest) == (kept, digests[kept])
    assert_equal(found, ROUNDS[:kept])
    assert_holds(tmp_path / "e", ROUNDS[:kept])
    again.add([episode(99)])
    assert_holds(tmp_path / "e", [*ROUNDS[:kept], [episode(99)]])
    assert not list((tmp_path / "e").glob(".*"))


def test_later_files_may_be_damaged_where_a_checkpoint_does_not_count_them(tmp_path: Path):
    digest = written(tmp_path / "e", ROUNDS[:2]).digest
    written(tmp_path / "e", ROUNDS[2:])
    (tmp_path / "e" / "episodes-000004.safetensors").write_bytes(b"")
    assert_equal(ExperienceWriter(tmp_path / "e", Setup(TASK), SPEC).back_to(2, digest), ROUNDS[:2])
    assert_holds(tmp_path / "e", ROUNDS[:2])


def test_run_without_a_checkpoint_begins_with_no_episodes(folder: Path):
    writer = ExperienceWriter(folder, Setup(TASK), SPEC)
    assert list(writer.back_to(0, "")) == []
    writer.add(ROUNDS[1])
    assert_holds(folder, ROUNDS[1:2])


def test_one_file_at_a_time_is_in_memory(tmp_path: Path):
    spec = Spec.flat(10_000, 1)
    written(tmp_path / "e", [[episode(i, 10, spec) for i in range(r, r + 2)] for r in range(0, 20, 2)], spec)
    size = (tmp_path / "e" / "episodes-000000.safetensors").stat().st_size
    tracemalloc.start()
    assert sum(len(one) for one in read_experience(tmp_path / "e")) == 200
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size  # the file, its successor, and what the digest is taken of


# ------------------------------------------------------------------------------------------- other episodes


def test_other_task_is_refused(folder: Path):
    with pytest.raises(OtprError, match="holds episodes of the task 'robosuite/lift', not of 'fetch/push'"):
        ExperienceWriter(folder, Setup("fetch/push"), SPEC)


def test_other_spec_is_refused_by_every_entry(folder: Path):
    with pytest.raises(OtprError) as caught:
        ExperienceWriter(folder, Setup(TASK), dataclasses.replace(FLAT, action_high=(1.0, 2.0)))
    for part in ("'arm'", "'camera'", "'exact/touch'", "'state'", "action bounds"):
        assert part in str(caught.value)


def test_folder_of_something_else_is_refused_and_left(tmp_path: Path):
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "notes.txt").write_text("mine")
    with pytest.raises(OtprError, match=r"is no data set of episodes: it has no dataset\.json"):
        ExperienceWriter(tmp_path / "e", Setup(TASK), SPEC)
    assert list(files(tmp_path)) == ["e/notes.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observations": {"state": np.zeros((10, 3), np.float32)}}, "have the entries"),
        ({"actions": np.zeros((9, 3), np.float32)}, r"actions is float32\[9, 3\], .* float32\[9, 2\]"),
        ({"actions": np.zeros((9, 2))}, r"actions is float64\[9, 2\]"),
        ({"rewards": np.zeros(8, np.float32)}, r"rewards is float32\[8\], .* float32\[9\]"),
        ({"actions": np.zeros((0, 2), np.float32)}, "at least one step"),
    ],
)
def test_episode_that_does_not_fit_the_spec_is_not_written(
    folder: Path, change: dict[str, Any], message: str
):
    before, writer = files(folder), ExperienceWriter(folder, Setup(TASK), SPEC)
    with pytest.raises(ValueError, match=message):
        writer.add([dataclasses.replace(episode(1, length=9), **change)])
    assert files(folder) == before
    writer.add([episode(8)])
    assert_holds(folder, [*ROUNDS, [episode(8)]])


def test_folder_that_was_removed_or_replaced_is_not_written_to(folder: Path, tmp_path: Path):
    writer = ExperienceWriter(folder, Setup(TASK), SPEC)
    folder.rename(tmp_path / "moved")
    with pytest.raises(OtprError, match="was removed, moved or replaced while its run was going on"):
        writer.add([episode(8)])
    assert not folder.exists()
    written(folder)
    before = files(tmp_path)
    with pytest.raises(OtprError, match="was removed, moved or replaced while its run was going on"):
        writer.add([episode(8)])
    assert files(tmp_path) == before


# --------------------------------------------------------------------------------------------------- damage


def refusal(folder: Path) -> str:
    with pytest.raises(OtprError) as caught:
        list(read_experience(folder))
    return str(caught.value)


@pytest.mark.parametrize("name", ["dataset.json", "SHA256SUMS", "episodes-000003.safetensors"])
def test_any_byte_changed_is_named_or_changes_nothing(folder: Path, name: str):
    file = folder / name
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    header = int.from_bytes(whole[:8], "little") + 8 if file.suffix == ".safetensors" else len(whole)
    places = {*range(0, min(header, len(whole)), 3), *generator.integers(0, len(whole), 60).tolist()}
    harmless = 0
    for place in sorted(places):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        found: list[Any] = []
        with contextlib.suppress(DamagedFile):
            found = [content(one) for one in read_experience(folder)]
        if len(found) == 6:  # another blank in the header
            harmless += 1
            assert found == [content(one) for episodes in ROUNDS for one in episodes]
    assert harmless <= 3
    for length in (0, 1, 7, 8, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        assert f"{folder}" in (message := refusal(folder)) and "is damaged (" in message
    file.write_bytes(whole + b"\0")
    assert "is damaged (" in refusal(folder)
    file.unlink()
    assert name in refusal(folder)


def test_damaged_numbers_name_their_file_after_the_files_before_were_given(folder: Path):
    file = folder / "episodes-000003.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    given = read_experience(folder)
    assert [content(next(given)) for _ in range(3)] == [content(one) for one in ROUNDS[0]]
    with pytest.raises(DamagedFile, match=r"episodes-000003\.safetensors is damaged \(the SHA-256 of its"):
        next(given)


def test_missing_file_in_the_middle_is_named(folder: Path):
    (folder / "episodes-000003.safetensors").unlink()
    message = (
        f"{folder / 'episodes-000003.safetensors'} is damaged (it is missing: the next one is episodes-000004"
    )
    assert refusal(folder).startswith(message)
    with pytest.raises(DamagedFile, match="it is missing: the next one is"):
        ExperienceWriter(folder, Setup(TASK), SPEC).back_to(2, "")


def test_missing_last_file_is_missed_by_who_counts_them(folder: Path):
    (folder / "episodes-000004.safetensors").unlink()
    assert_holds(folder, ROUNDS[:2])
    with pytest.raises(OtprError, match="holds 2 files of episodes, and the checkpoint counts 3"):
        ExperienceWriter(folder, Setup(TASK), SPEC).back_to(3, "")


@pytest.mark.parametrize("number", ["000003", "000004"])
def test_file_of_another_run_is_named(folder: Path, tmp_path: Path, number: str):
    other = tmp_path / "other"
    written(other, [[episode(11), episode(12), episode(13)], [episode(14)], [episode(15)]])
    shutil.copy(other / f"episodes-{number}.safetensors", folder)
    assert refusal(folder) == (
        f"{folder / f'episodes-{number}.safetensors'} is damaged (it was not written after the files that "
        "are before it)."
    )


def test_whole_data_set_of_another_run_is_refused_by_who_has_the_digest(folder: Path, tmp_path: Path):
    counted = ExperienceWriter(folder, Setup(TASK), SPEC).digest
    written(tmp_path / "other", [[episode(11), episode(12), episode(13)], [episode(14)], [episode(15)]])
    writer = ExperienceWriter(tmp_path / "other", Setup(TASK), SPEC)
    before = files(tmp_path)
    with pytest.raises(OtprError, match=r"episodes-000004\.safetensors is not the one that the checkpoint"):
        writer.back_to(3, counted)
    assert files(tmp_path) == before


def test_file_with_another_number_is_named(folder: Path):
    (folder / "episodes-000004.safetensors").rename(folder / "episodes-000005.safetensors")
    assert "episodes-000004.safetensors is damaged (it is missing: the next one is" in refusal(folder)
    shutil.copy(folder / "episodes-000000.safetensors", folder / "episodes-000002.safetensors")
    assert "episodes-000002.safetensors is damaged (in its place episodes-000003" in refusal(folder)


# ------------------------------------------------------------------------------- made to look like our own


def forge(file: Path, arrays: dict[str, np.ndarray], **metadata: Any) -> None:
    """Write a file whose digests are right."""
    stored = {**read_metadata(file), "sha256": digest(arrays), **metadata}
    file.write_bytes(to_bytes(arrays, stored))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lengths", np.array([2**62, 2**62, 2]), "by spec and lengths"),
        ("lengths", np.array([2**63 - 1, 2**63 - 1]), "by spec and lengths"),
        ("lengths", np.array([-1, 5]), "at least one step"),
        ("lengths", np.zeros(0, np.int64), "at least one step"),
        ("lengths", np.array([1.5]), "by spec and lengths"),
        ("lengths", None, "at least one step"),
        ("actions", None, "'actions' is missing"),
        ("observations/arm", None, "'observations/arm' is missing"),
        ("observations/arm", np.zeros((3, 4), np.float32), r"arm is float32\[3, 4\], by spec"),
        ("observations/camera", np.zeros((3, 4, 5, 3), np.float32), "camera is float32"),
        ("observations/../../x", np.zeros(3), "should not be there"),
        ("success", np.zeros(1, np.int8), "success is int8"),
        ("seeds", np.zeros(1, np.float64), "seeds is float64"),
    ],
)
def test_arrays_that_disagree_with_the_spec_are_named(
    tmp_path: Path, name: str, value: np.ndarray | None, message: str
):
    written(tmp_path / "e", [[episode(1, length=2)]])
    file = tmp_path / "e" / "episodes-000000.safetensors"
    arrays: dict[str, Any] = {**read_arrays(file), name: value}
    forge(file, {name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(DamagedFile, match=rf"episodes-000000\.safetensors is damaged \(.*{message}"):
        list(read_experience(tmp_path / "e"))


@pytest.mark.parametrize("episodes", [None, 0, -1, 2, 1.0, True, "1", 10**30])
def test_number_of_episodes_that_is_not_that_of_the_arrays_is_refused(tmp_path: Path, episodes: Any):
    written(tmp_path / "e", [[episode(1)]])
    file = tmp_path / "e" / "episodes-000000.safetensors"
    forge(file, read_arrays(file), episodes=episodes)
    with pytest.raises(DamagedFile, match=r"episodes-000000\.safetensors is damaged"):
        list(read_experience(tmp_path / "e"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "is of format 99; this otpr reads up to 2. Upgrade otpr."),
        ({"format": "1"}, "does not say of which format it is"),
        ({"task": None}, "should be texts"),
        ({"written_by": 3}, "should be texts"),
        ({"spec": {}}, "the spec's fields"),
        (
            {"spec": {**SPEC.to_json(), "observation": {"x": {"shape": [10**12], "dtype": "object"}}}},
            "the spec",
        ),
        ({"spec": {**SPEC.to_json(), "action_low": [1e308, 1e308]}}, "the spec cannot be read"),
    ],
)
def test_forged_document_is_refused(folder: Path, change: dict[str, Any], message: str):
    document = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**document, **change}))
    for file in folder.glob("*.safetensors"):
        file.unlink()
    reseal(folder)
    with pytest.raises(OtprError) as caught:
        list(read_experience(folder))
    assert message in str(caught.value)


def test_spec_that_disagrees_with_the_arrays_is_refused(folder: Path):
    """The document is of another data set, sealed as it should be."""
    episodes = folder / "episodes-000000.safetensors"
    other = folder.parent / "other"
    written(other, [[episode(1, spec=FLAT)]], FLAT)
    first = read_metadata(other / "episodes-000000.safetensors")["before"]
    forge(episodes, read_arrays(episodes), before=first)
    shutil.copy(episodes, other)
    with pytest.raises(
        DamagedFile,
        match=r"episodes-000000\.safetensors is damaged \(by the spec, 'looked' should not be there",
    ):
        list(read_experience(other))
