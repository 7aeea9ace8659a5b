"""Imitation alone: the pre-trained policy as it is, what every other algorithm is measured against."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jaxtyping import PRNGKeyArray

from otpr.agents.parts.agent import Agent, AgentConfig
from otpr.data.chunks import Transitions
from otpr.policies.policy import Policy


@dataclasses.dataclass(frozen=True)
class BCConfig(AgentConfig):
    """Nothing is learnt, so nothing can be set; the fields that every algorithm has do nothing here."""

    algorithm: ClassVar[str] = "bc"


class BC(Agent):
    """Behaviour cloning: its learning is `otpr pretrain`."""

    policy: Policy
    key: PRNGKeyArray
    config: BCConfig
    learns: ClassVar[bool] = False

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: BCConfig, key: PRNGKeyArray) -> BC:
        """See `Agent.create`; every kind of policy will do."""
        return cls(base, key, config)

    def deployed(self) -> Policy:
        """The pre-trained policy, its chooser included if it has one."""
        return self.policy


__all__ = ["AGENT", "BC", "PRESETS"]

AGENT = BC
PRESETS = {"default": BCConfig()}
