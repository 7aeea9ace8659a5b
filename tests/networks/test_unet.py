from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.networks.line import LineConvolution, LineTransposedConvolution
from otpr.networks.unet import UNet, step_embedding

KEY = jax.random.key(0)
SIZES: dict[str, Any] = {"down_dims": (8, 16), "kernel_size": 3, "groups": 4, "step_dim": 8}


@pytest.mark.parametrize(("window", "stride", "padding"), [(1, 1, 0), (5, 1, 2), (3, 2, 1), (4, 3, 0)])
def test_convolution_against_a_plain_loop(window: int, stride: int, padding: int) -> None:
    layer = LineConvolution((3, 4), window, stride=stride, padding=padding, key=KEY)
    x = jax.random.normal(jax.random.key(1), (2, 9, 3))
    padded = np.pad(x, ((0, 0), (padding, padding), (0, 0)))
    starts = range(0, padded.shape[1] - window + 1, stride)
    places = [np.einsum("nwi,wio->no", padded[:, i : i + window], layer.kernel) for i in starts]
    np.testing.assert_allclose(layer(x), np.stack(places, 1) + layer.bias, atol=1e-5)


@pytest.mark.parametrize(("window", "stride", "padding"), [(4, 2, 1), (2, 2, 0), (3, 1, 1), (6, 3, 2)])
def test_transposed_convolution_against_a_plain_loop(window: int, stride: int, padding: int) -> None:
    layer = LineTransposedConvolution((3, 4), window, stride=stride, padding=padding, key=KEY)
    x = jax.random.normal(jax.random.key(1), (2, 5, 3))
    expected = np.zeros((2, stride * 4 + window, 4)) + np.asarray(layer.bias)
    for s, j in itertools.product(range(5), range(window)):
        expected[:, stride * s + j] += np.asarray(x[:, s] @ layer.kernel[j])
    np.testing.assert_allclose(layer(x), expected[:, padding : expected.shape[1] - padding], atol=1e-5)


def test_transposed_window_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window \(3\) must be a multiple of the stride \(2\)"):
        LineTransposedConvolution((3, 4), 3, stride=2, padding=0, key=KEY)


@pytest.mark.parametrize("width", [4, 16])
def test_embedding_against_a_plain_loop(width: int) -> None:
    half = width // 2
    for k in (0, 1, 99):
        angles = [k / 10_000 ** (i / (half - 1)) for i in range(half)]
        expected = [np.sin(x) for x in angles] + [np.cos(x) for x in angles]
        np.testing.assert_allclose(step_embedding(jnp.array(k), width), expected, atol=2e-5)


@pytest.mark.parametrize("scale_modulation", [True, False])
def test_plans_that_share_a_state_are_predicted_as_each_by_itself(scale_modulation: bool) -> None:
    network = UNet(3, (4, 2), **SIZES, scale_modulation=scale_modulation, key=KEY)
    plans = jax.random.normal(jax.random.key(1), (3, 4, 2))
    state, k = jax.random.normal(jax.random.key(2), (3,)), jnp.array(5)
    together, each = eqx.filter_jit(network.many), eqx.filter_jit(network)
    expected = jnp.stack([each(state, plan, k) for plan in plans])
    np.testing.assert_allclose(together(state, plans, k), expected, atol=1e-5)
    for other in (each(state + 1, plans[0], k), each(state, plans[0] + 1, k), each(state, plans[0], k + 1)):
        assert np.abs(other - expected[0]).max() > 1e-3


def test_gradients_are_the_slopes_of_the_loss() -> None:
    network = UNet(3, (4, 2), **SIZES, key=KEY)
    states, plans = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in ((1, (5, 3)), (2, (5, 4, 2)))
    )

    def loss(network: UNet) -> jax.Array:
        return jnp.mean(jax.vmap(network)(states, plans, jnp.arange(5)) ** 2)

    gradient = eqx.filter_jit(eqx.filter_grad(loss))(network)
    value = eqx.filter_jit(loss)
    norm = float(jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient))))
    direction = jax.tree.map(lambda leaf: leaf / norm, gradient)
    step = 1e-3

    def along(t: float) -> float:
        moved = jax.tree.map(lambda w, d: w + t * d, eqx.filter(network, eqx.is_array), direction)
        return float(value(eqx.combine(moved, network)))

    slope = (along(step) - along(-step)) / (2 * step)
    assert slope == pytest.approx(norm, rel=1e-2)


def test_a_batch_of_gradients_needs_no_more_memory_than_one_of_the_kernels() -> None:
    """Under `vmap` a kernel's gradient is one product, not a sum of one for each sample."""
    layer = LineConvolution((32, 32), 5, key=KEY)
    x = jnp.zeros((64, 8, 32))

    def loss(layer: LineConvolution) -> jax.Array:
        return jnp.sum(jax.vmap(lambda one: layer(one[None])[0])(x) ** 2)

    text = jax.jit(jax.grad(loss)).lower(layer).as_text()
    assert "64x5x32x32" not in text and "64x160x32" not in text


@pytest.mark.parametrize(
    ("horizon", "changes", "message"),
    [
        (6, {"down_dims": (8, 16, 16)}, "With 3 levels .* horizon must be a multiple of 4, given 6"),
        (4, {"down_dims": ()}, "at least one number of channels"),
        (4, {"down_dims": (8, 18)}, r"multiple of groups \(4\), and the first of 8; given 8, 18"),
        (4, {"down_dims": (12, 16)}, "the first of 8; given 12, 16"),
        (4, {"kernel_size": 4}, "kernel_size must be an odd number, given 4"),
        (4, {"step_dim": 7}, "step_dim must be an even number of at least 4, given 7"),
    ],
)
def test_sizes_that_make_no_network_are_refused(horizon: int, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OtprError, match=message):
        UNet(3, (horizon, 2), **{**SIZES, **changes}, key=KEY)


def test_about_and_the_dimensions_make_it_again() -> None:
    network = UNet(3, (4, 2), **SIZES, scale_modulation=False, key=KEY)
    sizes = {name: value for name, value in network.about().items() if name != "kind"}
    again = UNet(3, network.plan_shape, **sizes, key=KEY)
    assert jax.tree.structure(again) == jax.tree.structure(network)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(one, other)
