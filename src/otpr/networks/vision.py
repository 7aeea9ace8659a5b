"""Networks from camera images to features: a small one for CPUs, and the ResNet-18 of diffusion policies.

Images are (n, height, width, channels) of `uint8`. A network processes all images of a batch at once;
`jax.vmap` gives the same features in the same time.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from numpy.typing import NDArray

from otpr.errors import OtprError, unknown_name
from otpr.networks.augmentation import random_crop
from otpr.networks.convolution import Convolution, GroupNorm, max_pool, spatial_softmax
from otpr.networks.torch_weights import with_torch_weights

SMALLEST = 32
"""The smallest number of pixels along each axis of an image."""


class VisionNetwork(eqx.Module):
    """Maps images to features. The constructor takes the images' shape, the entries of `about`, and a key."""

    kind: ClassVar[str]
    """The network's name in `VISION`."""

    @abc.abstractmethod
    def __call__(
        self, images: UInt8[Array, "n h w c"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "n f"]:
        """The features of n images.

        Args:
            images: images of the network's input shape.
            key: given during training only; draws the network's randomness.
        """

    @property
    @abc.abstractmethod
    def feature_dim(self) -> int:
        """f, the number of features of an image."""

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """The constructor's arguments other than the shape and the key, as a JSON document."""


class SmallVision(VisionNetwork):
    """Patches of 4 x 4 pixels, convolutions over 3 x 3 patches, and a spatial softmax.

    The network is designed for images of 64 to 96 pixels and one CPU core. The spatial softmax locates
    objects more finely than a patch.

    Args:
        shape: (height, width, channels) of the images; sides that are not a multiple of 4 are padded with
            their last pixels.
        channels: channels of the convolutions, which is the number of keypoints; 32 take twice the time of
            24.
        depth: number of 3 x 3 convolutions.
        features: number of output features.
        key: draws the weights.

    Raises:
        OtprError: the images are smaller than 32 pixels.
    """

    stem: Convolution
    layers: tuple[Convolution, ...]
    out: eqx.nn.Linear

    kind: ClassVar[str] = "small"
    PATCH: ClassVar[int] = 4

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int = 24,
        depth: int = 2,
        features: int = 64,
        key: PRNGKeyArray,
    ):
        _check_size(shape[:2])
        stem_key, out_key, *keys = jax.random.split(key, depth + 2)
        # activations keep their scale through a ReLU (He et al., 2015)
        self.stem = Convolution(
            (shape[2], channels),
            (self.PATCH, self.PATCH),
            stride=self.PATCH,
            padding=((0, 0), (0, 0)),
            spread=math.sqrt(2 / (shape[2] * self.PATCH**2)),
            key=stem_key,
        )
        spread = math.sqrt(2 / (channels * 9))
        self.layers = tuple(Convolution((channels, channels), (3, 3), spread=spread, key=k) for k in keys)
        self.out = eqx.nn.Linear(2 * channels, features, key=out_key)

    @property
    def feature_dim(self) -> int:
        """See `VisionNetwork.feature_dim`."""
        return self.out.weight.shape[0]

    def about(self) -> dict[str, Any]:
        """See `VisionNetwork.about`."""
        return {
            "channels": self.stem.kernel.shape[-1],
            "depth": len(self.layers),
            "features": self.feature_dim,
        }

    def __call__(
        self, images: UInt8[Array, "n h w c"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "n f"]:
        """See `VisionNetwork.__call__`; the network is deterministic."""
        x = images
        for axis in (1, 2):
            if missing := -x.shape[axis] % self.PATCH:
                last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
                x = jnp.concatenate([x, *[last] * missing], axis=axis)
        x = jax.nn.relu(self.stem(x.astype(jnp.float32) / 127.5 - 1))
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return _linear(self.out, spatial_softmax(x))


class FixedBatchNorm(eqx.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) in evaluation mode, with fixed statistics.

    Args:
        channels: their number.
    """

    weight: Float[Array, " c"]
    bias: Float[Array, " c"]
    running_mean: Float[Array, " c"]
    running_var: Float[Array, " c"]

    def __init__(self, channels: int):
        self.weight, self.bias = jnp.ones(channels), jnp.zeros(channels)
        self.running_mean, self.running_var = jnp.zeros(channels), jnp.ones(channels)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Normalise by the stored mean and variance, which have no gradient."""
        mean, variance = jax.lax.stop_gradient((self.running_mean, self.running_var))
        return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.weight + self.bias


Norm = GroupNorm | FixedBatchNorm


class ResidualBlock(eqx.Module):
    """A residual block of two 3 x 3 convolutions; a 1 x 1 convolution is the shortcut if the shape changes.

    Source: He et al., "Deep residual learning for image recognition", 2016.

    Args:
        channels: (in, out), multiples of 16.
        stride: of the first convolution.
        norm: see `ResNet18`.
        key: draws the weights.
    """

    conv1: Convolution
    norm1: Norm
    conv2: Convolution
    norm2: Norm
    shortcut: tuple[Convolution, Norm] | None

    def __init__(self, channels: tuple[int, int], stride: int, norm: str, *, key: PRNGKeyArray):
        first, second, third = jax.random.split(key, 3)
        self.conv1 = _resnet_convolution(channels, 3, stride, first)
        self.norm1 = _norm(norm, channels[1])
        self.conv2 = _resnet_convolution((channels[1], channels[1]), 3, 1, second)
        self.norm2 = _norm(norm, channels[1])
        changes = stride > 1 or channels[0] != channels[1]
        shortcut = _resnet_convolution(channels, 1, stride, third)
        self.shortcut = (shortcut, _norm(norm, channels[1])) if changes else None

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n rows columns o"]:
        """The block's output."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.shortcut is not None:
            convolution, norm = self.shortcut
            x = norm(convolution(x))
        return jax.nn.relu(x + y)


class ResNet18(VisionNetwork):
    """ResNet-18, keypoints by spatial softmax, and a linear layer with ReLU.

    This is the encoder of diffusion policies (Chi et al., 2023) and LeRobot's `DiffusionRgbEncoder`: groups
    of 16 channels in the normalisation, no final pooling, a 1 x 1 convolution to the keypoints' channels, and
    twice as many features as keypoints. `with_torch_weights` takes LeRobot's weights.

    Args:
        shape: (height, width, channels) of the images.
        keypoints: number of keypoints.
        crop_shape: rows and columns of the crop that the network sees, at a random position during training
            and central otherwise; None: the whole image.
        mean: subtracted from each channel, in units of 255; () stands for 0.
        std: divisor of each channel after the subtraction; () stands for 1.
        norm: "group", or "batch" with fixed statistics, for networks trained elsewhere.
        key: draws the weights.

    Raises:
        OtprError: the crop is larger than the images, the visible part is smaller than 32 pixels, or there is
            not one mean and one positive deviation for each channel.
    """

    conv1: Convolution
    norm1: Norm
    stages: tuple[tuple[ResidualBlock, ResidualBlock], ...]
    keypoints: Convolution
    out: eqx.nn.Linear
    crop_shape: tuple[int, int] | None = eqx.field(static=True)
    mean: tuple[float, ...] = eqx.field(static=True)
    std: tuple[float, ...] = eqx.field(static=True)

    kind: ClassVar[str] = "resnet18"

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        keypoints: int = 32,
        crop_shape: Sequence[int] | None = None,
        mean: Sequence[float] = (),
        std: Sequence[float] = (),
        norm: str = "group",
        key: PRNGKeyArray,
    ):
        height, width, channels = shape
        if crop_shape is not None and (crop_shape[0] > height or crop_shape[1] > width):
            raise OtprError(
                f"crop_shape is {tuple(crop_shape)}, given images of {(height, width)}; make it smaller."
            )
        self.crop_shape = None if crop_shape is None else (crop_shape[0], crop_shape[1])
        _check_size(self.crop_shape or (height, width))
        self.mean = tuple(float(x) for x in mean) or (0.0,) * channels
        self.std = tuple(float(x) for x in std) or (1.0,) * channels
        if not len(self.mean) == len(self.std) == channels or min(self.std) <= 0:
            raise OtprError(
                f"Images of {channels} channels need as many means and deviations, these above 0; given "
                f"{self.mean} and {self.std}."
            )
        stem_key, keypoint_key, out_key, *keys = jax.random.split(key, 11)
        self.conv1 = _resnet_convolution((channels, 64), 7, 2, stem_key)
        self.norm1 = _norm(norm, 64)
        stages: list[tuple[ResidualBlock, ResidualBlock]] = []
        for stage, (before, after) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
            first = ResidualBlock((before, after), 1 if stage == 0 else 2, norm, key=keys[2 * stage])
            stages.append((first, ResidualBlock((after, after), 1, norm, key=keys[2 * stage + 1])))
        self.stages = tuple(stages)
        self.keypoints = Convolution((512, keypoints), (1, 1), key=keypoint_key)
        self.out = eqx.nn.Linear(2 * keypoints, 2 * keypoints, key=out_key)

    @property
    def feature_dim(self) -> int:
        """See `VisionNetwork.feature_dim`."""
        return self.out.weight.shape[0]

    def about(self) -> dict[str, Any]:
        """See `VisionNetwork.about`."""
        return {
            "keypoints": self.keypoints.kernel.shape[-1],
            "crop_shape": None if self.crop_shape is None else list(self.crop_shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "norm": "group" if isinstance(self.norm1, GroupNorm) else "batch",
        }

    def __call__(
        self, images: UInt8[Array, "n h w c"], key: PRNGKeyArray | None = None
    ) -> Float[Array, "n f"]:
        """See `VisionNetwork.__call__`; each image is cropped independently."""
        x = self.seen(images, key).astype(jnp.float32) / 255
        x = (x - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        x = max_pool(jax.nn.relu(self.norm1(self.conv1(x))), 3, 2, 1)
        for first, second in self.stages:
            x = second(first(x))
        return jax.nn.relu(_linear(self.out, spatial_softmax(self.keypoints(x))))

    def seen(
        self, images: UInt8[Array, "n h w c"], key: PRNGKeyArray | None
    ) -> UInt8[Array, "n rows columns c"]:
        """The part of images that the network sees: crops or whole images."""
        if self.crop_shape is None:
            return images
        if key is not None:
            return random_crop(images, self.crop_shape, key)
        rows, columns = self.crop_shape
        # rounded to even, as torchvision does
        top, left = round((images.shape[1] - rows) / 2), round((images.shape[2] - columns) / 2)
        return images[:, top : top + rows, left : left + columns]

    def torch_modules(self) -> dict[str, Any]:
        """The modules by their names in the state dict of LeRobot's encoder."""
        modules: dict[str, Any] = {"backbone.0": self.conv1, "backbone.1": self.norm1}
        for i, stage in enumerate(self.stages, 4):  # 2 and 3 are the ReLU and the pooling
            for j, block in enumerate(stage):
                prefix = f"backbone.{i}.{j}"
                modules |= {f"{prefix}.conv1": block.conv1, f"{prefix}.bn1": block.norm1}
                modules |= {f"{prefix}.conv2": block.conv2, f"{prefix}.bn2": block.norm2}
                if block.shortcut is not None:
                    modules |= {f"{prefix}.downsample.{k}": part for k, part in enumerate(block.shortcut)}
        return {**modules, "pool.nets": self.keypoints, "out": self.out}

    def with_torch_weights(self, arrays: Mapping[str, NDArray[Any]]) -> ResNet18:
        """The network with weights of LeRobot's `DiffusionRgbEncoder`. Its own may be `jax.ShapeDtypeStruct`.

        Args:
            arrays: the state dict. The grid of the spatial softmax and the batch counters of normalisations
                are not needed.

        Raises:
            OtprError: an array is missing, superfluous, or has another shape.
        """
        unneeded = ("pool.pos_grid", ".num_batches_tracked")
        given = {name: x for name, x in arrays.items() if not name.endswith(unneeded)}
        what = f"a ResNet-18 with {self.about()['norm']} normalisation"
        return with_torch_weights(self, ResNet18.torch_modules, given, what)


def _resnet_convolution(
    channels: tuple[int, int], window: int, stride: int, key: PRNGKeyArray
) -> Convolution:
    """A convolution without bias, initialised as in torchvision (He et al., 2015)."""
    spread = math.sqrt(2 / (channels[1] * window**2))
    return Convolution(channels, (window, window), stride=stride, use_bias=False, spread=spread, key=key)


def _linear(layer: eqx.nn.Linear, x: Float[Array, "n i"]) -> Float[Array, "n o"]:
    return x @ layer.weight.T + cast(Array, layer.bias)


def _norm(kind: str, channels: int) -> Norm:
    if kind not in ("group", "batch"):
        raise unknown_name("normalisation", kind, ("group", "batch"))
    return GroupNorm(channels // 16, channels) if kind == "group" else FixedBatchNorm(channels)


def _check_size(size: tuple[int, ...]) -> None:
    if min(size) < SMALLEST:
        raise OtprError(
            f"A vision network needs at least {SMALLEST} pixels along each axis, given {size[0]} x {size[1]}."
        )


VISION: dict[str, Callable[..., VisionNetwork]] = {
    network.kind: network for network in (SmallVision, ResNet18)
}
"""Networks by name; each is called with the images' shape, the entries of `about`, and a key."""
