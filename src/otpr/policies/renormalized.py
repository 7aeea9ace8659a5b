"""A policy of another library with states that are normalised as ours are, and the same actions.

Critics and potentials see the states that a policy's encoder makes. Another library normalises observations
for its own network: LeRobot maps the range of each number in the demonstrations to [-1, 1], so that noise of
a micrometre becomes as large as a movement of a metre. Therefore the encoder normalises as ours do, and the
network's own normalisation comes after it (`Diffusion.states`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import LIMIT, Normalizer, VectorEncoder
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder, vector_part


def is_foreign(policy: Policy) -> bool:
    """Whether the policy has vectors that another library's normalisation makes the states of."""
    vectors = _vectors(policy)
    if vectors is None or not isinstance(policy.generator, Diffusion) or is_renormalized(policy):
        return False
    return any(x.limit != LIMIT or x.shift is not None for x in vectors.normalizers.values())


def is_renormalized(policy: Policy) -> bool:
    """Whether the policy is one that `renormalized` made."""
    return isinstance(policy.generator, Diffusion) and policy.generator.states is not None


def renormalized(policy: Policy, rows: Mapping[str, NDArray[Any]], resolution: float = 0.0) -> Policy:
    """The same policy, its vectors normalised by the statistics of some observations.

    Nothing is clipped, so that it acts as before, up to rounding.

    Args:
        policy: a foreign one (`is_foreign`), without a chooser.
        rows: its vector entries, each (n, o), raw.
        resolution: deviations that count as none; see `otpr.policies.encoder.varies`.
    """
    theirs = _vectors(policy)
    assert theirs is not None and policy.chooser is None
    limit = next(iter(theirs.normalizers.values())).limit
    fitted = VectorEncoder.fit(vector_part(policy.spec), rows, resolution)
    ours = {name: dataclasses.replace(x, limit=None) for name, x in fitted.normalizers.items()}
    parts = [_from(ours[name], theirs.normalizers[name]) for name in sorted(ours)]
    images = policy.encoder.feature_dim - theirs.feature_dim
    assert limit is None or not images, "features of images are not clipped"
    parts.append((np.zeros(images), np.ones(images), np.zeros(images)))
    mean, scale, shift = (
        jnp.asarray(np.tile(np.concatenate(part), policy.spec.history), jnp.float32)
        for part in zip(*parts, strict=True)
    )
    states = Normalizer(mean, scale, shift=shift, limit=limit)
    return _with(policy, VectorEncoder(ours), states)


def original(policy: Policy) -> Policy:
    """The policy whose network sees states as the encoder gives them: the inverse of `renormalized`.

    Args:
        policy: a diffusion policy without a chooser, which would see other states than it learnt from.
    """
    assert policy.chooser is None
    diffusion, ours = policy.diffusion, _vectors(policy)
    if diffusion.states is None:
        return policy
    assert ours is not None and diffusion.states.shift is not None
    found: dict[str, Normalizer] = {}
    first = 0
    for name in sorted(ours.normalizers):
        own = ours.normalizers[name]
        place = slice(first, first := first + own.mean.shape[0])
        then = [np.asarray(x, np.float64)[place] for x in (diffusion.states.mean, diffusion.states.scale)]
        shift = diffusion.states.shift[place]
        mean, scale = _mean(own), np.asarray(own.scale, np.float64)
        wide = mean + scale * then[0]
        high = wide.astype(np.float32)
        rest = None if own.rest is None else jnp.asarray((wide - high).astype(np.float32))
        found[name] = Normalizer(
            jnp.asarray(high), jnp.asarray(scale * then[1], jnp.float32), rest, shift, diffusion.states.limit
        )
    return _with(policy, VectorEncoder(found), None)


def _vectors(policy: Policy) -> VectorEncoder | None:
    encoder = policy.encoder
    if isinstance(encoder, VisionEncoder):
        return encoder.vectors
    return encoder if isinstance(encoder, VectorEncoder) else None


def _with(policy: Policy, vectors: VectorEncoder, states: Normalizer | None) -> Policy:
    """The policy with another encoder of its vectors, and what normalises states for its network."""
    seeing, diffusion = policy.encoder, dataclasses.replace(policy.diffusion, states=states)
    encoder = dataclasses.replace(seeing, vectors=vectors) if isinstance(seeing, VisionEncoder) else vectors
    return dataclasses.replace(policy, encoder=encoder, generator=diffusion)


def _from(ours: Normalizer, theirs: Normalizer) -> tuple[NDArray[np.float64], ...]:
    """Mean, scale and shift that make theirs of ours."""
    scale = np.asarray(ours.scale, np.float64)
    shift = np.zeros_like(scale) if theirs.shift is None else np.asarray(theirs.shift, np.float64)
    return (_mean(theirs) - _mean(ours)) / scale, np.asarray(theirs.scale, np.float64) / scale, shift


def _mean(normalizer: Normalizer) -> NDArray[np.float64]:
    mean = np.asarray(normalizer.mean, np.float64)
    return mean if normalizer.rest is None else mean + np.asarray(normalizer.rest, np.float64)
