"""Reset seeds for demonstrations, training rollouts and evaluation.

Reset seeds are integers in [0, 2**31), divided into three disjoint ranges:

- evaluation:      [0, 2**29),      seed i                                  (the same for every run)
- demonstrations:  [2**29, 2**30),  2**29 + (run_seed * 2**16 + i) mod 2**29
- training:        [2**30, 2**31),  2**30 + (run_seed * 2**18 + i) mod 2**30

Evaluation therefore never uses an initial condition of demonstrations or training, and two runs share initial
conditions only if their seeds agree modulo 2**13 (demonstrations) or 2**12 (training).
"""

from __future__ import annotations

_EVALUATION_COUNT = 2**29
_DEMONSTRATION_COUNT = 2**16
_TRAINING_COUNT = 2**18


def demonstration_seed(seed: int, i: int) -> int:
    """The reset seed of the i-th attempt at a demonstration, 0 <= i < 2**16, in the run with `seed` >= 0."""
    _check(seed, i, _DEMONSTRATION_COUNT)
    return 2**29 + (seed * _DEMONSTRATION_COUNT + i) % 2**29


def training_seed(seed: int, i: int) -> int:
    """The reset seed of the i-th training episode, 0 <= i < 2**18, in the run with `seed` >= 0."""
    _check(seed, i, _TRAINING_COUNT)
    return 2**30 + (seed * _TRAINING_COUNT + i) % 2**30


def evaluation_seed(i: int) -> int:
    """The reset seed of the i-th evaluation episode, 0 <= i < 2**29, equal for all runs."""
    _check(0, i, _EVALUATION_COUNT)
    return i


def _check(seed: int, i: int, count: int) -> None:
    if seed < 0:
        raise ValueError(f"The run seed must not be negative, given {seed}")
    if not 0 <= i < count:
        raise ValueError(f"The episode number must be in [0, {count}), given {i}")
