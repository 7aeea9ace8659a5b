"""Whether a fine-tuned policy may take the place of the pre-trained one.

Untrained critics can choose worse than chance, and the fine-tuned policy then causes failures that the
pre-trained one would not. Each of the two policies therefore collects whole rounds of episodes, and their
outcomes decide which one is deployed. A policy collects a round with the probability that it is the better
one (Thompson sampling): a failing fine-tuned policy rarely runs, and a successful one soon collects every
round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

FADES = 0.7
"""Discount per round of the fine-tuned policy's outcomes, because the policy changes."""

PRIOR = 2.0
"""Weight of the fine-tuned policy's prior, in episodes at the pre-trained policy's success rate."""


class Outcomes(NamedTuple):
    """Counts of one policy's outcomes; old episodes may count less than 1."""

    successes: float = 0.0
    failures: float = 0.0

    def and_also(self, outcomes: Sequence[bool]) -> Outcomes:
        """The counts with another round added."""
        wins = sum(outcomes)
        return Outcomes(self.successes + wins, self.failures + len(outcomes) - wins)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence of training episodes on both policies.

    The success rate of either has a beta distribution: the pre-trained policy's by its outcomes and a uniform
    prior, the fine-tuned one's by its outcomes and a prior of `PRIOR` episodes as the pre-trained one's.

    Args:
        base: outcomes of the pre-trained policy, which does not change.
        learnt: discounted outcomes of the fine-tuned policy.
    """

    base: Outcomes
    learnt: Outcomes

    def after_base(self, outcomes: Sequence[bool]) -> Evidence:
        """The evidence after a round of the pre-trained policy."""
        return Evidence(self.base.and_also(outcomes), self._faded())

    def after_learnt(self, outcomes: Sequence[bool]) -> Evidence:
        """The evidence after a round of the fine-tuned policy."""
        return Evidence(self.base, self._faded().and_also(outcomes))

    def _faded(self) -> Outcomes:
        return Outcomes(FADES * self.learnt.successes, FADES * self.learnt.failures)

    def better(self) -> float:
        """The probability that the fine-tuned policy succeeds more often than the pre-trained one."""
        (a, b), (c, d) = self._parameters()
        # midpoint rule over 2,000 quantiles of one distribution
        at = (np.arange(2_000) + 0.5) / 2_000
        return float(beta.sf(beta.ppf(at, a, b), c, d).mean())

    def favours_learnt(self, seed: Sequence[int]) -> bool:
        """A random draw that is True with probability `better`."""
        (a, b), (c, d) = self._parameters()
        random = np.random.default_rng(seed)
        return bool(random.beta(c, d) > random.beta(a, b))

    def _parameters(self) -> tuple[tuple[float, float], tuple[float, float]]:
        a, b = self.base.successes + 1, self.base.failures + 1
        rate = a / (a + b)
        return (a, b), (self.learnt.successes + PRIOR * rate, self.learnt.failures + PRIOR * (1 - rate))
