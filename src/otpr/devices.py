"""Data-parallel training on several devices: the device mesh, and how pytrees are sharded over it.

Rows and batches are divided among the devices; everything else is replicated. The episode store holds the
mesh (`EpisodeStore.mesh`), where compiled code finds it. A mesh of None stands for one device, and every
function here then returns its arguments unchanged.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from otpr.errors import OtprError

AXIS = "devices"
"""Name of the mesh's only axis."""

Tree = TypeVar("Tree")


def mesh_of(count: int) -> Mesh | None:
    """The first `count` devices as a mesh; None for one."""
    return None if count == 1 else Mesh(np.asarray(jax.devices()[:count]), (AXIS,))


def check_devices(count: int, algorithm: str, batch_parts: Sequence[int]) -> None:
    """Check that the machine has so many devices and that an algorithm's batches divide evenly among them.

    Args:
        count: the number of devices to train on.
        algorithm: the algorithm's name, for errors.
        batch_parts: transitions in each part of its batches; empty for an algorithm that draws no batches.

    Raises:
        OtprError: the number does not fit. The message says what is available and what to change.
    """
    if count == 1:
        return
    if count < 1:
        raise OtprError(f"--devices must be at least 1, given {count}.")
    if not batch_parts:
        raise OtprError(
            f"--devices {count} divides batches drawn from the replay, and {algorithm} draws none. Leave it "
            "out."
        )
    there = jax.devices()
    if count > len(there):
        raise OtprError(
            f"--devices {count}: JAX sees {len(there)} of kind {there[0].device_kind!r} here. Give at most "
            f"{len(there)}. (For a trial on processors: "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count})"
        )
    if any(part % count for part in batch_parts):
        parts = " and ".join(map(str, batch_parts))
        raise OtprError(
            f"--devices {count} divides each batch evenly. Those of {algorithm} have {parts} transitions; "
            f"expected multiples of {count}. Change --batch-size (or --demonstration-share), or take another "
            "number of devices."
        )


def shards(mesh: Mesh | None) -> int:
    """The number of pieces that rows are divided into."""
    return 1 if mesh is None else mesh.size


def row_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding that puts equal pieces of the rows on the devices, in order; None for one device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(AXIS))


def by_rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """Divide the rows of each array among the devices and replicate scalars. Works in compiled code."""
    return _placed(tree, mesh, lambda leaf: PartitionSpec(AXIS) if leaf.ndim else PartitionSpec())


def on_each(tree: Tree, mesh: Mesh | None) -> Tree:
    """Replicate every array on each device. Works in compiled code."""
    return _placed(tree, mesh, lambda leaf: PartitionSpec())


def divided(batch: Tree, mesh: Mesh | None) -> Tree:
    """Divide each array of a batch among the devices. Works in compiled code.

    The compiler places what does not divide evenly, such as a scalar.
    """

    def spec(leaf: Array) -> PartitionSpec | None:
        even = leaf.ndim and leaf.shape[0] % shards(mesh) == 0
        return PartitionSpec(AXIS) if even else None

    return _placed(batch, mesh, spec)


def _placed(tree: Tree, mesh: Mesh | None, spec: Callable[[Array], PartitionSpec | None]) -> Tree:
    if mesh is None:
        return tree

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or (wanted := spec(leaf)) is None:
            return leaf
        sharding = NamedSharding(mesh, wanted)
        if isinstance(leaf, Tracer):
            return jax.lax.with_sharding_constraint(leaf, sharding)
        return jax.device_put(leaf, sharding)

    return jax.tree.map(place, tree)


def on_first(tree: Tree) -> Tree:
    """Keep replicated arrays on the first device only, which is enough for acting."""

    def first(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            return leaf.addressable_shards[0].data
        return leaf

    return jax.tree.map(first, tree)


def written(column: Array, rows: Array, at: Array, mesh: Mesh | None) -> Array:
    """A column with `rows` written from row `at` on. Each device writes its own part of a divided column."""
    if mesh is None:
        return jax.lax.dynamic_update_slice_in_dim(column, rows, at, axis=0)
    # a written slice may cross device boundaries, and XLA would gather the whole column for that
    numbers = at + jnp.arange(rows.shape[0])
    return by_rows(column.at[numbers].set(rows, mode="drop", unique_indices=True), mesh)


def running_count(chosen: Array, mesh: Mesh | None) -> Array:
    """The running count of chosen rows, each row included in its own count: (rows,) of int32."""
    # each device counts its own part of a divided column and adds the counts of the devices before it
    own = jnp.cumsum(by_rows(chosen.reshape(shards(mesh), -1), mesh), axis=1, dtype=jnp.int32)
    before = jnp.cumsum(own[:, -1]) - own[:, -1]
    return by_rows((own + before[:, None]).reshape(-1), mesh)


def mapped(f: Callable[[Any], Any], inputs: Any, mesh: Mesh | None) -> Any:
    """`jax.lax.map(f, inputs)` with the inputs divided among the devices; the results are replicated.

    Args:
        f: takes one input. Arrays that it closes over must be replicated on each device.
        inputs: arrays with the inputs along the first axis, all of equal length.
        mesh: the devices.
    """
    if mesh is None:
        return jax.lax.map(f, inputs)
    count = jax.tree.leaves(inputs)[0].shape[0]

    def filled(array: Array) -> Array:
        return jnp.concatenate([array, jnp.repeat(array[-1:], -count % mesh.size, axis=0)])

    def share(inputs: Any) -> Any:
        return jax.lax.map(f, inputs)

    spec = PartitionSpec(AXIS)
    everywhere = jax.shard_map(share, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    results = everywhere(jax.tree.map(filled, inputs))
    return on_each(jax.tree.map(operator.itemgetter(slice(count)), results), mesh)
