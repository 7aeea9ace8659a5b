"""Whether a fine-tuned policy may take the place of the pre-trained one, and whether it chooses.

Untrained critics can choose worse than chance, and the fine-tuned policy then causes failures that the
pre-trained one would not. Later, one sample of a policy may succeed more often than the sample that its
critics choose. The pre-trained policy, the fine-tuned policy and one sample of it therefore collect whole
rounds of episodes, and their outcomes decide which one is deployed. A policy collects a round with the
probability that it is the best one (Thompson sampling), where the fine-tuned policy gets the benefit of the
doubt: an algorithm learns most from the outcomes of what it does. To be deployed it has to be shown better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import beta

FADES = 0.7
"""Discount per round of the fine-tuned policy's outcomes, because the policy changes."""

PRIOR = 2.0
"""Weight of the fine-tuned policy's priors, in episodes: at the pre-trained policy's success rate for what is
deployed, and successes for who collects."""

Arm = Literal["base", "learnt", "single"]
"""Who collects a round: the pre-trained policy, the fine-tuned policy, or one sample of the latter.

A fine-tuned policy that draws one sample anyway is "learnt".
"""

NAMES: dict[Arm, str] = {"base": "pre-trained", "learnt": "fine-tuned", "single": "fine-tuned, one sample"}
"""The arms in summary.json and in what is printed."""


class Outcomes(NamedTuple):
    """Counts of one policy's outcomes; old episodes may count less than 1."""

    successes: float = 0.0
    failures: float = 0.0

    def and_also(self, outcomes: Sequence[bool]) -> Outcomes:
        """The counts with another round added."""
        wins = sum(outcomes)
        return Outcomes(self.successes + wins, self.failures + len(outcomes) - wins)

    def faded(self) -> Outcomes:
        """The counts a round later, where the policy has changed."""
        return Outcomes(FADES * self.successes, FADES * self.failures)


NONE = Outcomes()


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The evidence of training episodes on all arms.

    Each success rate has a beta distribution: the pre-trained policy's by its outcomes and a uniform prior,
    the others' by their outcomes and a prior of `PRIOR` episodes at the pre-trained policy's success rate
    (`drawn` has another one for "learnt").

    Args:
        base: outcomes of the pre-trained policy, which does not change.
        learnt: discounted outcomes of the fine-tuned policy.
        single: discounted outcomes of one sample of it.
    """

    base: Outcomes = NONE
    learnt: Outcomes = NONE
    single: Outcomes = NONE

    def after(self, arm: Arm, outcomes: Sequence[bool]) -> Evidence:
        """The evidence after a round of an arm."""
        faded = Evidence(self.base, self.learnt.faded(), self.single.faded())
        return dataclasses.replace(faded, **{arm: getattr(faded, arm).and_also(outcomes)})

    def better(self, arm: Arm, than: Arm = "base") -> float:
        """The probability that an arm succeeds more often than another one."""
        (a, b), (c, d) = self._parameters(than), self._parameters(arm)
        # midpoint rule over 2,000 quantiles of one distribution
        at = (np.arange(2_000) + 0.5) / 2_000
        return float(beta.sf(beta.ppf(at, a, b), c, d).mean())

    def metrics(self, arms: Sequence[Arm], acted: Arm) -> dict[str, float]:
        """Who collected the round, and how likely each arm is better than the pre-trained policy."""
        acts = {f"safeguard/{arm}_acts": float(arm == acted) for arm in arms}
        return acts | {f"safeguard/{arm}_better": self.better(arm) for arm in arms}

    def drawn(self, arms: Sequence[Arm], seed: Sequence[int]) -> Arm:
        """One of the arms or "base", each with the probability that it succeeds most often.

        The prior of "learnt" is here a uniform one and `PRIOR` successes.
        """
        random = np.random.default_rng(seed)
        of_all: list[Arm] = ["base", *arms]
        parameters = {arm: self._parameters(arm) for arm in of_all}
        parameters["learnt"] = (1 + PRIOR + self.learnt.successes, 1 + self.learnt.failures)
        rates = [random.beta(*parameters[arm]) for arm in of_all]
        return of_all[int(np.argmax(rates))]

    def deployed(self, arms: Sequence[Arm], least: float, now: Arm) -> Arm:
        """The arm to deploy, or "base".

        Of several arms that qualify, a later one is deployed only if it is better than the one before it.

        Args:
            arms: the arms beside "base".
            least: the probability of being better that an arm needs.
            now: the arm that is deployed, which stays while it is more probably better than "base" than not.
        """
        qualified: list[Arm] = [arm for arm in arms if self.better(arm) >= least]
        if not qualified:
            return now if now in arms and self.better(now) >= 0.5 else "base"
        chosen = qualified[0]
        for arm in qualified[1:]:
            if self.better(arm, than=chosen) >= least:
                chosen = arm
        return chosen

    def _parameters(self, arm: Arm) -> tuple[float, float]:
        a, b = self.base.successes + 1, self.base.failures + 1
        if arm == "base":
            return a, b
        rate, outcomes = a / (a + b), getattr(self, arm)
        return outcomes.successes + PRIOR * rate, outcomes.failures + PRIOR * (1 - rate)
