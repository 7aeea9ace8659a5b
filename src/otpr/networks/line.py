"""Convolutions along one axis as matrix products, for plans of a few dozen steps.

Arrays are (n, t, channels): n samples, t steps, then channels. Kernels are (window, in, out). The inputs of
each window are concatenated, so that each convolution, and each of its gradients, is one matrix product. For
so few steps this is faster on a CPU than a convolution of `jax.lax`, also within `jax.lax.scan`, and under
`jax.vmap` all samples share one product.
"""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class LineConvolution(eqx.Module):
    """A cross-correlation with weights and bias, initialised as PyTorch does.

    Args:
        channels: (in, out).
        window: number of steps in the window.
        stride: distance between neighbouring windows.
        padding: zeros before and after the input; None: window // 2.
        key: draws the weights.
    """

    kernel: Float[Array, "window i o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self,
        channels: tuple[int, int],
        window: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        key: PRNGKeyArray,
    ):
        self.kernel, self.bias = _weights(channels, window, channels[0], key)
        self.stride, self.padding = stride, window // 2 if padding is None else padding

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n places o"]:
        """The output, with floor((t + 2 * padding - window) / stride) + 1 steps."""
        window = self.kernel.shape[0]
        if self.padding:
            x = jnp.pad(x, ((0, 0), (self.padding, self.padding), (0, 0)))
        span = x.shape[1] - window + 1
        seen = [x[:, i : i + span : self.stride] for i in range(window)]
        side_by_side = seen[0] if window == 1 else jnp.concatenate(seen, axis=-1)
        return side_by_side @ self.kernel.reshape(-1, self.kernel.shape[-1]) + self.bias


class LineTransposedConvolution(eqx.Module):
    """A transposed convolution with weights and bias, initialised as PyTorch does.

    `x[s] @ kernel[j]` is added to place `stride * s + j - padding`.

    Args:
        channels: (in, out).
        window: number of steps in the kernel, a multiple of the stride.
        stride: distance in the output between the contributions of neighbouring input steps.
        padding: number of steps removed at each end of the output.
        key: draws the weights.

    Raises:
        ValueError: the window is not a multiple of the stride.
    """

    kernel: Float[Array, "window i o"]
    bias: Float[Array, " o"]
    stride: int = eqx.field(static=True)
    padding: int = eqx.field(static=True)

    def __init__(
        self, channels: tuple[int, int], window: int, *, stride: int, padding: int, key: PRNGKeyArray
    ):
        if window % stride:
            raise ValueError(f"The window ({window}) must be a multiple of the stride ({stride}).")
        self.kernel, self.bias = _weights(channels, window, channels[1], key)
        self.stride, self.padding = stride, padding

    def __call__(self, x: Float[Array, "n t i"]) -> Float[Array, "n places o"]:
        """The output, with stride * (t - 1) + window - 2 * padding steps."""
        (n, t, i), (window, _, o) = x.shape, self.kernel.shape
        groups = window // self.stride
        given = x @ jnp.moveaxis(self.kernel, 0, 1).reshape(i, window * o)
        given = given.reshape(n, t, groups, self.stride * o)
        # windows of neighbouring steps overlap in all groups but one
        late = [jnp.pad(given[:, :, g], ((0, 0), (g, groups - 1 - g), (0, 0))) for g in range(groups)]
        places = sum(late[1:], late[0]).reshape(n, (t + groups - 1) * self.stride, o)
        return places[:, self.padding : places.shape[1] - self.padding] + self.bias


def _weights(
    channels: tuple[int, int], window: int, fan: int, key: PRNGKeyArray
) -> tuple[Float[Array, "window i o"], Float[Array, " o"]]:
    """Kernel and bias, uniform within 1 / sqrt(fan * window)."""
    kernel_key, bias_key = jax.random.split(key)
    limit = 1 / math.sqrt(fan * window)
    kernel = jax.random.uniform(kernel_key, (window, *channels), minval=-limit, maxval=limit)
    return kernel, jax.random.uniform(bias_key, channels[1:], minval=-limit, maxval=limit)
