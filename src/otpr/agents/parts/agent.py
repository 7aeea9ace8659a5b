"""The face that every algorithm shows to fine-tuning.

A further algorithm is a file in `otpr.agents` with a subclass of `Agent`, named by `AGENT`, and its settings,
`PRESETS`; docs/architecture.md says how.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from otpr.data.chunks import Transitions
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class AgentConfig:
    """Settings that every algorithm has: those of learning at large, and how much of it there is to be."""

    algorithm: ClassVar[str]
    """Name of the algorithm, that of its file."""

    # discount of one environment step
    gamma: float = 0.99
    # transitions of a gradient step
    batch_size: int = 256
    # gradient steps for each environment step
    update_ratio: float = 0.25
    # gradient steps of the critics alone, once the first `warmup_steps` environment steps are there
    warmup_updates: int = 1_000
    # gradient steps from the demonstrations alone, before the first environment step
    offline_updates: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that make no algorithm.

        Raises:
            ValueError: names the field. Rates and shares lie in (0, 1] or [0, 1], counts are at least 1, the
                rest is positive.
        """
        if not 0 < self.gamma <= 1:
            raise ValueError(f"gamma must lie in (0, 1], got {self.gamma}.")
        may_be_zero = ("warmup_updates", "offline_updates")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in may_be_zero else 1
            if type(value) is int and value < least:
                raise ValueError(f"{field.name} must be at least {least}, got {value}.")
            if field.name.endswith("learning_rate") and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be a positive number, got {value}.")
            if field.name in ("target_rate", "ema_rate") and not 0 < value <= 1:
                raise ValueError(f"{field.name} must lie in (0, 1], got {value}.")
            if field.name.endswith("_share") and not 0 <= value <= 1:
                raise ValueError(f"{field.name} must lie in [0, 1], got {value}.")
        if not 0 <= self.update_ratio < float("inf"):
            raise ValueError(f"update_ratio must be a number >= 0, got {self.update_ratio}.")

    @property
    def needs_success(self) -> bool:
        """Whether a demonstration that succeeds must be among those given."""
        return False

    def chunk_length(self, base: Policy) -> int:
        """h, actions in a chunk of this algorithm, given the pre-trained policy."""
        return base.chunk_length

    def keypoint_rows(self, episodes: Sequence[Episode], chunk_length: int) -> Int[np.ndarray, " k"]:
        """Which transitions of the demonstrations, in order, are handed to `Agent.create`; here all."""
        return np.arange(sum(len(episode) for episode in episodes))


class Batch(NamedTuple):
    """What one update learns from, for algorithms that need but one batch."""

    data: Transitions


class Round(NamedTuple):
    """What one round of interaction brought, for algorithms that learn from it at once (on-policy)."""

    episodes: list[Episode]  # in order; those that broke are left out
    action_seed: int  # as given to `otpr.policies.acting.decision_keys`, so that every draw can be done again


class Agent(eqx.Module):
    """An algorithm with all it has learnt, one immutable pytree: what is not in it can not be lost.

    States are normalised observations; actions are flattened chunks.
    """

    policy: eqx.AbstractVar[Policy]  # the policy that learns, without a chooser
    key: eqx.AbstractVar[PRNGKeyArray]
    config: eqx.AbstractVar[AgentConfig]

    starts_from_base: ClassVar[bool] = True
    """Whether its first policy is the pre-trained one; otherwise that serves as a reference alone."""
    learns: ClassVar[bool] = True
    """False of an algorithm that leaves the policy as it is: then nothing is collected."""
    follows: ClassVar[bool] = False
    """Whether `follow` is called after each round."""
    on_policy: ClassVar[bool] = False
    """Whether `learn_round` is called with each round's episodes, instead of `update` with drawn batches."""
    batch_type: ClassVar[type[Any]] = Batch
    """A NamedTuple of `Transitions`: what `draw` returns."""

    @classmethod
    @abc.abstractmethod
    def create(cls, base: Policy, keypoints: Transitions, config: Any, key: PRNGKeyArray) -> Agent:
        """An agent that knows nothing yet.

        Args:
            base: the pre-trained policy.
            keypoints: the demonstrated transitions that `config.keypoint_rows` named.
            config: settings of the algorithm.
            key: of the networks, and of all randomness to come.

        Raises:
            OtprError: the policy is not of a kind that the algorithm can fine-tune.
        """

    @abc.abstractmethod
    def deployed(self) -> Policy:
        """The policy as it is evaluated and saved."""

    def exploring(self) -> Policy:
        """The policy as it collects experience; where nothing else is said, as it is deployed."""
        return self.deployed()

    def prepare(self, experience: Experience) -> Agent:
        """What is due before a block of gradient steps of the policy; OTPR draws its pairs."""
        return self

    def draw(self, experience: Experience, key: PRNGKeyArray) -> Any:
        """A batch for `update`, drawn on the device. The replay may be empty (offline updates)."""
        raise NotImplementedError

    def update(self, batch: Any, update_policy: bool = True) -> tuple[Agent, dict[str, Array]]:
        """One gradient step, with its metrics; of the critics alone where the policy is not updated."""
        raise NotImplementedError

    def follow(self, experience: Experience) -> tuple[Agent, dict[str, Array]]:
        """What is due once a round, with its metrics; for OTPR, potentials that follow the critic."""
        raise NotImplementedError

    def learn_round(self, data: Round) -> tuple[Agent, int, dict[str, Array]]:
        """Learn from a round; also the number of gradient steps, and the metrics."""
        raise NotImplementedError

    def q_values(self, pairs: Transitions) -> Float[Array, " n"] | Float[Array, "size n"] | None:
        """The critics' values of transitions, for the check against what rewards allow; None without Q."""
        return None
