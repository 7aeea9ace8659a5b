"""What acts: whatever offers plans for observations, here or in another process."""

from __future__ import annotations

from typing import Protocol

from jaxtyping import Array, Float, PRNGKeyArray

from otpr.policies.encoder import Observations
from otpr.policies.prefix import Prefix
from otpr.spec import Spec


class Proposer(Protocol):
    """Offers plans, asked from the host. `otpr.policies.policy.Policy` is one, by its generator.

    A chooser needs nothing else of it: algorithms that only choose work with any proposer, those that train a
    generator need a policy that has it.
    """

    @property
    def spec(self) -> Spec:
        """What it takes and gives."""
        ...

    def propose(
        self, observations: Observations, keys: PRNGKeyArray, n: int, prefixes: Prefix | None = None
    ) -> Float[Array, "b n h a"]:
        """`n` plans for each of b decisions.

        Args:
            observations: by entry name, (b, history, *shape), raw.
            keys: b of them, one a decision: the same key and observation give the same plans.
            n: how many.
            prefixes: what the plans of each decision begin with; None: nothing is given.

        Returns:
            (b, n, horizon, action_dim), entries in [-1, 1].
        """
        ...
