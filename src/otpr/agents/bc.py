"""Imitation alone: the pre-trained policy as it is, what every other algorithm is measured against."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

import equinox as eqx
from jaxtyping import PRNGKeyArray

from otpr.agents.parts.agent import Agent, AgentConfig
from otpr.data.experience import Experience
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class BCConfig(AgentConfig):
    """Nothing is learnt, so nothing can be set; the fields that every algorithm has do nothing here."""

    algorithm: ClassVar[str] = "bc"
    only_chooses: ClassVar[bool] = True


class BC(Agent):
    """Behaviour cloning: its learning is `otpr pretrain`."""

    policy: Policy
    config: BCConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: BCConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`; every kind of policy will do."""
        return cls(policy=base, config=config)

    def deployed(self) -> Policy:
        """The pre-trained policy, its chooser included if it has one."""
        return self.policy


AGENT = BC
PRESETS = {"default": BCConfig()}
