"""Gradients of convolutional networks, against what JAX derives of the convolutions of `jax.lax`.

Networks of images have their own gradients on processors, those of plans are matrix products. Both sides run
in one compiled loop, as agents learn, where XLA's CPU backend has fast code for few forms of convolutions; a
single gradient, outside a loop, is in the note.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator
from typing import Any
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.timing import in_turns, medians, ratio
from otpr.networks.line import LineConvolution, LineTransposedConvolution
from otpr.networks.vision import VISION


class PlanStack(eqx.Module):
    """The convolutions of a U-Net over plans: windows of 5, halved in length by 3, doubled again by 4.

    Source: Chi et al., "Diffusion policy", 2023; without norms, skips and conditions.

    Args:
        action_dim: channels of a plan.
        channels: of each level; between two levels the length is halved.
    """

    down: tuple[tuple[LineConvolution, ...], ...]
    up: tuple[tuple[LineTransposedConvolution, LineConvolution], ...]

    def __init__(self, action_dim: int, channels: tuple[int, ...]):
        keys = iter(jax.random.split(jax.random.key(0), 5 * len(channels)))

        def layer(before: int, after: int, window: int, stride: int) -> LineConvolution:
            return LineConvolution((before, after), window, stride=stride, key=next(keys))

        below = (action_dim, *channels)
        self.down = tuple(
            (layer(a, b, 5, 1), layer(b, b, 5, 1), *([layer(b, b, 3, 2)] if b != channels[-1] else []))
            for a, b in zip(below, channels, strict=False)
        )
        self.up = tuple(
            (
                LineTransposedConvolution((b, a), 4, stride=2, padding=1, key=next(keys)),
                layer(a, a, 5, 1),
            )
            for a, b in list(itertools.pairwise(channels))[::-1]
        )

    def __call__(self, plans: Float[Array, "n h a"]) -> Float[Array, "n h c"]:
        """The outputs of n plans."""
        x = plans
        for layer in itertools.chain.from_iterable((*self.down, *self.up)):
            x = jax.nn.silu(layer(x))
        return x


def _by_lax(self: LineConvolution, x: Float[Array, "n t i"]) -> Float[Array, "n places o"]:
    """What `LineConvolution` computes, as a convolution of `jax.lax`."""
    sides = [(self.padding, self.padding)]
    given = jax.lax.conv_general_dilated(
        x, self.kernel, (self.stride,), sides, dimension_numbers=("NWC", "WIO", "NWC")
    )
    return given + self.bias


def _transposed_by_lax(
    self: LineTransposedConvolution, x: Float[Array, "n t i"]
) -> Float[Array, "n places o"]:
    """What `LineTransposedConvolution` computes, as a convolution of `jax.lax`."""
    side = self.kernel.shape[0] - 1 - self.padding
    given = jax.lax.conv_general_dilated(
        x,
        self.kernel[::-1],
        (1,),
        [(side, side)],
        lhs_dilation=(self.stride,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )
    return given + self.bias


def convolution(sizes: Sizes) -> list[Row]:
    """A row for each network."""
    rng = np.random.default_rng(0)

    def images(n: int, side: int) -> Array:
        return jnp.asarray(rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8))

    n, side = sizes.vision_batch, sizes.vision_side
    resnet_n, resnet_side = sizes.resnet_batch, sizes.resnet_side
    plans = rng.normal(size=(sizes.batch, *sizes.plan)).astype(np.float32)
    small, resnet = (
        VISION[name]((side, side, 3), key=jax.random.key(0))
        for name, side in (("small", side), ("resnet18", resnet_side))
    )
    stack = PlanStack(sizes.plan[1], sizes.plan_channels)
    of_plans = f"{len(plans)} plans of {sizes.plan[0]} steps, {sizes.plan_channels} channels"
    return [
        _row("vision_small", f"SmallVision, {n} images of {side} pixels", small, images(n, side), sizes),
        _row(
            "vision_resnet18",
            f"ResNet-18, {resnet_n} images of {resnet_side} pixels",
            resnet,
            images(resnet_n, resnet_side),
            sizes,
        ),
        _row("plan_convolutions", f"convolutions of a U-Net, {of_plans}", stack, jnp.asarray(plans), sizes),
    ]


def _row(name: str, what: str, network: Any, given: Array, sizes: Sizes) -> Row:
    arrays, static = eqx.partition(network, eqx.is_array)

    def loss(arrays: Any, given: Array) -> Array:
        return jnp.mean(eqx.combine(arrays, static)(given) ** 2)

    def loop(arrays: Any, given: Array) -> Any:
        def step(arrays: Any, _: None) -> tuple[Any, None]:
            gradient = jax.grad(loss)(arrays, given)
            return jax.tree.map(_descend, arrays, gradient), None

        return jax.lax.scan(step, arrays, None, length=sizes.gradients)[0]

    ours = {"ours": _compiled(loop, arrays, given), "ours, once": _compiled(jax.grad(loss), arrays, given)}
    with _derived():
        lax = {"lax": _compiled(loop, arrays, given), "lax, once": _compiled(jax.grad(loss), arrays, given)}
    _check_equal(ours["ours, once"](), lax["lax, once"]())
    times = in_turns({**lax, **ours}, sizes.turns)
    single = np.median(times["ours, once"])
    return Row(
        name,
        ratio(times["lax"], times["ours"]),
        "x",
        f"gradient derived by JAX / ours, {sizes.gradients} steps in a loop: {what}",
        medians(times),
        note=f"{ratio(times['lax, once'], times['ours, once']):.2f} x outside a loop, where ours takes "
        f"{1e3 * single:.0f} ms",
    )


def _descend(weight: Array, gradient: Array) -> Array:
    return weight - 1e-6 * gradient


def _compiled(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    def fresh(*arguments: Any) -> Any:
        """A function of its own: JAX would trace the same one once, for either side."""
        return function(*arguments)

    # arrays are arguments: constants would be folded, for minutes
    program = jax.jit(fresh).lower(*arguments).compile()
    return lambda: program(*arguments)


@contextlib.contextmanager
def _derived() -> Generator[None]:
    """All convolutions are those of `jax.lax`: images' as on other backends, plans' in place of products."""
    with (
        mock.patch.object(jax, "default_backend", return_value="other"),
        mock.patch.object(LineConvolution, "__call__", _by_lax),
        mock.patch.object(LineTransposedConvolution, "__call__", _transposed_by_lax),
    ):
        yield


def _check_equal(ours: Any, theirs: Any) -> None:
    """The same numbers, or the comparison means nothing."""
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(np.asarray(other)).max() + 1e-7)
