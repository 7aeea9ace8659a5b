"""External policies, in another process or library, that are asked for plans and cannot be trained.

An object that offers plans is a `Source`. `Asked` is the generator that represents it in a `Policy`: the
policy's own encoder computes the states for the critics, and a chooser picks among the offered plans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.errors import OtprError
from otpr.policies.generators import Generator
from otpr.policies.units import to_unit
from otpr.spec import Spec

FAILURES = 10
"""Number of consecutive failed requests after which the source counts as broken."""


class Source(Protocol):
    """Offers plans for raw observations."""

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> Any:
        """Offer `n` plans for each of b decisions.

        Args:
            observations: by entry name, (b, *shape), with `history` > 1 (b, history, *shape), oldest first.
            n: number of plans for each decision.
            seeds: of the draws, one for each decision. If equal calls give equal plans, runs resume bit for
                bit.

        Returns:
            (b, n, horizon, action_dim) in the environment's own units. Values outside its bounds are clipped,
            as the environment itself does.
        """
        ...


class NoPlansError(OtprError):
    """A request to the source failed. The episodes that needed the decision are lost."""


class BrokenSourceError(OtprError):
    """The source failed too often in a row, or its first request failed."""


class Desk:
    """Asks a source, checks its answers and counts its failures.

    Args:
        source: the source of plans.
        spec: the policy's spec.
        name: the source's name, for errors.
    """

    def __init__(self, source: Source, spec: Spec, name: str):
        self.source, self.spec, self.name = source, spec, name
        self._failed, self._worked = 0, False

    def ask(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> np.ndarray:
        """Ask the source; returns plans (b, n, horizon, action_dim), float32 in [-1, 1].

        Args:
            observations: by entry name, (b, history, *shape).
            n: number of plans for each decision.
            seeds: one for each decision.

        Raises:
            NoPlansError: the source raised an error, or its answer has another shape or is not numeric.
            BrokenSourceError: this happened `FAILURES` times in a row, or at the first request.
        """
        if self.spec.history == 1:
            observations = {name: rows[:, 0] for name, rows in observations.items()}
        rows = len(next(iter(observations.values())))
        try:
            plans = self._checked(self.source.propose(observations, n, seeds), rows, n)
        except Exception as error:  # user code may raise anything
            self._failed += 1
            reason = f"{self.name} gave no plans ({type(error).__name__}: {str(error)[:500]})"
            if not self._worked:
                raise BrokenSourceError(f"{reason}. It has not answered once: mend it first.") from error
            if self._failed >= FAILURES:
                raise BrokenSourceError(f"{reason}, for the {self._failed}th time in a row.") from error
            raise NoPlansError(f"{reason}.") from error
        self._failed, self._worked = 0, True
        return plans

    def _checked(self, given: Any, rows: int, n: int) -> np.ndarray:
        plans = np.asarray(given, np.float64)
        expected = (rows, n, self.spec.horizon, self.spec.action_dim)
        if plans.shape != expected:
            raise ValueError(f"plans of shape {plans.shape}; expected {expected}")
        if not np.isfinite(plans).all():
            raise ValueError("plans that are not finite")
        return np.clip(to_unit(plans, self.spec), -1, 1).astype(np.float32)


class Asked(Generator):
    """A generator that represents a source. The policy's files store nothing of the source.

    Args:
        desk: asks the source; None in a policy that was read from files.
    """

    desk: Desk | None = eqx.field(static=True, default=None)
    kind: ClassVar[str] = "asked"

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """Not supported, because compiled code cannot ask a source. `Policy` calls `offered` on the host.

        Raises:
            OtprError: always.
        """
        raise OtprError(
            "A policy that only answers cannot be sampled from a state: it is asked with observations."
        )

    def offered(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> np.ndarray:
        """See `Desk.ask`.

        Raises:
            OtprError: there is no source to ask.
        """
        if self.desk is None:
            raise OtprError(
                "This policy chooses among the plans of another policy, which is not in its files. Say where "
                "that is: `otpr evaluate --base ws://HOST:PORT`, in Python `policy.with_generator(...)`."
            )
        return self.desk.ask(observations, n, seeds)

    def about(self) -> dict[str, Any]:
        """Empty: the address of a source is never read from a file."""
        return {}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> Asked:
        """See `Generator.skeleton`."""
        return cls()
