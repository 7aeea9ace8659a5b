from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.training import checkpoints
from otpr.trees import to_bytes
from tiny import reseal


def make_tree(seed: int) -> dict[str, Any]:
    key = jax.random.key(seed)
    rng = np.random.default_rng(seed)
    return {
        "network": eqx.nn.MLP(3, 2, 8, 2, key=key),
        "key": key,
        "keys": jax.random.split(key, (2, 3)),
        "other generator": jax.random.key(seed, impl="rbg"),
        "old key": jax.random.PRNGKey(seed),
        "step": jnp.asarray(seed, jnp.int32),
        "done": jnp.asarray([True, False]),
        "half": jnp.asarray([1.0, 1 / 3], jnp.bfloat16),
        "odd": jnp.asarray([np.nan, -0.0, np.inf, 1e-45], jnp.float32),
        "replay": {
            "numpy/float64": rng.normal(size=3),
            "uint32": rng.integers(2**32, size=4, dtype=np.uint32),
        },
        "scalar": np.int64(2**40 + seed),
        "empty": np.zeros((0, 5), np.float32),
        "rate": 0.5,
    }


def bits(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(leaf.dtype), leaf.shape, np.asarray(jax.random.key_data(leaf)).tobytes())
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        kind = jax.Array if isinstance(leaf, jax.Array) else type(leaf)
        return (kind, str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
    return (leaf,)


def assert_identical(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, leaf), twin in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        assert bits(leaf) == bits(twin), path


def test_round_trip_is_exact_to_the_bit(tmp_path: Path):
    saved = make_tree(0)
    state = {"env_steps": 10, "rates": [0.1, 1 / 3], "nested": {"none": None}}
    checkpoints.save(tmp_path / "new", 7, saved, state)
    loaded, loaded_state = checkpoints.load(tmp_path / "new", 7, {**make_tree(0), **make_other_values()})
    assert_identical(loaded, saved)
    assert loaded_state == state


def make_other_values() -> dict[str, Any]:
    """What `make_tree(1)` differs in, less the network, whose functions must be the same objects."""
    other = make_tree(1)
    return {name: leaf for name, leaf in other.items() if name != "network"}


def test_random_numbers_go_on_where_they_were(tmp_path: Path):
    key = jax.random.key(3)
    checkpoints.save(tmp_path, 0, {"key": key}, {})
    loaded, _ = checkpoints.load(tmp_path, 0, {"key": jax.random.key(0)})
    np.testing.assert_array_equal(jax.random.normal(loaded["key"], 5), jax.random.normal(key, 5))


def test_shapes_alone_are_enough_to_load_into(tmp_path: Path):
    def make() -> dict[str, Any]:
        key = jax.random.key(0)
        return {
            "network": eqx.nn.MLP(3, 2, 8, 2, key=key),
            "keys": jax.random.split(key, 3),
            "none": jnp.zeros(0),
        }

    checkpoints.save(tmp_path, 1, make(), {})
    loaded, _ = checkpoints.load(tmp_path, 1, eqx.filter_eval_shape(make))
    for leaf, twin in zip(jax.tree.leaves(loaded), jax.tree.leaves(make()), strict=True):
        assert callable(leaf) or bits(leaf) == bits(twin)


def test_only_the_last_two_are_kept(tmp_path: Path):
    for step in (10, 20, 30):
        checkpoints.save(tmp_path, step, {"x": jnp.full(2, step)}, {"step": step})
    assert checkpoints.latest(tmp_path) == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == ["20", "30"]
    loaded, state = checkpoints.load(tmp_path, 20, {"x": jnp.zeros(2, int)})
    assert loaded["x"].tolist() == [20, 20]
    assert state == {"step": 20}


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    checkpoints.save(tmp_path, 5, {"x": jnp.zeros(2)}, {"note": "first"})
    checkpoints.save(tmp_path, 5, {"x": jnp.ones(2)}, {"note": "second"})
    loaded, state = checkpoints.load(tmp_path, 5, {"x": jnp.zeros(2)})
    assert loaded["x"].tolist() == [1.0, 1.0]
    assert state == {"note": "second"}


def test_latest_of_nothing_is_none(tmp_path: Path):
    assert checkpoints.latest(tmp_path / "missing") is None
    assert checkpoints.latest(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("like", "line"),
    [
        ({"a": jnp.zeros((3, 2)), "n": 1}, "['a']: stored float32[2, 3], expected float32[3, 2]"),
        ({"a": jnp.zeros((2, 4)), "n": 1}, "['a']: stored float32[2, 3], expected float32[2, 4]"),
        ({"a": jnp.zeros((2, 3), int), "n": 1}, "['a']: stored float32[2, 3], expected int32[2, 3]"),
        ({"b": jnp.zeros((2, 3)), "n": 1}, "['b']: stored nothing, expected float32[2, 3]"),
        ({"n": 1}, "['a']: stored float32[2, 3], expected nothing"),
        ({"a": jnp.zeros((2, 3)), "n": 2}, "['n']: stored the constant 1, expected the constant 2"),
        ({"a": jax.random.key(0), "n": 1}, "['a']: stored float32[2, 3], expected key<fry>[]"),
    ],
)
def test_tree_that_does_not_fit_is_refused_by_name(tmp_path: Path, like: Any, line: str):
    checkpoints.save(tmp_path, 1, {"a": jnp.ones((2, 3)), "n": 1}, {})
    with pytest.raises(OtprError, match="does not fit") as error:
        checkpoints.load(tmp_path, 1, like)
    assert line in str(error.value)


def test_other_generator_of_random_numbers_is_refused(tmp_path: Path):
    checkpoints.save(tmp_path, 1, {"key": jax.random.key(0)}, {})
    with pytest.raises(OtprError, match=r"stored key<fry>\[\], expected key<rbg>\[\]"):
        checkpoints.load(tmp_path, 1, {"key": jax.random.key(0, impl="rbg")})


def test_missing_step_is_an_error_that_says_which_there_is(tmp_path: Path):
    with pytest.raises(OtprError, match=r"No checkpoint of step 1 in .* There is none in it"):
        checkpoints.load(tmp_path, 1, {"x": jnp.zeros(2)})
    checkpoints.save(tmp_path, 4, {"x": jnp.zeros(2)}, {})
    with pytest.raises(OtprError, match=r"No checkpoint of step 1 in .* The latest is of step 4\."):
        checkpoints.load(tmp_path, 1, {"x": jnp.zeros(2)})


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A folder with two checkpoints."""
    for step in (1, 2):
        checkpoints.save(tmp_path, step, {"x": jnp.full(50, step, float), "n": 3}, {"step": step})
    return tmp_path


LIKE = {"x": jnp.zeros(50), "n": 3}


def refusal(folder: Path, step: int = 2) -> str:
    with pytest.raises(OtprError) as caught:
        checkpoints.load(folder, step, LIKE)
    return str(caught.value)


@pytest.mark.parametrize("name", ["arrays.safetensors", "checkpoint.json", "SHA256SUMS"])
def test_damage_anywhere_is_seen_and_the_checkpoint_before_it_is_offered(two: Path, name: str):
    file = two / "2" / name
    whole = file.read_bytes()
    spots = {0, 1, 9, len(whole) // 3, len(whole) // 2, len(whole) - 70, len(whole) - 2, len(whole) - 1}
    flipped = [whole[:spot] + bytes([whole[spot] ^ 1]) + whole[spot + 1 :] for spot in sorted(spots)]
    cut = [whole[:length] for length in sorted(spots)]
    for content in [*flipped, *cut, whole + b"\n", b"", bytes(len(whole))]:
        file.write_bytes(content)
        message = refusal(two)
        assert message.startswith(f"{two / '2'}/") and " is damaged (" in message
        if name != "SHA256SUMS":  # there a changed name is first missed as a file
            assert message.startswith(f"{two / '2' / name} is damaged (")
        assert "The checkpoint of step 1 before it is whole. To go on from there, delete" in message
        assert f"the folder {two / '2'} and resume." in message
    file.write_bytes(whole)
    assert checkpoints.load(two, 2, LIKE)[1] == {"step": 2}


def test_after_the_damaged_one_is_deleted_the_one_before_it_is_the_latest(two: Path):
    (two / "2" / "arrays.safetensors").unlink()
    assert "FileNotFoundError" in refusal(two)
    shutil.rmtree(two / "2")
    assert checkpoints.latest(two) == 1
    loaded, state = checkpoints.load(two, 1, LIKE)
    assert loaded["x"].tolist() == [1.0] * 50
    assert state == {"step": 1}


def test_where_all_are_damaged_none_is_offered(two: Path):
    for step in (1, 2):
        (two / str(step) / "arrays.safetensors").write_bytes(b"")
    assert "There is no whole checkpoint before it" in refusal(two)


def test_checkpoint_is_one_that_sha256sum_finds_whole(two: Path):
    lines = (two / "2" / "SHA256SUMS").read_text().splitlines()
    sums = {name: hashlib.sha256((two / "2" / name).read_bytes()).hexdigest() for name in checkpoints.FILES}
    assert sorted(lines) == sorted(f"{digest}  {name}" for name, digest in sums.items())


def test_what_a_killed_process_left_behind_does_not_count_and_goes_with_the_next_save(two: Path):
    (two / ".3.abcdef" / "new").mkdir(parents=True)
    (two / "2").rename(two / "2.replaced")  # killed in the instant of replacing it
    assert checkpoints.latest(two) == 2
    assert checkpoints.load(two, 2, LIKE)[1] == {"step": 2}
    checkpoints.save(two, 2, LIKE, {"step": "2 again"})
    assert sorted(path.name for path in two.iterdir()) == ["1", "2"]
    assert checkpoints.load(two, 2, LIKE)[1] == {"step": "2 again"}


def test_folder_of_a_run_that_is_gone_is_not_made_again(tmp_path: Path):
    with pytest.raises(OtprError, match=r"run/checkpoints cannot be written \(No such file or directory\)"):
        checkpoints.save(tmp_path / "run" / "checkpoints", 1, LIKE, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[]", "does not say of which format it is"),
        ("7", "does not say of which format it is"),
        ("{}", "does not say of which format it is"),
        ('{"format": "3"}', "does not say of which format it is"),
        ('{"format": true}', "does not say of which format it is"),
        ('{"format": 3, "state": [], "leaves": {}}', "state and leaves should be objects"),
        ('{"format": 3, "state": {}, "leaves": 3}', "state and leaves should be objects"),
        ('{"format": 3, "state": {}, "leaves": {}}', "does not fit the agent"),
        ('{"format": 3, "state": {}, "leaves": {"x": [[1]]}}', "does not fit the agent"),
        ('{"format": 99}', "is of format 99; this otpr reads format 3. Resume with the otpr that"),
        ("[" * 100_000, "RecursionError"),
        ('{"format": ' + "9" * 10_000 + "}", "Exceeds the limit"),
        ('{"format": 3, "state": {"rate": NaN}}', "NaN is no JSON"),
        ('{"format": 3, "state": {"rate": 1e999}}', "too large"),
    ],
)
def test_forged_document_is_refused(two: Path, document: str, message: str):
    (two / "2" / "checkpoint.json").write_text(document)
    reseal(two / "2")
    assert message in refusal(two)


def test_forged_arrays_are_refused(two: Path):
    file = two / "2" / "arrays.safetensors"
    for arrays, reason in (
        ({}, "there is no \"['x']\""),
        ({"['x']": np.zeros(49, np.float32)}, "['x'] is float32[49], expected float32[50]"),
        ({"['x']": np.zeros(50)}, "['x'] is float64[50], expected float32[50]"),
        ({"../x": np.zeros(50)}, "there is '../x', which is not expected"),
    ):
        file.write_bytes(to_bytes(arrays))
        reseal(two / "2")
        assert f"{file} is damaged (it does not fit checkpoint.json: {reason})" in refusal(two)


def test_seal_of_other_files_is_refused(two: Path):
    (two / "2" / "more").write_text("x")
    reseal(two / "2")
    assert "SHA256SUMS is damaged (expected the sums of arrays.safetensors and checkpoint.json)" in refusal(
        two
    )
    (two / "2" / "SHA256SUMS").write_text("0" * 64 + "  ../../secret\n")
    assert "SHA256SUMS is damaged (it is no list" in refusal(two)


# ------------------------------------------------------- formats: see tests/fixtures/README.md

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture_tree(number: int = 5) -> dict[str, Any]:
    """What the stored checkpoints hold; with another number, a tree of the same form."""
    return {
        "weights": jnp.arange(6, dtype=jnp.float32).reshape(2, 3) / (number + 2),
        "half": jnp.asarray([1.0, 1 / (number - 2)], jnp.bfloat16),
        "key": jax.random.key(number),
        "count": np.int64(2 ** (8 * number)),
        "empty": np.zeros((0, 5), np.float32),
        "rate": 0.5,
    }


def test_checkpoint_of_this_format_stored_earlier_loads():
    loaded, state = checkpoints.load(FIXTURES / "checkpoint-3", 7, fixture_tree(7))
    assert_identical(loaded, fixture_tree())
    assert state == {"env_steps": 10, "recent": [True, False]}


def test_checkpoint_of_format_1_says_what_is_needed():
    assert checkpoints.latest(FIXTURES / "checkpoint-1") == 7
    with pytest.raises(OtprError, match=r"is of format 1, .* Finish the run with the commit"):
        checkpoints.load(FIXTURES / "checkpoint-1", 7, fixture_tree(7))


def test_checkpoint_of_format_2_says_what_is_needed():
    with pytest.raises(OtprError, match=r"is of format 2; .* Resume with the otpr that the run's"):
        checkpoints.load(FIXTURES / "checkpoint-2", 7, fixture_tree(7))


def test_tree_without_arrays_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one array"):
        checkpoints.save(tmp_path / "new", 1, {"n": 3, "none": np.zeros(0)}, {})
    assert list(tmp_path.iterdir()) == []
