from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.training import checkpoints


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
    checkpoints.save(tmp_path / "new" / "folder", 7, saved, state)
    loaded, loaded_state = checkpoints.load(
        tmp_path / "new" / "folder", 7, {**make_tree(0), **make_other_values()}
    )
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


def test_checkpoint_that_a_killed_process_left_half_written_does_not_count(tmp_path: Path):
    checkpoints.save(tmp_path, 1, {"x": jnp.ones(2)}, {})
    killed = """
import os, sys
import numpy as np
import orbax.checkpoint as ocp
from otpr.training import checkpoints
async def kill(*args, **kwargs): os._exit(9)
ocp.JsonCheckpointHandler.async_save = kill
checkpoints.save(sys.argv[1], 2, {"x": np.zeros(2)}, {})
"""
    assert subprocess.run([sys.executable, "-c", killed, str(tmp_path)]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2
    assert checkpoints.latest(tmp_path) == 1
    checkpoints.save(tmp_path, 3, {"x": jnp.zeros(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


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
        checkpoints.load_state(tmp_path, 1)


def test_damaged_checkpoint_is_an_error_and_the_one_before_it_still_loads(tmp_path: Path):
    for step in (1, 2):
        checkpoints.save(tmp_path, step, {"x": jnp.full(50, step, float)}, {})
    damaged = [file for file in (tmp_path / "2" / "arrays").rglob("d/*") if file.is_file()]
    assert damaged
    for file in damaged:
        file.write_bytes(file.read_bytes()[:1])
    with pytest.raises(OtprError, match=r"step 2 .* cannot be read .* Delete the folder"):
        checkpoints.load(tmp_path, 2, {"x": jnp.zeros(50)})
    loaded, _ = checkpoints.load(tmp_path, 1, {"x": jnp.zeros(50)})
    assert loaded["x"].tolist() == [1.0] * 50


def test_state_can_be_read_alone(tmp_path: Path):
    checkpoints.save(tmp_path, 1, {"x": jnp.ones(2)}, {"observation_dim": 39, "pair": (1, 2)})
    assert checkpoints.load_state(tmp_path, 1) == {"observation_dim": 39, "pair": [1, 2]}


def test_tree_without_arrays_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one array"):
        checkpoints.save(tmp_path / "new", 1, {"n": 3, "none": np.zeros(0)}, {})
    assert list(tmp_path.iterdir()) == []
