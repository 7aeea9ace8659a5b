"""Plans with given first actions, which a robot executes while the plan is being computed.

A plan is computed for the time of its observation. Meanwhile the robot executes some actions of the previous
plan, which are known in advance. A plan that begins with them continues where the robot is when the plan
arrives.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from otpr.spec import Spec


class Prefix(NamedTuple):
    """The given part of a plan, padded to a plan's length so that one compiled program serves any length."""

    actions: Float[Array, "*n h a"]  # zeros elsewhere
    given: Bool[Array, "*n h"]

    @classmethod
    def of(cls, actions: Float[Array, "*n d a"] | np.ndarray, spec: Spec) -> Self:
        """A prefix of the first d actions from the current step on, in plans of the spec's shape."""
        *leading, d, _ = actions.shape
        first = spec.offset
        pad = [(0, 0)] * len(leading) + [(first, spec.horizon - first - d), (0, 0)]
        step = jnp.arange(spec.horizon)
        given = jnp.broadcast_to((step >= first) & (step < first + d), (*leading, spec.horizon))
        return cls(jnp.pad(jnp.asarray(actions, jnp.float32), pad), given)

    @staticmethod
    def left(plans: Float[Array, "n h a"], d: int, spec: Spec) -> Float[Array, "n d a"]:
        """The d actions of plans after the executed ones, with which the next plans begin."""
        return plans[:, spec.executed.stop : spec.executed.stop + d]

    def alone(self) -> Prefix:
        """The prefix with a leading axis for one decision."""
        return Prefix(self.actions[None], self.given[None])

    def put(self, plans: Float[Array, "n h a"]) -> Float[Array, "n h a"]:
        """Overwrite the beginning of one decision's plans with the prefix."""
        return jnp.where(self.given[:, None], self.actions, plans)


def checked_prefix(given: Any, spec: Spec) -> np.ndarray:
    """A given prefix as (d, action_dim) float32.

    Raises:
        ValueError: the prefix has another shape, leaves fewer than `execute` actions of a plan, is not
            finite, or leaves [-1, 1].
    """
    try:
        actions = np.asarray(given, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"prefix is no array of numbers ({error}).") from error
    if actions.ndim != 2 or actions.shape[1] != spec.action_dim or len(actions) > spec.spare:
        ahead = spec.horizon - spec.offset
        raise ValueError(
            f"prefix has shape {actions.shape}; the policy takes at most {spec.spare} actions of "
            f"{spec.action_dim} numbers: its plans have {ahead} from the present on, of which {spec.execute} "
            "are executed after the prefix."
        )
    if not (np.abs(actions) <= 1 + 1e-6).all():
        raise ValueError("prefix must be finite and in [-1, 1].")
    return np.clip(actions, -1, 1)
