"""The interfaces of algorithms.

An `OffPolicyAgent` learns from batches of all experience, an `OnPolicyAgent` from whole rounds. A new
algorithm is a module in `otpr.agents` with a subclass of one of them as `AGENT`, and its settings as
`PRESETS`; docs/architecture.md describes the steps.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import equinox as eqx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.agents.parts.settings import at_least_zero, check_settings, count, rate
from otpr.data.experience import Collected, Experience
from otpr.data.store import Transitions
from otpr.policies.policy import Policy
from otpr.spec import Spec

Metrics = dict[str, Array]
"""Scalars by name. Metrics of one algorithm are named "ALGORITHM/...", shared ones "critic/..." and
"policy/..."."""


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """Settings that all algorithms share: discount, batches, and the amount of learning in each phase."""

    algorithm: ClassVar[str]
    """Name of the algorithm, which is that of its module."""
    only_chooses: ClassVar[bool] = False
    """Whether the algorithm accepts an external policy, for which it learns to choose among plans."""

    # discount of one environment step
    gamma: float = rate(0.99)
    # transitions of a gradient step
    batch_size: int = count(256)
    # gradient steps for each environment step
    update_ratio: float = at_least_zero(0.25)
    # gradient steps of the critics alone, once the first `warmup_steps` environment steps are there
    warmup_updates: int = count(1_000, least=0)
    # gradient steps from the demonstrations alone, before the first environment step
    offline_updates: int = count(0, least=0)

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: a value is out of range; the message names the field.
        """
        check_settings(self)

    @property
    def batch_parts(self) -> tuple[int, ...]:
        """Number of transitions in each part of a batch that is drawn separately."""
        return (self.batch_size,)

    def acting_spec(self, base: Spec) -> Spec:
        """The spec of the algorithm's policy, given that of the pre-trained policy; by default the same."""
        return base


class Agent(eqx.Module):
    """An algorithm with its whole state, as an immutable pytree."""

    config: eqx.AbstractVar[AgentConfig]

    @classmethod
    @abc.abstractmethod
    def create(cls, base: Policy, experience: Experience, config: Any, key: PRNGKeyArray) -> Self:
        """Create an untrained agent.

        Args:
            base: the pre-trained policy.
            experience: holds the demonstrations, which an algorithm may ignore.
            config: settings of the algorithm.
            key: draws the networks and all later randomness.

        Raises:
            OtprError: the algorithm does not support the policy or the demonstrations.
        """

    @abc.abstractmethod
    def deployed(self) -> Policy:
        """The policy that is evaluated and saved."""

    def exploring(self) -> Policy:
        """The policy that collects experience; by default the deployed one."""
        return self.deployed()


class OffPolicyAgent(Agent):
    """An algorithm that learns from batches of demonstrations and replay."""

    key: eqx.AbstractVar[PRNGKeyArray]

    critic_losses: ClassVar[tuple[str, ...]] = ()
    """Metrics of `update` that are losses of the critics at the batch's states (see `states_at`)."""
    policy_losses: ClassVar[tuple[str, ...]] = ()
    """Metrics of `update` that are losses of the policy there. An encoder may learn from both."""

    @abc.abstractmethod
    def draw(self, experience: Experience, key: PRNGKeyArray) -> Any:
        """Draw a batch for `update` on the device. The replay may be empty (offline updates)."""

    @abc.abstractmethod
    def update(self, batch: Any, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step and its metrics. Without `update_policy`, only the critics learn."""

    def states_at(self, batch: Any) -> Int[Array, " n"]:
        """The rows of the store whose states enter the losses of an update."""
        return batch.row

    def with_states(self, batch: Any, states: Float[Array, "n s"]) -> Any:
        """The batch with the states of the rows in `states_at` replaced."""
        return batch._replace(state=states)

    def states_moved(self, experience: Experience) -> Self:
        """The agent after all states were re-encoded, with its copies of states refreshed."""
        return self

    def begin_block(self, experience: Experience) -> Self:
        """Work before a block of gradient steps of the policy, compiled together with the block."""
        return self

    def end_round(self, experience: Experience) -> tuple[Self, Metrics]:
        """Work once per round, after its gradient steps, and its metrics."""
        return self, {}

    def q_values(self, pairs: Transitions) -> Float[Array, " n"] | Float[Array, "size n"] | None:
        """The critics' values of transitions, for a comparison with attainable returns; None without Q."""
        return None


class Round(NamedTuple):
    """The result of one round of interaction."""

    collected: list[Collected]  # in order, without failed episodes
    action_seed: int  # for `otpr.policies.acting.decision_keys`, to reproduce a draw


class OnPolicyAgent(Agent):
    """An algorithm that learns from each round once and discards it."""

    @abc.abstractmethod
    def learn_round(self, data: Round) -> tuple[Self, int, Metrics]:
        """Learn from a round; also returns the number of gradient steps and the metrics."""
