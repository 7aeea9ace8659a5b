"""Behaviour cloning: the unchanged pre-trained policy, the baseline of all other algorithms."""

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
    """Nothing is learnt, so there are no settings; the fields that all algorithms share have no effect."""

    algorithm: ClassVar[str] = "bc"
    only_chooses: ClassVar[bool] = True


class BC(Agent):
    """Behaviour cloning. `otpr pretrain` does all its learning."""

    policy: Policy
    config: BCConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: BCConfig, key: PRNGKeyArray) -> Self:
        """See `Agent.create`. Any kind of policy is accepted."""
        return cls(policy=base, config=config)

    def deployed(self) -> Policy:
        """The pre-trained policy, including its chooser if it has one."""
        return self.policy


AGENT = BC
PRESETS = {"default": BCConfig()}
