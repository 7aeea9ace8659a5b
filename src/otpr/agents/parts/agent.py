"""The faces that algorithms show to fine-tuning.

`OffPolicyAgent` learns from batches drawn out of everything seen so far, `OnPolicyAgent` from whole rounds. A
further algorithm is a module in `otpr.agents` with a subclass of one of them, named by `AGENT`, and its
settings, `PRESETS`; docs/architecture.md says how.
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
"""Scalars by name. An algorithm's own are named "ALGORITHM/...", those that peers share "critic/..." and
"policy/..."."""


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has: of learning in general, and how much of it takes place when."""

    algorithm: ClassVar[str]
    """Name of the algorithm, that of its module."""
    only_chooses: ClassVar[bool] = False
    """Whether it takes a policy that only answers: what it learns then is to choose among the plans."""

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
        """Refuse settings that make no algorithm.

        Raises:
            ValueError: names the field.
        """
        check_settings(self)

    @property
    def batch_parts(self) -> tuple[int, ...]:
        """How many transitions each part of a batch has that is drawn by itself."""
        return (self.batch_size,)

    def acting_spec(self, base: Spec) -> Spec:
        """What the algorithm's policy takes and gives, from that of the pre-trained policy; here the same."""
        return base


class Agent(eqx.Module):
    """An algorithm with all it has learnt, one immutable pytree: what is not in it can not be lost."""

    config: eqx.AbstractVar[AgentConfig]

    @classmethod
    @abc.abstractmethod
    def create(cls, base: Policy, experience: Experience, config: Any, key: PRNGKeyArray) -> Self:
        """An agent that has learnt nothing yet.

        Args:
            base: the pre-trained policy.
            experience: with the demonstrations; they need not be looked at.
            config: settings of the algorithm.
            key: of the networks, and of all randomness to come.

        Raises:
            OtprError: the policy, or the demonstrations, are not of a kind that the algorithm can work with.
        """

    @abc.abstractmethod
    def deployed(self) -> Policy:
        """The policy as it is evaluated and saved."""

    def exploring(self) -> Policy:
        """The policy as it collects experience; where nothing else is said, as it is deployed."""
        return self.deployed()


class OffPolicyAgent(Agent):
    """An algorithm that learns from batches out of demonstrations and replay."""

    key: eqx.AbstractVar[PRNGKeyArray]

    critic_losses: ClassVar[tuple[str, ...]] = ()
    """Metrics of `update` that are losses of its critics at the states of the batch (see `states_at`)."""
    policy_losses: ClassVar[tuple[str, ...]] = ()
    """Those that are losses of its policy there. An encoder may learn from what is named here."""

    @abc.abstractmethod
    def draw(self, experience: Experience, key: PRNGKeyArray) -> Any:
        """A batch for `update`, drawn on the device. The replay may be empty (offline updates)."""

    @abc.abstractmethod
    def update(self, batch: Any, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step, with its metrics; of the critics alone where the policy is not updated."""

    def states_at(self, batch: Any) -> Int[Array, " n"]:
        """The rows of the store whose states the losses of an update are taken at."""
        return batch.row

    def with_states(self, batch: Any, states: Float[Array, "n s"]) -> Any:
        """The batch with other states in these places, as many as `states_at` has rows."""
        return batch._replace(state=states)

    def states_moved(self, experience: Experience) -> Self:
        """With what it keeps of states taken anew: all states were encoded again."""
        return self

    def begin_block(self, experience: Experience) -> Self:
        """What is due before a block of gradient steps of the policy; compiled with the block."""
        return self

    def end_round(self, experience: Experience) -> tuple[Self, Metrics]:
        """What is due once a round, after its gradient steps, with its metrics."""
        return self, {}

    def q_values(self, pairs: Transitions) -> Float[Array, " n"] | Float[Array, "size n"] | None:
        """The critics' values of transitions, for the check against what rewards allow; None without Q."""
        return None


class Round(NamedTuple):
    """What one round of interaction brought."""

    collected: list[Collected]  # in order; those that broke are left out
    action_seed: int  # as given to `otpr.policies.acting.decision_keys`, so that a draw can be done again


class OnPolicyAgent(Agent):
    """An algorithm that learns from each round at once, and then forgets it."""

    @abc.abstractmethod
    def learn_round(self, data: Round) -> tuple[Self, int, Metrics]:
        """Learn from a round; also the number of gradient steps, and the metrics."""
