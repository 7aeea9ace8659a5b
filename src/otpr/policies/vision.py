"""The encoder for images: a network for each camera, beside normalised vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.errors import OtprError, unknown_name
from otpr.networks.augmentation import random_shift
from otpr.networks.vision import VISION, VisionNetwork
from otpr.policies.encoder import Encoder, Observations, VectorEncoder
from otpr.policies.generators import Entry
from otpr.spec import Spec


class VisionEncoder(Encoder):
    """Concatenates the normalised vectors with the features of each camera's images.

    Args:
        vectors: the encoder of the vector entries; None if there are none.
        networks: by the name of the image entry; a single network named "" if all images share it.
        cameras: the names of the image entries, in alphabetical order.
    """

    vectors: VectorEncoder | None
    networks: dict[str, VisionNetwork]
    cameras: tuple[str, ...] = eqx.field(static=True)
    kind: ClassVar[str] = "vision"
    entries: ClassVar[Mapping[str, Entry]] = {
        **VectorEncoder.entries,
        "network": "name",
        "shared": "flag",
        "crop_shape": "optional size",
        "mean": "numbers",
        "std": "numbers",
        "norm": "name",
    }
    block: ClassVar[int] = 32

    @classmethod
    def new(
        cls,
        spec: Spec,
        vectors: VectorEncoder | None,
        *,
        network: str,
        shared: bool,
        sizes: Mapping[str, Mapping[str, Any]],
        key: PRNGKeyArray,
    ) -> Self:
        """An untrained encoder.

        Args:
            spec: a spec with at least one image.
            vectors: see the class.
            network: a name in `otpr.networks.vision.VISION`.
            shared: whether one network sees all images, which must then have the same shape.
            sizes: the sizes of each network by image entry, or "" if it is shared; see the network's class. A
                network that is left out has the defaults.
            key: draws the weights.

        Raises:
            OtprError: there is no such network, it does not take images of these shapes, or images of
                different shapes are to share one.
        """
        if network not in VISION:
            raise unknown_name("vision network", network, VISION)
        shapes = {name: entry.shape for name, entry in spec.images.items()}
        if shared:
            if len(set(shapes.values())) > 1:
                listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
                raise OtprError(
                    f"Images that share a network must have one shape, and have several: {listed}. Leave out "
                    "--shared-vision, or collect frames of one size."
                )
            shapes = {"": next(iter(shapes.values()))}
        keys = jax.random.split(key, len(shapes))
        made = {
            # each kind has its own sizes
            name: VISION[network](shape, key=k, **sizes.get(name, {}))  # pyright: ignore[reportCallIssue]
            for (name, shape), k in zip(shapes.items(), keys, strict=True)
        }
        return cls(vectors, made, tuple(spec.images))

    @property
    def feature_dim(self) -> int:
        """The sum of the lengths of the vectors and of the features of all images."""
        vectors = 0 if self.vectors is None else self.vectors.feature_dim
        return vectors + sum(self._network(name).feature_dim for name in self.cameras)

    def _network(self, camera: str) -> VisionNetwork:
        return self.networks[camera] if camera in self.networks else self.networks[""]

    def on_device(self, observations: Observations) -> Observations:
        """See `Encoder.on_device`."""
        if self.vectors is None:
            return observations
        vectors = {name: x for name, x in observations.items() if name not in self.cameras}
        return {**observations, **self.vectors.on_device(vectors)}

    def __call__(self, observations: Observations, key: PRNGKeyArray | None = None) -> Float[Array, "n f"]:
        """See `Encoder.__call__`. With a key, the networks run in training mode."""
        keys = [None] * len(self.cameras) if key is None else [*jax.random.split(key, len(self.cameras))]
        parts = [] if self.vectors is None else [jax.lax.stop_gradient(self.vectors)(observations)]
        for name, k in zip(self.cameras, keys, strict=True):
            parts.append(self._network(name)(observations[name], k))
        return jnp.concatenate(parts, axis=-1)

    def training_states(self, observations: Observations, pad: int, key: PRNGKeyArray) -> Float[Array, "n s"]:
        """The states of n decisions for training the encoder, with a random shift of each decision's images.

        Args:
            observations: each entry (n, history, *shape), as `on_device` gives it.
            pad: the largest shift in pixels; see `random_shift`.
            key: draws the shifts and any randomness in the networks.
        """
        shift_key, network_key = jax.random.split(key)
        shifted = dict(observations)
        if pad:
            for i, name in enumerate(self.cameras):
                shifted[name] = random_shift(observations[name], pad, jax.random.fold_in(shift_key, i))
        n, history = shifted[self.cameras[0]].shape[:2]
        flat = {name: x.reshape(n * history, *x.shape[2:]) for name, x in shifted.items()}
        return self(flat, network_key).reshape(n, -1)

    def about(self) -> dict[str, Any]:
        """The kind and the sizes of the networks, and the normalisation of vectors."""
        (kind,) = {name for name, one in VISION.items() for net in self.networks.values() if type(net) is one}
        about = {
            "network": kind,
            "shared": "" in self.networks,
            "images": {name: network.about() for name, network in self.networks.items()},
        }
        return about if self.vectors is None else {**about, "vectors": self.vectors.about()}

    @classmethod
    def skeleton(cls, about: dict[str, Any], spec: Spec) -> VisionEncoder:
        """See `Encoder.skeleton`."""
        vectors = VectorEncoder.skeleton(about["vectors"], vector_part(spec)) if spec.vectors else None
        of_each = {name: about["images"][name] for name in ([""] if about["shared"] else spec.images)}
        return cls.new(
            spec,
            vectors,
            network=about["network"],
            shared=about["shared"],
            sizes=of_each,
            key=jax.random.key(0),
        )


def vector_part(spec: Spec) -> Spec:
    """The spec without its images. It must have vectors."""
    return dataclasses.replace(spec, observation=spec.vectors)
