"""Conversion of weights from and to PyTorch: names, and the order of a kernel's axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.networks.line import LineTransposedConvolution

Network = TypeVar("Network")

Modules = Mapping[str, Any]
"""Modules with a weight or a kernel, and a bias or None, by PyTorch's names."""


def with_torch_weights(
    network: Network,
    modules_of: Callable[[Network], Modules],
    arrays: Mapping[str, NDArray[Any]],
    what: str,
) -> Network:
    """A network with PyTorch's weights. Its own arrays may be `jax.ShapeDtypeStruct`.

    Args:
        network: a network of the weights' architecture.
        modules_of: gives the network's modules.
        arrays: a state dict.
        what: a description for errors, e.g. "a U-Net".

    Raises:
        OtprError: an array is missing, superfluous, or has another shape.
    """
    due = torch_leaves(modules_of(network))
    if odd := sorted(arrays.keys() ^ due.keys()):
        state = "missing" if odd[0] in due else "not expected"
        raise OtprError(f"These are no weights of {what}: {odd[0]} is {state}.")
    leaves, structure = jax.tree.flatten(network)
    places = torch_leaves(modules_of(jax.tree.unflatten(structure, range(len(leaves)))))
    axes = _axes(modules_of(network))
    for name, leaf in due.items():
        array = np.asarray(arrays[name], np.float32)
        expected = tuple(np.empty(leaf.shape, np.bool_).transpose(np.argsort(axes[name])).shape)
        if array.shape != expected:
            raise OtprError(f"The weights {name} have the shape {array.shape}, expected {expected}.")
        leaves[places[name]] = jnp.asarray(array.transpose(axes[name]))
    return jax.tree.unflatten(structure, leaves)


def torch_weights(modules: Modules) -> dict[str, NDArray[np.float32]]:
    """The state dict that `with_torch_weights` takes."""
    axes = _axes(modules)
    return {
        name: np.ascontiguousarray(np.asarray(leaf, np.float32).transpose(np.argsort(axes[name])))
        for name, leaf in torch_leaves(modules).items()
    }


def torch_leaves(modules: Modules) -> dict[str, Any]:
    """The network's arrays, or their `jax.ShapeDtypeStruct`, by names of the state dict."""
    leaves: dict[str, Any] = {}
    for name, module in modules.items():
        leaves[f"{name}.weight"] = module.kernel if hasattr(module, "kernel") else module.weight
        more = ("bias", "running_mean", "running_var")
        leaves |= {f"{name}.{part}": x for part in more if (x := getattr(module, part, None)) is not None}
    return leaves


def _axes(modules: Modules) -> dict[str, tuple[int, ...]]:
    """The permutation of axes from PyTorch for each array; kernels here have channels last."""
    axes: dict[str, tuple[int, ...]] = {}
    for name, leaf in torch_leaves(modules).items():
        order = tuple(range(leaf.ndim))
        if leaf.ndim > 2:  # PyTorch: (out, in, *window); transposed convolutions: (in, out, *window)
            turned = isinstance(modules[name.rpartition(".")[0]], LineTransposedConvolution)
            order = (*order[2:], *((0, 1) if turned else (1, 0)))
        axes[name] = order
    return axes
