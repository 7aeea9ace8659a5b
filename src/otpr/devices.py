"""Several devices that learn as one: a mesh of them, and what of a tree each of them holds.

Rows and batches are divided among the devices, and everything else is on each of them. The mesh is kept in
what is divided, the episode store (`EpisodeStore.mesh`), where compiled code finds it. None is one device,
and everything here leaves its arguments as they are then.
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
    """Refuse a number of devices that there are not, or that an algorithm's batches do not divide by.

    Args:
        count: how many devices are to learn.
        algorithm: its name.
        batch_parts: how many transitions each part of its batches has; none where it draws no batches.

    Raises:
        OtprError: says what there is, and what to change.
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
    """Into how many pieces rows are divided."""
    return 1 if mesh is None else mesh.size


def row_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Rows in equal pieces, one on each device, in order; None where there is one device."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(AXIS))


def by_rows(tree: Tree, mesh: Mesh | None) -> Tree:
    """With the rows of each array divided among the devices, and scalars on each. Works in compiled code."""
    return _placed(tree, mesh, lambda leaf: PartitionSpec(AXIS) if leaf.ndim else PartitionSpec())


def on_each(tree: Tree, mesh: Mesh | None) -> Tree:
    """With every array whole on each device. Works in compiled code."""
    return _placed(tree, mesh, lambda leaf: PartitionSpec())


def divided(batch: Tree, mesh: Mesh | None) -> Tree:
    """With each array of a batch divided among the devices. Works in compiled code.

    What does not divide evenly, such as a scalar, is left to the compiler.
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
    """With arrays that are whole on several devices on the first alone: what acts needs no more."""

    def first(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            return leaf.addressable_shards[0].data
        return leaf

    return jax.tree.map(first, tree)


def written(column: Array, rows: Array, at: Array, mesh: Mesh | None) -> Array:
    """A column with some rows written from row `at` on. Of a divided one each device writes its own."""
    if mesh is None:
        return jax.lax.dynamic_update_slice_in_dim(column, rows, at, axis=0)
    # a slice that is written may cross from one device to the next, for which XLA would gather the column
    numbers = at + jnp.arange(rows.shape[0])
    return by_rows(column.at[numbers].set(rows, mode="drop", unique_indices=True), mesh)


def running_count(chosen: Array, mesh: Mesh | None) -> Array:
    """How many of the rows up to each are chosen, itself included: (rows,) of int32."""
    # of a divided column each device counts its own, and adds what those before it have
    own = jnp.cumsum(by_rows(chosen.reshape(shards(mesh), -1), mesh), axis=1, dtype=jnp.int32)
    before = jnp.cumsum(own[:, -1]) - own[:, -1]
    return by_rows((own + before[:, None]).reshape(-1), mesh)


def mapped(f: Callable[[Any], Any], inputs: Any, mesh: Mesh | None) -> Any:
    """`jax.lax.map(f, inputs)`, of which each device does its share; the results are on each of them.

    Args:
        f: of one input. Arrays that it closes over are taken to be whole on each device.
        inputs: arrays with an equal number of inputs each, along their first axis.
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
