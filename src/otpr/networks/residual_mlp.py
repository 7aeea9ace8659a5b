"""The MLP of DPPO's diffusion policies: embeddings of noise level and state, and optional residual blocks.

Source: the networks of Ren et al., "Diffusion policy policy optimization", 2024, whose weights
`with_torch_weights` takes; the residual blocks, pre-activation, are of Florence et al., "Implicit behavioral
cloning", 2021.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from otpr.errors import OtprError, unknown_name
from otpr.networks.noise import NoiseNetwork
from otpr.networks.torch_weights import with_torch_weights
from otpr.networks.unet import step_embedding

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"mish": jax.nn.mish, "relu": jax.nn.relu}
"""Activations by their names in policy files."""


class EmbeddingMLP(NoiseNetwork):
    """An MLP of a flattened plan, the embedded noise level and the state or an MLP's features of it.

    Args:
        state_dim: length of the state.
        plan_shape: (horizon, action_dim).
        widths: widths of the hidden layers. A residual network has an odd number of equal ones: one, then two
            for each block.
        state_widths: widths of the state's MLP, the output last; empty: the state itself is used.
        step_dim: length of the embedding of the noise level.
        residual: whether the hidden layers after the first are residual blocks.
        layer_norm: whether to use layer normalisation: in blocks before each activation, otherwise after each
            layer.
        activation: a name in `ACTIVATIONS`.
        key: draws the weights.

    Raises:
        OtprError: there is no such activation, or the sizes are invalid.
    """

    step_layers: tuple[eqx.nn.Linear, eqx.nn.Linear]
    state_layers: tuple[eqx.nn.Linear, ...]
    layers: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    shape: tuple[int, int] = eqx.field(static=True)
    residual: bool = eqx.field(static=True)
    activation: str = eqx.field(static=True)

    kind: ClassVar[str] = "embedding-mlp"

    def __init__(
        self,
        state_dim: int,
        plan_shape: tuple[int, int],
        *,
        widths: Sequence[int],
        state_widths: Sequence[int] = (),
        step_dim: int = 16,
        residual: bool = True,
        layer_norm: bool = False,
        activation: str = "mish",
        key: PRNGKeyArray,
    ):
        _check_sizes(widths, step_dim, residual)
        if activation not in ACTIVATIONS:
            raise unknown_name("activation", activation, ACTIVATIONS)
        self.shape, self.residual, self.activation = plan_shape, residual, activation
        size = plan_shape[0] * plan_shape[1]
        keys = iter(jax.random.split(key, 3 + len(widths) + len(state_widths)))

        def chain(sizes: Sequence[int]) -> tuple[eqx.nn.Linear, ...]:
            pairs = itertools.pairwise(sizes)
            return tuple(eqx.nn.Linear(*pair, key=next(keys)) for pair in pairs)

        first, second = chain((step_dim, 2 * step_dim, step_dim))
        self.step_layers = (first, second)
        self.state_layers = chain((state_dim, *state_widths))
        seen = state_widths[-1] if state_widths else state_dim
        self.layers = chain((size + step_dim + seen, *widths, size))
        # a residual network has none for the first layer
        normed = (widths[1:] if residual else widths) if layer_norm else ()
        self.norms = tuple(eqx.nn.LayerNorm(width, eps=1e-6 if residual else 1e-5) for width in normed)

    @property
    def plan_shape(self) -> tuple[int, int]:
        """See `NoiseNetwork.plan_shape`."""
        return self.shape

    def about(self) -> dict[str, Any]:
        """See `NoiseNetwork.about`."""
        return {
            "kind": self.kind,
            "widths": [layer.out_features for layer in self.layers[:-1]],
            "state_widths": [layer.out_features for layer in self.state_layers],
            "step_dim": self.step_layers[0].in_features,
            "residual": self.residual,
            "layer_norm": bool(self.norms),
            "activation": self.activation,
        }

    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        """See `NoiseNetwork.many`; the part shared by all plans is computed once."""
        act = ACTIVATIONS[self.activation]
        one, two = self.step_layers
        step = two(jax.nn.mish(one(step_embedding(k, cast(int, one.in_features)))))
        for i, layer in enumerate(self.state_layers):
            state = layer(act(state) if i else state)
        flat, first = plans.reshape(len(plans), -1), self.layers[0]
        size = flat.shape[1]
        shared = first.weight[:, size:] @ jnp.concatenate([step, state]) + cast(Array, first.bias)
        x = shared + (first.weight[:, :size] @ flat.T).T
        x = self._blocks(x, act) if self.residual else self._chain(x, act)
        return _rows(self.layers[-1], x).reshape(-1, *self.shape)

    def _chain(self, x: Float[Array, "n w"], act: Callable[[Array], Array]) -> Float[Array, "n v"]:
        """The hidden layers after the first, as a chain."""
        for i in range(len(self.layers) - 1):
            x = _rows(self.layers[i], x) if i else x
            x = act(jax.vmap(self.norms[i])(x) if self.norms else x)
        return x

    def _blocks(self, x: Float[Array, "n w"], act: Callable[[Array], Array]) -> Float[Array, "n w"]:
        """The hidden layers after the first, as residual blocks of two layers."""
        for i in range(1, len(self.layers) - 1, 2):
            y = x
            for j in (i, i + 1):
                y = jax.vmap(self.norms[j - 1])(y) if self.norms else y
                y = _rows(self.layers[j], act(y))
            x = x + y
        return x

    # -------------------------------------------------------------------------------------- PyTorch's weights

    def torch_modules(self) -> dict[str, Any]:
        """The modules by their names in the state dict of DPPO's `DiffusionMLP`."""
        return dict(_torch_modules(self))

    def with_torch_weights(self, arrays: Mapping[str, NDArray[Any]]) -> EmbeddingMLP:
        """The network with weights of DPPO's `DiffusionMLP`. Its own arrays may be `jax.ShapeDtypeStruct`.

        Raises:
            OtprError: an array is missing, superfluous, or has another shape.
        """
        return with_torch_weights(self, EmbeddingMLP.torch_modules, arrays, "such an MLP")


def _rows(layer: eqx.nn.Linear, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
    """Apply a layer to each row, with the weights as the left factor as in `mlp.PlanMLP.many`."""
    return (layer.weight @ x.T).T + cast(Array, layer.bias)


def _torch_modules(network: EmbeddingMLP) -> Iterator[tuple[str, Any]]:
    """The layers with weights by their names in DPPO."""
    yield "time_embedding.1", network.step_layers[0]
    yield "time_embedding.3", network.step_layers[1]
    for i, layer in enumerate(network.state_layers):
        yield f"cond_mlp.moduleList.{i}.linear_1", layer
    if not network.residual:
        for i, layer in enumerate(network.layers):
            yield f"mlp_mean.moduleList.{i}.linear_1", layer
        for i, norm in enumerate(network.norms):
            yield f"mlp_mean.moduleList.{i}.norm_1", norm
        return
    yield "mlp_mean.layers.0", network.layers[0]
    for i, layer in enumerate(network.layers[1:-1]):
        yield f"mlp_mean.layers.{i // 2 + 1}.l{i % 2 + 1}", layer
    for i, norm in enumerate(network.norms):
        yield f"mlp_mean.layers.{i // 2 + 1}.norm{i % 2 + 1}", norm
    yield f"mlp_mean.layers.{len(network.layers) // 2}", network.layers[-1]


def _check_sizes(widths: Sequence[int], step_dim: int, residual: bool) -> None:
    """Check the sizes of the network."""
    if not widths:
        raise OtprError("widths must have at least one number; given none.")
    if residual and (len(widths) % 2 == 0 or len(set(widths)) > 1):
        raise OtprError(
            "widths of a residual network are equal, and an odd number: one layer, then two for each block; "
            f"given {', '.join(map(str, widths))}."
        )
    if step_dim % 2 or step_dim < 4:
        raise OtprError(f"step_dim must be an even number of at least 4, given {step_dim}.")
