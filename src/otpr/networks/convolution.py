"""Convolutions of images, channels last, and other layers of image networks; `line` has those of plans.

Arrays are (n, height, width, channels): n samples, two spatial axes, then channels. Kernels are
(rows, columns, in, out), and a padding is a pair (low, high) for each spatial axis.

On a CPU, XLA has a fast convolution for one form only: batch, spatial axes and channels in this order, and a
kernel that is neither reversed nor longer than the input. The gradients that JAX derives have other forms.
XLA rewrites them only at the top level of a program, so that inside `jax.lax.scan`, where agents learn, the
gradient of a convolution takes 10 to 50 times as long. `convolve` therefore defines its gradients as
convolutions of the fast form or as matrix products. It has no forward-mode derivative (`jax.jvp`). On other
backends it is the convolution of `jax.lax`.

Training should call it on a whole batch. Under `jax.vmap` the forward pass is as fast, while a
gradient with respect to the kernel is computed for each sample and then summed.
"""

from __future__ import annotations

import functools
import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

Padding = tuple[tuple[int, int], ...]
"""Number of zeros before and after the input, for each of the two spatial axes."""

_BLOCK_BYTES = 2**18
"""Size of the input processed at once for a kernel's gradient, so that it fits a core's cache."""


def convolve(
    x: Float[Array, "n h w i"], kernel: Float[Array, "r c i o"], stride: int, padding: Padding
) -> Float[Array, "n rows columns o"]:
    """Cross-correlation, called convolution in deep learning.

    Args:
        x: images.
        kernel: r rows and c columns of a window.
        stride: distance between neighbouring windows, the same along each axis.
        padding: zeros before and after, for each axis.

    Returns:
        floor((size + low + high - window) / stride) + 1 places along each axis.

    Raises:
        ValueError: the window is larger than the padded input.
    """
    sizes = [n + low + high for n, (low, high) in zip(x.shape[1:-1], padding, strict=True)]
    if any(window > size for window, size in zip(kernel.shape, sizes, strict=False)):
        raise ValueError(
            f"A window of {kernel.shape[:-2]} does not fit into an input of {tuple(sizes)}, padding included."
        )
    if jax.default_backend() != "cpu":
        return _plain(x, kernel, stride, padding)
    if not any(map(any, padding)) and all(window == stride for window in kernel.shape[:-2]):
        return _of_patches(x, kernel)
    return _convolve(x, kernel, stride, padding)


# ------------------------------------------------------------------------------- forms of the convolution


def _plain(x: Array, kernel: Array, stride: int, padding: Padding, *, step: int = 1) -> Array:
    """XLA's convolution in its fast form; the window's entries are `step` places apart."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        rhs_dilation=(step, step),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _fitting(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """The convolution, with an input padded in advance if the window is longer than the input.

    XLA computes such a convolution in plain loops, and would undo the padding without the barrier.
    """
    if all(t <= n for t, n in zip(kernel.shape[:-2], x.shape[1:-1], strict=True)):
        return _plain(x, kernel, stride, padding)
    padded = lax.optimization_barrier(jnp.pad(x, ((0, 0), *padding, (0, 0))))
    return _plain(padded, kernel, stride, ((0, 0), (0, 0)))


def _of_patches(x: Array, kernel: Array) -> Array:
    """The convolution with adjacent, disjoint windows, as one matrix product."""
    (n, height, width, channels), (r, c, _, out) = x.shape, kernel.shape
    rows, columns = height // r, width // c
    x = x[:, : rows * r, : columns * c].reshape(n, rows, r, columns, c, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, -1) @ kernel.reshape(-1, out)


def _adjoint(g: Array, kernel: Array, stride: int, padding: Padding, sizes: tuple[int, ...]) -> Array:
    """The gradient of `convolve(x, kernel, stride, padding)` with respect to x, given that of its output.

    It is a convolution with the reversed kernel. If that would mostly multiply zeros, or the kernel has more
    entries than x, it is instead a sum of shifted products with each entry of the kernel.
    """
    window = kernel.shape[:-2]
    if stride == 1 and kernel.size <= g.shape[0] * math.prod(sizes) * kernel.shape[-2]:
        sides = tuple(
            (t - 1 - low, n + low - p)
            for n, t, p, (low, _) in zip(sizes, window, g.shape[1:-1], padding, strict=True)
        )
        turned = jnp.swapaxes(jnp.flip(kernel, (0, 1)), -1, -2)
        return _fitting(g, turned, 1, sides)
    padded = tuple(n + low + high for n, (low, high) in zip(sizes, padding, strict=True))
    total = jnp.zeros((g.shape[0], *padded, kernel.shape[-2]), g.dtype)
    for tap in itertools.product(*map(range, window)):
        spread = [
            (t, n - t - stride * (p - 1) - 1, stride - 1)
            for t, n, p in zip(tap, padded, g.shape[1:-1], strict=True)
        ]
        total += lax.pad(g @ kernel[tap].T, jnp.zeros((), g.dtype), [(0, 0, 0), *spread, (0, 0, 0)])
    (top, _), (left, _) = padding
    return total[:, top : top + sizes[0], left : left + sizes[1]]


def _kernel_gradient(x: Array, g: Array, window: tuple[int, ...], stride: int, padding: Padding) -> Array:
    """The gradient of `convolve(x, kernel, stride, padding)` with respect to the kernel.

    It is a convolution of x with g, with channels and samples exchanged, over blocks of samples.
    """
    n = x.shape[0]
    # only the padding after the input that a window reaches
    sides = tuple(
        (low, t + stride * (p - 1) - size - low)
        for size, t, p, (low, _) in zip(x.shape[1:-1], window, g.shape[1:-1], padding, strict=True)
    )

    def of(x: Array, g: Array) -> Array:
        x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
        return jnp.moveaxis(_plain(x, g, 1, sides, step=stride), 0, -2)

    fitting = max(1, _BLOCK_BYTES // (x[0].size * x.dtype.itemsize))
    block = 1 << (fitting.bit_length() - 1)  # a power of two fills whole vector registers
    if n <= block:
        return of(x, g)

    def add(total: Array, some: tuple[Array, Array]) -> tuple[Array, None]:
        return total + of(*some), None

    whole = n // block * block
    blocks = (x[:whole].reshape(-1, block, *x.shape[1:]), g[:whole].reshape(-1, block, *g.shape[1:]))
    zeros = jnp.zeros((*window, x.shape[-1], g.shape[-1]), x.dtype)
    total, _ = lax.scan(add, zeros, blocks)
    return total if whole == n else total + of(x[whole:], g[whole:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    return _fitting(x, kernel, stride, padding)


def _forward(x: Array, kernel: Array, stride: int, padding: Padding) -> tuple[Array, tuple[Array, Array]]:
    return _fitting(x, kernel, stride, padding), (x, kernel)


def _backward(stride: int, padding: Padding, saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    of_x = _adjoint(g, kernel, stride, padding, x.shape[1:-1])
    return of_x, _kernel_gradient(x, g, kernel.shape[:-2], stride, padding)


_convolve.defvjp(_forward, _backward)


# ------------------------------------------------------------------------------------------------ modules


class Convolution(eqx.Module):
    """A convolution with weights.

    Args:
        channels: (in, out).
        window: rows and columns.
        stride: see `convolve`.
        padding: see `convolve`; None: window // 2 zeros on both sides of each axis.
        use_bias: whether a bias is added.
        spread: standard deviation of normal weights, with a bias of 0; None: PyTorch's initialisation,
            weights and bias uniform within 1 / sqrt(in * entries of the window).
        key: draws the weights.
    """

    kernel: Float[Array, "r c i o"]
    bias: Float[Array, " o"] | None
    stride: int = eqx.field(static=True)
    padding: Padding = eqx.field(static=True)

    def __init__(
        self,
        channels: tuple[int, int],
        window: tuple[int, int],
        *,
        stride: int = 1,
        padding: Padding | None = None,
        use_bias: bool = True,
        spread: float | None = None,
        key: PRNGKeyArray,
    ):
        kernel_key, bias_key = jax.random.split(key)
        shape, bias_shape = (*window, *channels), channels[1:]
        if spread is None:
            limit = 1 / math.sqrt(channels[0] * math.prod(window))
            self.kernel = jax.random.uniform(kernel_key, shape, minval=-limit, maxval=limit)
            bias = jax.random.uniform(bias_key, bias_shape, minval=-limit, maxval=limit)
        else:
            self.kernel, bias = spread * jax.random.normal(kernel_key, shape), jnp.zeros(bias_shape)
        self.bias = bias if use_bias else None
        self.stride = stride
        rows, columns = (t // 2 for t in window)
        self.padding = ((rows, rows), (columns, columns)) if padding is None else padding

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n rows columns o"]:
        """The convolution, plus the bias."""
        y = convolve(x, self.kernel, self.stride, self.padding)
        return y if self.bias is None else y + self.bias


class GroupNorm(eqx.Module):
    """Group normalisation: zero mean and unit variance over space and a group's channels, scale and shift.

    Source: Wu and He, "Group normalization", 2018; with PyTorch's order of channels.

    Args:
        groups: number of groups; a divisor of the number of channels.
        channels: number of channels.
        eps: added to the variance; PyTorch's unless given.

    Raises:
        ValueError: `groups` does not divide `channels`.
    """

    weight: Float[Array, " c"]
    bias: Float[Array, " c"]
    groups: int = eqx.field(static=True)
    eps: float = eqx.field(static=True)

    def __init__(self, groups: int, channels: int, eps: float = 1e-5):
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be divided into {groups} groups of equal size.")
        self.weight, self.bias = jnp.ones(channels), jnp.zeros(channels)
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "n *spatial c"]) -> Float[Array, "n *spatial c"]:
        """Normalise each sample separately."""
        grouped = x.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        mean = jnp.mean(grouped, axis=(1, 3), keepdims=True)
        variance = jnp.mean((grouped - mean) ** 2, axis=(1, 3), keepdims=True)
        normal = (grouped - mean) * lax.rsqrt(variance + self.eps)
        return normal.reshape(x.shape) * self.weight + self.bias


def max_pool(
    x: Float[Array, "n h w c"], window: int, stride: int, padding: int
) -> Float[Array, "n rows columns c"]:
    """Max pooling. Padding never counts, and the first of several equal maxima gets the gradient.

    Args:
        x: images.
        window: rows and columns of a window.
        stride: distance between neighbouring windows.
        padding: rows and columns added on each side, at most half a window.
    """
    sides = (padding, padding)
    padded = jnp.pad(x, ((0, 0), sides, sides, (0, 0)), constant_values=-jnp.inf)
    rows, columns = ((n + 2 * padding - window) // stride + 1 for n in x.shape[1:3])
    best = jnp.full((x.shape[0], rows, columns, x.shape[3]), -jnp.inf, x.dtype)
    for i, j in itertools.product(range(window), repeat=2):
        other = padded[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
        best = jnp.where((other > best) | jnp.isnan(other), other, best)
    return best


def spatial_softmax(x: Float[Array, "n h w c"]) -> Float[Array, "n keypoints"]:
    """Spatial softmax: the mean position under the softmax of each channel over the image.

    Source: Levine et al., "End-to-end training of deep visuomotor policies", 2016; in the order and on the
    grid of robomimic and LeRobot.

    Returns:
        For each channel its x, from -1 in the first column to 1 in the last, and its y over the rows: 2 * c
        numbers.
    """
    n, height, width, channels = x.shape
    weight = jax.nn.softmax(x.reshape(n, height * width, channels), axis=1)
    rows, columns = jnp.linspace(-1, 1, height), jnp.linspace(-1, 1, width)
    grid = jnp.stack([jnp.tile(columns, height), jnp.repeat(rows, width)], axis=1)
    return jnp.einsum("npc,pk->nck", weight, grid).reshape(n, 2 * channels)
