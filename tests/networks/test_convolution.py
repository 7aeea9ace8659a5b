from __future__ import annotations

import functools
import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import assert_fast
from torch_cases import CASES, GROUP_NORM, MAX_POOLS, SOFTMAX, Case, formula

from otpr.networks import convolution
from otpr.networks.convolution import (
    Convolution,
    GroupNorm,
    convolve,
    max_pool,
    spatial_softmax,
)
from otpr.networks.line import LineConvolution, LineTransposedConvolution
from otpr.trees import read_arrays

PLANS, IMAGES = (tuple(case for case in CASES if len(case.sizes) == axes) for axes in (1, 2))
TORCH = read_arrays(Path(__file__).parent / "fixtures" / "torch.safetensors")


def close(ours: object, theirs: np.ndarray) -> None:
    """To 1e-5 of the largest number."""
    ours = np.asarray(ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def ours(case: Case, x, kernel):
    if case in IMAGES:
        return convolve(x, kernel, case.stride, ((case.padding, case.padding),) * 2)
    kind = LineTransposedConvolution if case.transposed else LineConvolution
    window = case.window[0]
    layer = kind(case.channels, window, stride=case.stride, padding=case.padding, key=jax.random.key(0))
    return eqx.tree_at(lambda layer: (layer.kernel, layer.bias), layer, (kernel, jnp.zeros(1)))(x)


@functools.partial(jax.jit, static_argnums=0)
def with_gradients(function, weights, *arguments):
    """The result, and the gradients of the sum of its entries times `weights`."""
    result, backward = jax.vjp(function, *arguments)
    return result, *backward(weights)


class TestAgainstPyTorch:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_convolutions_and_their_gradients(self, case: Case) -> None:
        expected = TORCH[f"{case.name} y"]
        g = formula(f"{case.name} g", expected.shape)
        y, dx, dk = with_gradients(functools.partial(ours, case), g, *case.arrays())
        close(y, expected)
        close(dx, TORCH[f"{case.name} dx"])
        close(dk, TORCH[f"{case.name} dk"])

    @pytest.mark.parametrize("case", IMAGES, ids=lambda case: case.name)
    def test_other_backends_compute_the_same(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        self.test_convolutions_and_their_gradients(case)

    @pytest.mark.parametrize("case", IMAGES[::2], ids=lambda case: case.name)
    def test_gradients_of_two_samples_at_a_time(self, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(convolution, "_BLOCK_BYTES", 2 * case.arrays()[0][0].nbytes)
        self.test_convolutions_and_their_gradients(case)

    def test_group_norm(self) -> None:
        shape, groups = GROUP_NORM
        norm = GroupNorm(groups, shape[-1])
        scale, shift = (jnp.asarray(formula(f"norm {name}", shape[-1:])) for name in ("scale", "shift"))
        norm = eqx.tree_at(lambda n: (n.weight, n.bias), norm, (scale, shift))
        y, dx = with_gradients(lambda x: norm(x), formula("norm g", shape), formula("norm x", shape) + 10)
        np.testing.assert_allclose(y, TORCH["norm y"], atol=1e-5)
        np.testing.assert_allclose(dx, TORCH["norm dx"], atol=2e-5)

    @pytest.mark.parametrize("number", range(len(MAX_POOLS)))
    def test_max_pool(self, number: int) -> None:
        shape, *sizes = MAX_POOLS[number]
        expected = TORCH[f"pool{number} y"]
        x = np.round(formula(f"pool{number} x", shape, 4))
        y, dx = with_gradients(lambda x: max_pool(x, *sizes), formula(f"pool{number} g", expected.shape), x)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_allclose(dx, TORCH[f"pool{number} dx"], atol=1e-6)

    def test_spatial_softmax_of_lerobot(self) -> None:
        expected = TORCH["softmax y"].reshape(SOFTMAX[0], -1)
        g = formula("softmax g", TORCH["softmax y"].shape).reshape(expected.shape)
        y, dx = with_gradients(spatial_softmax, g, formula("softmax x", SOFTMAX, 4))
        np.testing.assert_allclose(y, expected, atol=1e-6)
        np.testing.assert_allclose(dx, TORCH["softmax dx"], atol=1e-6)


def test_gradients_are_of_the_fast_form() -> None:
    """Strides, a window longer than its input, and more weights than pixels."""

    def network(x, kernels):
        x = convolve(x, kernels[0], 1, ((2, 2), (2, 2)))
        x = convolve(x, kernels[1], 2, ((1, 1), (1, 1)))
        x = convolve(x, kernels[2], 1, ((2, 2), (2, 2)))
        return jnp.sum(convolve(x, kernels[1], 2, ((1, 1), (1, 1))) ** 2)

    kernels = [jnp.ones((t, t, 4, 4)) for t in (5, 3, 5)]
    program = jax.make_jaxpr(jax.grad(network, (0, 1)))(jnp.ones((100, 4, 4, 4)), kernels)
    assert assert_fast(program) >= 8
    # and this finds what is not: what JAX derives by itself
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        derived = jax.make_jaxpr(jax.grad(network, (0, 1)))(jnp.ones((100, 4, 4, 4)), kernels)
    with pytest.raises(AssertionError):
        assert_fast(derived)


@pytest.mark.parametrize("case", [PLANS[4], PLANS[-1], IMAGES[1], IMAGES[6]], ids=lambda case: case.name)
def test_samples_by_vmap_are_those_of_a_batch(case: Case) -> None:
    x, kernel = case.arrays()
    each = jax.jit(jax.vmap(lambda x: ours(case, x[None], jnp.asarray(kernel))[0]))(x)
    close(each, TORCH[f"{case.name} y"])


def test_a_window_larger_than_the_padded_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"A window of \(5, 3\) does not fit into an input of \(4, 6\), padding"
    ):
        convolve(jnp.ones((2, 4, 4, 3)), jnp.ones((5, 3, 3, 1)), 1, ((0, 0), (1, 1)))


class TestConvolution:
    def test_it_is_convolve_with_a_bias(self) -> None:
        layer = Convolution((3, 5), (3, 3), stride=2, key=jax.random.key(0))
        x = jnp.asarray(formula("x", (2, 6, 7, 3)))
        expected = convolve(x, layer.kernel, 2, ((1, 1), (1, 1))) + layer.bias
        np.testing.assert_array_equal(layer(x), expected)
        uneven = ((0, 2), (1, 0))
        plain = Convolution((3, 5), (3, 2), padding=uneven, use_bias=False, key=jax.random.key(0))
        assert plain.bias is None and plain(x).shape == (2, 6, 7, 5)

    @pytest.mark.parametrize("window", [(1, 5), (3, 3)])
    def test_weights_are_initialised_as_by_pytorch(self, window: tuple[int, int]) -> None:
        layer = Convolution((16, 64), window, key=jax.random.key(1))
        limit = 1 / math.sqrt(16 * math.prod(window))
        for array in (layer.kernel, layer.bias):
            scaled = np.asarray(array) / limit
            assert 0.9 < np.abs(scaled).max() <= 1
            assert scaled.var() == pytest.approx(1 / 3, rel=0.3)  # of a uniform distribution
        assert abs(np.corrcoef(np.asarray(layer.kernel).reshape(-1)[:64], layer.bias)[0, 1]) < 0.5

    def test_weights_of_a_given_spread(self) -> None:
        layer = Convolution((16, 64), (3, 3), spread=0.2, key=jax.random.key(1))
        assert np.asarray(layer.kernel).std() == pytest.approx(0.2, rel=0.05)
        np.testing.assert_array_equal(layer.bias, np.zeros(64))


class TestGroupNorm:
    def test_each_group_of_a_sample_has_mean_zero_and_variance_one(self) -> None:
        x = formula("x", (3, 5, 8)) * np.linspace(0.1, 40, 3)[:, None, None] + 2
        y = np.asarray(GroupNorm(2, 8)(jnp.asarray(x, jnp.float32))).reshape(3, 5, 2, 4)
        np.testing.assert_allclose(y.mean((1, 3)), 0, atol=1e-5)
        np.testing.assert_allclose(y.var((1, 3)), 1, atol=1e-2)

    def test_groups_of_unequal_size_are_refused(self) -> None:
        with pytest.raises(ValueError, match="10 channels cannot be divided into 4 groups"):
            GroupNorm(4, 10)


def test_the_largest_of_a_window_with_a_nan_is_nan() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 2, 3] = np.nan
    np.testing.assert_array_equal(np.isnan(max_pool(jnp.asarray(x), 2, 2, 0))[0, :, :, 0], [[0, 0], [0, 1]])


def test_the_keypoint_of_a_sharp_peak_is_its_pixel() -> None:
    """By hand: x from -1 to 1 over 5 columns, y over 3 rows; x and y of the first channel come first."""
    x = np.zeros((2, 3, 5, 2), np.float32)
    x[0, 0, 4, 0] = x[0, 2, 1, 1] = x[1, 1, 2, 0] = 100
    expected = [[1, -1, -0.5, 1], [0, 0, 0, 0]]  # where nothing stands out, the middle
    np.testing.assert_allclose(spatial_softmax(jnp.asarray(x)), expected, atol=1e-6)
