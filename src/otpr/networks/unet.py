"""The 1-D conditional U-Net of diffusion policies: convolutions along a plan, conditioned by FiLM.

Sources: Chi et al., "Diffusion policy: visuomotor policy learning via action diffusion", 2023; FiLM from
Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018. It computes what the U-Nets of
LeRobot, of the authors' diffusion_policy and of DPPO compute, and `with_torch_weights` takes their weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.networks.convolution import GroupNorm
from otpr.networks.line import LineConvolution, LineTransposedConvolution
from otpr.networks.noise import NoiseNetwork
from otpr.networks.torch_weights import with_torch_weights


class NormalizedConvolution(eqx.Module):
    """A length-preserving convolution, group normalisation, and Mish.

    Args:
        channels: (in, out).
        window: number of steps in the window, odd.
        groups: number of normalisation groups; a divisor of the output channels.
        eps: of the normalisation.
        key: draws the weights.
    """

    convolution: LineConvolution
    norm: GroupNorm

    def __init__(self, channels: tuple[int, int], window: int, groups: int, eps: float, *, key: PRNGKeyArray):
        self.convolution = LineConvolution(channels, window, key=key)
        self.norm = GroupNorm(groups, channels[1], eps)

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n t o"]:
        """The output."""
        return jax.nn.mish(self.norm(self.convolution(x)))


class ConditionalBlock(eqx.Module):
    """A residual block of two normalised convolutions with FiLM between them.

    Args:
        channels: (in, out).
        condition_dim: length of the condition.
        window: of the convolutions.
        groups: of the normalisations.
        eps: of the normalisations.
        scale_modulation: whether the condition scales and shifts each channel, or only shifts it.
        deep_condition: whether three layers or one compute the modulation from the condition.
        key: draws the weights.
    """

    first: NormalizedConvolution
    second: NormalizedConvolution
    condition: eqx.nn.Linear
    deeper: tuple[eqx.nn.Linear, ...]
    shortcut: LineConvolution | None
    scale_modulation: bool = eqx.field(static=True)

    def __init__(
        self,
        channels: tuple[int, int],
        condition_dim: int,
        window: int,
        groups: int,
        eps: float,
        scale_modulation: bool,
        deep_condition: bool,
        *,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, 4)
        out = channels[1]
        self.first = NormalizedConvolution(channels, window, groups, eps, key=keys[0])
        self.second = NormalizedConvolution((out, out), window, groups, eps, key=keys[1])
        size = 2 * out if scale_modulation else out
        self.condition = eqx.nn.Linear(condition_dim, size, key=keys[2])
        more = jax.random.split(jax.random.fold_in(keys[2], 1)) if deep_condition else ()
        self.deeper = tuple(eqx.nn.Linear(size, size, key=k) for k in more)
        self.shortcut = None if channels[0] == out else LineConvolution(channels, 1, key=keys[3])
        self.scale_modulation = scale_modulation

    def __call__(self, x: Float[Array, "n t i"], condition: Float[Array, " c"]) -> Float[Array, "n t o"]:
        """The output under one condition, to which Mish has been applied if `deep_condition` is False."""
        y = self.first(x)
        modulation = self.condition(condition)
        for layer in self.deeper:
            modulation = layer(jax.nn.mish(modulation))
        if self.scale_modulation:
            scale, bias = jnp.split(modulation, 2)
            y = scale * y + bias
        else:
            y = y + modulation
        return self.second(y) + (x if self.shortcut is None else self.shortcut(x))


class UNet(NoiseNetwork):
    """The 1-D conditional U-Net. Its defaults are LeRobot's except for smaller dimensions.

    Args:
        state_dim: length of the state.
        plan_shape: (horizon, action_dim).
        down_dims: channels of each level from the full horizon down; each level has half as many steps as the
            previous one.
        kernel_size: window of the convolutions in steps, odd.
        groups: number of normalisation groups, except that the last convolution has 8 as in both libraries.
        step_dim: length of the embedding of the noise level.
        scale_modulation: whether the condition scales channels beside shifting them.
        deep_condition: whether each block has three layers for the condition, as in DPPO, or one.
        norm_eps: added to the variances of the normalisations.
        key: draws the weights.

    Raises:
        OtprError: the horizon cannot be halved once for each level after the first, or a size is invalid.
    """

    step_layers: tuple[eqx.nn.Linear, eqx.nn.Linear]
    down: tuple[tuple[ConditionalBlock, ConditionalBlock, LineConvolution | None], ...]
    middle: tuple[ConditionalBlock, ConditionalBlock]
    up: tuple[tuple[ConditionalBlock, ConditionalBlock, LineTransposedConvolution], ...]
    last: NormalizedConvolution
    out: LineConvolution
    shape: tuple[int, int] = eqx.field(static=True)
    step_dim: int = eqx.field(static=True)

    kind: ClassVar[str] = "unet"

    def __init__(
        self,
        state_dim: int,
        plan_shape: tuple[int, int],
        *,
        down_dims: Sequence[int] = (64, 128, 256),
        kernel_size: int = 5,
        groups: int = 8,
        step_dim: int = 128,
        scale_modulation: bool = True,
        deep_condition: bool = False,
        norm_eps: float = 1e-5,
        key: PRNGKeyArray,
    ):
        _check_sizes(plan_shape[0], down_dims, kernel_size, groups, step_dim)
        keys = iter(jax.random.split(key, 6 * len(down_dims) + 6))
        self.shape, self.step_dim = plan_shape, step_dim
        self.step_layers = (
            eqx.nn.Linear(step_dim, 4 * step_dim, key=next(keys)),
            eqx.nn.Linear(4 * step_dim, step_dim, key=next(keys)),
        )

        def block(before: int, after: int) -> ConditionalBlock:
            sizes = (step_dim + state_dim, kernel_size, groups, norm_eps, scale_modulation, deep_condition)
            return ConditionalBlock((before, after), *sizes, key=next(keys))

        levels = list(zip((plan_shape[1], *down_dims[:-1]), down_dims, strict=True))
        self.down = tuple(
            (
                block(before, after),
                block(after, after),
                None
                if i == len(levels) - 1
                else LineConvolution((after, after), 3, stride=2, key=next(keys)),
            )
            for i, (before, after) in enumerate(levels)
        )
        self.middle = (block(down_dims[-1], down_dims[-1]), block(down_dims[-1], down_dims[-1]))
        self.up = tuple(
            (
                block(2 * after, before),
                block(before, before),
                LineTransposedConvolution((before, before), 4, stride=2, padding=1, key=next(keys)),
            )
            for before, after in reversed(levels[1:])
        )
        first = down_dims[0]
        self.last = NormalizedConvolution((first, first), kernel_size, LAST_GROUPS, norm_eps, key=next(keys))
        self.out = LineConvolution((first, plan_shape[1]), 1, key=next(keys))

    @property
    def plan_shape(self) -> tuple[int, int]:
        """See `NoiseNetwork.plan_shape`."""
        return self.shape

    def about(self) -> dict[str, Any]:
        """See `NoiseNetwork.about`."""
        first = self.middle[0]
        return {
            "kind": self.kind,
            "down_dims": [block.second.convolution.kernel.shape[-1] for block, _, _ in self.down],
            "kernel_size": first.first.convolution.kernel.shape[0],
            "groups": first.first.norm.groups,
            "step_dim": self.step_dim,
            "scale_modulation": first.scale_modulation,
            "deep_condition": bool(first.deeper),
            "norm_eps": first.first.norm.eps,
        }

    def many(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], k: Int[Array, ""]
    ) -> Float[Array, "n h a"]:
        """See `NoiseNetwork.many`."""
        first, second = self.step_layers
        step = second(jax.nn.mish(first(step_embedding(k, self.step_dim))))
        condition = jnp.concatenate([step, state])
        if not self.middle[0].deeper:
            condition = jax.nn.mish(condition)  # computed once for all blocks
        x, skipped = plans, list[Array]()
        for one, two, shorten in self.down:
            x = two(one(x, condition), condition)
            skipped.append(x)
            x = x if shorten is None else shorten(x)
        for block in self.middle:
            x = block(x, condition)
        for one, two, lengthen in self.up:
            x = jnp.concatenate([x, skipped.pop()], axis=-1)
            x = lengthen(two(one(x, condition), condition))
        return self.out(self.last(x))

    # -------------------------------------------------------------------------------------- PyTorch's weights

    def torch_modules(self) -> dict[str, Any]:
        """The modules by their names in the state dict of LeRobot's U-Net."""
        return dict(_torch_modules(self))

    def with_torch_weights(self, arrays: Mapping[str, NDArray[Any]]) -> UNet:
        """The network with weights of LeRobot's U-Net. Its own arrays may be `jax.ShapeDtypeStruct`.

        Args:
            arrays: the state dict. The condition is the embedded noise level, then the state.

        Raises:
            OtprError: an array is missing, superfluous, or has another shape.
        """
        return with_torch_weights(self, UNet.torch_modules, arrays, "such a U-Net")


LAST_GROUPS = 8
"""Number of groups of the normalisation before the output, independent of the blocks."""


def step_embedding(k: Int[Array, ""], width: int) -> Float[Array, " width"]:
    """Sines, then cosines, of the noise level at `width / 2` frequencies from 1 down to 1 / 10,000."""
    half = width // 2
    angles = k * jnp.exp(jnp.arange(half) * -(math.log(10_000) / (half - 1)))
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


def _torch_modules(network: UNet) -> Iterator[tuple[str, Any]]:
    """The layers with weights by their names in LeRobot."""
    yield "diffusion_step_encoder.1", network.step_layers[0]
    yield "diffusion_step_encoder.3", network.step_layers[1]
    for group, parts in (("down_modules", network.down), ("up_modules", network.up)):
        for i, (one, two, change) in enumerate(cast("Any", parts)):
            yield from _of_block(f"{group}.{i}.0", one)
            yield from _of_block(f"{group}.{i}.1", two)
            if change is not None:
                yield f"{group}.{i}.2", change
    for i, block in enumerate(network.middle):
        yield from _of_block(f"mid_modules.{i}", block)
    yield "final_conv.0.block.0", network.last.convolution
    yield "final_conv.0.block.1", network.last.norm
    yield "final_conv.1", network.out


def _of_block(name: str, block: ConditionalBlock) -> Iterator[tuple[str, Any]]:
    for part, layer in (("conv1", block.first), ("conv2", block.second)):
        yield f"{name}.{part}.block.0", layer.convolution
        yield f"{name}.{part}.block.1", layer.norm
    # Mish precedes a single layer, and stands between several
    numbers = (0, 2, 4) if block.deeper else (1,)
    for number, layer in zip(numbers, (block.condition, *block.deeper), strict=True):
        yield f"{name}.cond_encoder.{number}", layer
    if block.shortcut is not None:
        yield f"{name}.residual_conv", block.shortcut


def _check_sizes(
    horizon: int, down_dims: Sequence[int], kernel_size: int, groups: int, step_dim: int
) -> None:
    """Check the sizes of the network."""
    if not down_dims:
        raise OtprError("A U-Net needs at least one number of channels in down_dims; given none.")
    if any(size % groups for size in down_dims) or down_dims[0] % LAST_GROUPS:
        raise OtprError(
            f"Each of down_dims must be a multiple of groups ({groups}), and the first of {LAST_GROUPS}; "
            f"given {', '.join(map(str, down_dims))}."
        )
    if kernel_size % 2 == 0:
        raise OtprError(f"kernel_size must be an odd number, given {kernel_size}.")
    if step_dim % 2 or step_dim < 4:
        raise OtprError(f"step_dim must be an even number of at least 4, given {step_dim}.")
    if horizon % (shortest := 2 ** (len(down_dims) - 1)):
        raise OtprError(
            f"With {len(down_dims)} levels in down_dims the horizon must be a multiple of {shortest}, given "
            f"{horizon}."
        )
