"""What a diffusion network predicts, and conversions between predictions.

A noisy sample is x = signal * clean + sigma * noise, with signal^2 + sigma^2 = 1. A network may predict the
noise (Ho et al., 2020), the clean sample, or the velocity signal * noise - sigma * clean (Salimans and Ho,
"Progressive distillation for fast sampling of diffusion models", 2022, appendix D).
"""

from __future__ import annotations

from typing import Literal, assert_never

from jaxtyping import Array

Prediction = Literal["noise", "sample", "velocity"]


def target(prediction: Prediction, clean: Array, noise: Array, signal: Array, sigma: Array) -> Array:
    """The training target of the network; `signal` and `sigma` broadcast against the samples."""
    match prediction:
        case "noise":
            return noise
        case "sample":
            return clean
        case "velocity":
            return signal * noise - sigma * clean
        case _:
            assert_never(prediction)


def to_noise(prediction: Prediction, output: Array, noisy: Array, signal: Array, sigma: Array) -> Array:
    """The noise that a network's output implies; `signal` and `sigma` broadcast against the samples."""
    match prediction:
        case "noise":
            return output
        case "sample":
            return (noisy - signal * output) / sigma
        case "velocity":
            return signal * output + sigma * noisy
        case _:
            assert_never(prediction)
