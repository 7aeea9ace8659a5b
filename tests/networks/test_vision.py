from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import assert_fast
from torch_cases import CROP, MEAN, STD, encoder_weight, formula, images

from otpr.errors import OtprError
from otpr.networks.torch_weights import torch_leaves
from otpr.networks.vision import VISION, ResNet18, SmallVision, VisionNetwork
from otpr.trees import read_arrays

TORCH = read_arrays(Path(__file__).parent / "fixtures" / "torch.safetensors")
KEY = jax.random.key(0)
forward = eqx.filter_jit(lambda network, given: network(given))


def abstract(name: str, shape: tuple[int, int, int], **about: Any) -> VisionNetwork:
    """A network with shapes and types in place of its arrays, so that nothing is compiled for them."""
    return eqx.filter_eval_shape(VISION[name], shape, **about, key=KEY)


@pytest.fixture(scope="module")
def small() -> SmallVision:
    return SmallVision((64, 64, 3), key=KEY)


# ------------------------------------------------------------------------------------------------ LeRobot's

NAMES = sorted(
    name.removeprefix("encoder ") for name in TORCH if name.startswith("encoder ") and name != "encoder y"
)
"""Of the weights of LeRobot's encoder."""


def torch_shape(leaf: Any) -> tuple[int, ...]:
    """Ours, channels last, as PyTorch has it."""
    return (*leaf.shape[:1:-1], *leaf.shape[:2]) if leaf.ndim == 4 else leaf.shape


def torch_weights(network: ResNet18) -> dict[str, np.ndarray]:
    """By formula, of the shapes that LeRobot's encoder has."""
    shapes = {name: torch_shape(leaf) for name, leaf in torch_leaves(network.torch_modules()).items()}
    return {name: encoder_weight(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def lerobot() -> ResNet18:
    network = abstract("resnet18", (84, 84, 3), crop_shape=CROP, mean=MEAN, std=STD)
    assert isinstance(network, ResNet18)
    return network.with_torch_weights(torch_weights(network))


def test_the_weights_are_those_of_lerobot(lerobot: ResNet18) -> None:
    assert sorted(torch_leaves(lerobot.torch_modules())) == NAMES and len(NAMES) == 64


def test_features_are_those_of_lerobot(lerobot: ResNet18) -> None:
    y = forward(lerobot, images())
    expected = TORCH["encoder y"]
    assert (expected > 0).mean() > 0.3  # that ReLU leaves something to compare
    np.testing.assert_allclose(y, expected, atol=2e-5 * expected.max())


def test_gradients_are_those_of_lerobot(lerobot: ResNet18) -> None:
    given, weights = jnp.asarray(images()), formula("encoder g", TORCH["encoder y"].shape)
    gradient = eqx.filter_jit(eqx.filter_grad(lambda network: jnp.sum(network(given) * weights)))(lerobot)
    for name, leaf in torch_leaves(gradient.torch_modules()).items():
        array = np.asarray(leaf, np.float64)
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        norm, product = TORCH[f"encoder {name}"].tolist()
        # the softmax takes out what the bias before it adds: of its gradient only rounding is left
        tolerance = 1e-6 if name == "pool.nets.bias" else 1e-4 * norm
        assert np.linalg.norm(array) == pytest.approx(norm, abs=tolerance), name
        products = (array * formula(f"{name} g", array.shape)).sum()
        assert products == pytest.approx(product, abs=tolerance), name


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("backbone.4.0.bn1.weight", None, "backbone.4.0.bn1.weight is missing"),
        ("backbone.1.running_mean", np.zeros(64), "backbone.1.running_mean is not expected"),
        ("out.weight", np.zeros((64, 32)), r"out.weight .* \(64, 32\).* \(64, 64\)"),
    ],
)
def test_other_weights_are_refused(lerobot: ResNet18, name: str, array: Any, message: str) -> None:
    arrays = {**torch_weights(lerobot), "pool.pos_grid": np.zeros((9, 2)), name: array}
    with pytest.raises(OtprError, match=message):
        lerobot.with_torch_weights({name: x for name, x in arrays.items() if x is not None})


def test_while_training_each_image_has_a_crop_of_its_own(lerobot: ResNet18) -> None:
    seen = lerobot.seen
    given = jnp.repeat(images()[:1], 30, axis=0)
    crops = np.asarray(seen(given, KEY))
    assert crops.shape == (30, *CROP, 3)
    assert len({crop.tobytes() for crop in crops}) > 15
    np.testing.assert_array_equal(crops, seen(given, KEY))
    centred = given[:, 4:79, 4:80]  # (84 - 75) / 2 is rounded to the even 4
    np.testing.assert_array_equal(seen(given, None), centred)
    plain = abstract("resnet18", (84, 84, 3))
    assert isinstance(plain, ResNet18) and plain.seen(given, KEY) is given


# ------------------------------------------------------------------------------------------------------ both


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("shape", [(32, 32, 3), (33, 46, 1)])
def test_each_is_made_again_from_what_it_says_of_itself(name: str, shape: tuple[int, int, int]) -> None:
    network = abstract(name, shape)
    again = abstract(name, shape, **json.loads(json.dumps(network.about())))
    assert eqx.tree_equal(network, again)
    given = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    features = eqx.filter_eval_shape(lambda network, given: network(given), network, given)
    assert features == jax.ShapeDtypeStruct((2, network.feature_dim), jnp.float32)


def test_sizes_are_those_asked_for() -> None:
    about = {"channels": 8, "depth": 1, "features": 5}
    network = abstract("small", (40, 32, 4), **about)
    assert network.about() == about and network.feature_dim == 5
    other = {"keypoints": 4, "crop_shape": [32, 36], "mean": [0.5], "std": [0.25], "norm": "batch"}
    resnet = abstract("resnet18", (40, 40, 1), **other)
    assert resnet.about() == other and resnet.feature_dim == 8


@pytest.mark.parametrize("name", VISION)
def test_images_by_vmap_are_those_of_a_batch(name: str, small: SmallVision, lerobot: ResNet18) -> None:
    network, given = (small if name == "small" else lerobot), jnp.asarray(images())
    each = eqx.filter_jit(lambda network, x: jax.vmap(lambda x: network(x[None])[0])(x))(network, given)
    expected = np.asarray(forward(network, given))
    np.testing.assert_allclose(each, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", VISION)
def test_gradients_are_of_the_fast_form(name: str) -> None:
    network = abstract(name, (64, 64, 3))  # ResNet's last stage has 2 x 2 places, and windows of 3 x 3

    def loss(network: VisionNetwork, given: jax.Array) -> jax.Array:
        return jnp.sum(network(given))

    gradient, given = eqx.filter_grad(loss), jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.uint8)
    program, _, _ = eqx.filter_make_jaxpr(gradient)(network, given)
    # forward and for the kernels, and most of those for the inputs; patches and single pixels are products
    assert assert_fast(program) >= {"small": 5, "resnet18": 40}[name]


@pytest.mark.parametrize("name", VISION)
def test_images_that_are_too_small_are_refused(name: str) -> None:
    with pytest.raises(OtprError, match="at least 32 pixels along each axis, given 64 x 31"):
        VISION[name]((64, 31, 3), key=KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_shape": (64, 65)}, r"crop_shape is \(64, 65\), given images of \(64, 64\)"),
        ({"crop_shape": (30, 64)}, "at least 32 pixels along each axis, given 30 x 64"),
        ({"mean": (0.5,)}, "3 channels need as many means and deviations"),
        ({"std": (1.0, 0.0, 1.0)}, "these above 0"),
    ],
)
def test_faults_of_the_resnet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OtprError, match=message):
        ResNet18((64, 64, 3), **options, key=KEY)


# ------------------------------------------------------------------------------------------------- the small


def test_edges_are_continued_where_patches_do_not_fit(small: SmallVision) -> None:
    given = np.random.default_rng(0).integers(0, 256, (2, 33, 34, 3), dtype=np.uint8)
    padded = np.pad(given, ((0, 0), (0, 3), (0, 2), (0, 0)), mode="edge")
    np.testing.assert_allclose(forward(small, given), forward(small, padded), atol=1e-6)


def scenes(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Red squares of 4 x 4 pixels, their (row, column), among noise and four squares of other colours."""
    given = rng.integers(0, 80, (n, 64, 64, 3), dtype=np.uint8)
    places = rng.integers(0, 61, (n, 5, 2))
    colours = rng.integers((0, 120, 120), 256, (n, 5, 3))
    colours[:, -1] = (255, 40, 40)
    for image, corners, paints in zip(given, places, colours, strict=True):
        for (row, column), paint in zip(corners, paints, strict=True):
            image[row : row + 4, column : column + 4] = paint
    return given, places[:, -1].astype(np.float32)


@pytest.mark.long
def test_it_learns_where_a_small_object_is() -> None:
    network = SmallVision((64, 64, 3), features=2, key=jax.random.key(1))
    optimiser = optax.adam(3e-3)

    @eqx.filter_jit
    def step(network: SmallVision, state: Any, given: jax.Array, places: jax.Array):
        def loss(network: SmallVision) -> jax.Array:
            return jnp.mean((network(given) - (places / 30 - 1)) ** 2)

        updates, state = optimiser.update(eqx.filter_grad(loss)(network), state)
        return eqx.apply_updates(network, updates), state

    held_out, places = scenes(100, np.random.default_rng(1))

    def error(network: SmallVision) -> float:
        """Mean distance in pixels."""
        found = 30 * (np.asarray(forward(network, held_out)) + 1)
        return float(np.linalg.norm(found - places, axis=1).mean())

    assert error(network) > 15
    state, rng = optimiser.init(eqx.filter(network, eqx.is_array)), np.random.default_rng(0)
    for _ in range(150):
        network, state = step(network, state, *scenes(32, rng))
    assert error(network) < 2
