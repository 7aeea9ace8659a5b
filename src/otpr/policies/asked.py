"""A policy that only answers: in another process or another library, asked for plans, never trained.

Whatever offers plans is a `Source`. `Asked` is the generator that stands for it in a `Policy`: an encoder of
the policy's own makes the states that critics see, and a chooser picks among the plans that are offered.
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
"""Requests in a row that may fail before the source counts as broken for good."""


class Source(Protocol):
    """Offers plans for raw observations."""

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> Any:
        """`n` plans for each of b decisions.

        Args:
            observations: by entry name, (b, *shape), with `history` > 1 (b, history, *shape), oldest first.
            n: how many.
            seeds: of the draws, one a decision; where the same call gives the same plans, runs resume bit for
                bit.

        Returns:
            (b, n, horizon, action_dim) numbers in the environment's own units. Those beyond its bounds are
            clipped to them, as the environment itself does.
        """
        ...


class NoPlansError(OtprError):
    """A request to the source failed: it costs the episodes that were to be decided."""


class BrokenSourceError(OtprError):
    """The source failed too often in a row, or never answered at all."""


class Desk:
    """Asks a source, checks what it answers and counts its failures.

    Args:
        source: what is asked.
        spec: what the policy takes and gives.
        name: of the source, for errors.
    """

    def __init__(self, source: Source, spec: Spec, name: str):
        self.source, self.spec, self.name = source, spec, name
        self._failed, self._worked = 0, False

    def ask(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> np.ndarray:
        """The plans of `Source.propose`, (b, n, horizon, action_dim) float32 in [-1, 1].

        Args:
            observations: by entry name, (b, history, *shape).
            n: how many.
            seeds: b of them.

        Raises:
            NoPlansError: the source raised an error, or answered what are no such plans.
            BrokenSourceError: that was so `FAILURES` times in a row, or the first time.
        """
        if self.spec.history == 1:
            observations = {name: rows[:, 0] for name, rows in observations.items()}
        rows = len(next(iter(observations.values())))
        try:
            plans = self._checked(self.source.propose(observations, n, seeds), rows, n)
        except Exception as error:  # whatever it raises, it is not ours
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
    """Stands for a source; nothing of it is in the policy's files.

    Args:
        desk: where the source is asked; None in a policy that was read from its files.
    """

    desk: Desk | None = eqx.field(static=True, default=None)
    kind: ClassVar[str] = "asked"

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """Never done: compiled code cannot ask. `Policy` asks `offered` on the host.

        Raises:
            OtprError: always.
        """
        raise OtprError(
            "A policy that only answers cannot be sampled from a state: it is asked with observations."
        )

    def offered(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> np.ndarray:
        """See `Desk.ask`.

        Raises:
            OtprError: nobody is there to be asked.
        """
        if self.desk is None:
            raise OtprError(
                "This policy chooses among the plans of another policy, which is not in its files. Say where "
                "that is: `otpr evaluate --base ws://HOST:PORT`, in Python `policy.with_generator(...)`."
            )
        return self.desk.ask(observations, n, seeds)

    def about(self) -> dict[str, Any]:
        """Nothing: where a policy answers is not a thing to be read from a file."""
        return {}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> Asked:
        """See `Generator.skeleton`."""
        return cls()
