"""Whether a fine-tuned policy may take the place of the pre-trained one.

Critics that know next to nothing choose worse than chance, and a robot that follows them breaks things that
the pre-trained policy would not. So each of the two collects whole rounds of episodes, and their outcomes
decide which is deployed. A policy is given a round with the probability that it is the better one (Thompson
sampling): a fine-tuned policy that fails is hardly run, and one that succeeds soon collects every round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

FADES = 0.7
"""What an outcome of the fine-tuned policy counts a round later: that policy has changed since."""

PRIOR = 2.0
"""How many episodes of the pre-trained policy's success rate a fine-tuned one begins with."""


class Outcomes(NamedTuple):
    """Episodes of one policy; old ones may count less than 1."""

    successes: float = 0.0
    failures: float = 0.0

    def and_also(self, outcomes: Sequence[bool]) -> Outcomes:
        """With those of another round."""
        wins = sum(outcomes)
        return Outcomes(self.successes + wins, self.failures + len(outcomes) - wins)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What training episodes say of both policies.

    The success rate of either has a beta distribution: the pre-trained policy's by its outcomes and a uniform
    prior, the fine-tuned one's by its outcomes and a prior of `PRIOR` episodes as the pre-trained one's.

    Args:
        base: of the pre-trained policy, which does not change.
        learnt: of the fine-tuned policy, fading.
    """

    base: Outcomes
    learnt: Outcomes

    def after_base(self, outcomes: Sequence[bool]) -> Evidence:
        """After a round of the pre-trained policy."""
        return Evidence(self.base.and_also(outcomes), self._faded())

    def after_learnt(self, outcomes: Sequence[bool]) -> Evidence:
        """After a round of the fine-tuned policy."""
        return Evidence(self.base, self._faded().and_also(outcomes))

    def _faded(self) -> Outcomes:
        return Outcomes(FADES * self.learnt.successes, FADES * self.learnt.failures)

    def better(self) -> float:
        """The probability that the fine-tuned policy succeeds more often than the pre-trained one."""
        (a, b), (c, d) = self._parameters()
        # by quantiles of the one, a probability of the other; the middles of 2,000 intervals
        at = (np.arange(2_000) + 0.5) / 2_000
        return float(beta.sf(beta.ppf(at, a, b), c, d).mean())

    def favours_learnt(self, seed: Sequence[int]) -> bool:
        """One draw: true with the probability `better`."""
        (a, b), (c, d) = self._parameters()
        random = np.random.default_rng(seed)
        return bool(random.beta(c, d) > random.beta(a, b))

    def _parameters(self) -> tuple[tuple[float, float], tuple[float, float]]:
        a, b = self.base.successes + 1, self.base.failures + 1
        rate = a / (a + b)
        return (a, b), (self.learnt.successes + PRIOR * rate, self.learnt.failures + PRIOR * (1 - rate))
