"""The interface of objects that offer plans for observations, in this process or another."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Array, Float, PRNGKeyArray

from otpr.policies.encoder import Observations
from otpr.policies.prefix import Prefix
from otpr.spec import Spec


class Proposer(Protocol):
    """Offers plans on request from the host. `otpr.policies.policy.Policy` implements it by its generator.

    Algorithms that only choose among plans work with any proposer. Algorithms that train a generator need a
    policy with one.
    """

    @property
    def spec(self) -> Spec:
        """The observations and actions of the proposer."""
        ...

    def propose(
        self, observations: Observations, keys: PRNGKeyArray, n: int, prefixes: Prefix | None = None
    ) -> Float[Array, "b n h a"]:
        """Offer `n` plans for each of b decisions.

        Args:
            observations: by entry name, (b, history, *shape), raw.
            keys: one for each decision. The same key and observation give the same plans.
            n: number of plans for each decision.
            prefixes: the actions that the plans of each decision begin with; None: the plans are free.

        Returns:
            (b, n, horizon, action_dim), entries in [-1, 1].
        """
        ...
