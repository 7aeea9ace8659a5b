"""Settings of DPPO. docs/algorithms/dppo.md gives the source of each."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from otpr.agents.parts.agent import AgentConfig
from otpr.agents.parts.settings import at_least_zero, count, positive, rate, share


@dataclasses.dataclass(frozen=True)
class DPPOConfig(AgentConfig):
    """Settings of the algorithm."""

    algorithm: ClassVar[str] = "dppo"

    # --- of every algorithm, here with a meaning of their own

    # decisions of a gradient step, each with all its fine-tuned denoising steps
    batch_size: int = count(100)
    # it learns from rounds of its own, in epochs: these three stay 0
    update_ratio: float = at_least_zero(0.0)
    warmup_updates: int = count(0, least=0)
    offline_updates: int = count(0, least=0)

    # --- data

    # decisions that are collected before an iteration of learning; it begins with the round that brings them
    decisions: int = count(350)
    # passes over them in an iteration
    epochs: int = count(10)
    # iterations at first in which V alone learns
    value_iterations: int = count(2, least=0)
    # lambda of the generalised advantage estimates
    advantage_share: float = share(0.95)

    # --- policy

    # how many of the last denoising steps are fine-tuned, all of them where there are fewer
    tuned_steps: int = count(10)
    # standard deviation that no denoising step goes below, when exploring and in its density
    least_std: float = positive(0.1)
    # discount of the advantage, for each denoising step between a step and the last
    denoising_discount: float = rate(0.99)
    # the ratio of densities is clipped to 1 +- so much at the last denoising step
    clip: float = positive(0.03)
    # it is clipped to 1 +- so much at the first denoising step that is fine-tuned
    first_clip: float = positive(0.003)
    # between the two, the clipping changes exponentially at this rate
    clip_rate: float = positive(3.0)
    # an iteration ends where the policy has moved by so much, in mean nats an entry of the chunk
    target_kl: float = positive(1.0)
    # Adam's, of the policy
    policy_learning_rate: float = positive(1e-4)

    # --- V

    # width and number of the hidden layers
    critic_width: int = count(256)
    critic_depth: int = count(2)
    # Adam's, of V
    learning_rate: float = positive(1e-3)

    def __post_init__(self) -> None:
        """See `AgentConfig`."""
        super().__post_init__()
        for name in ("update_ratio", "warmup_updates", "offline_updates"):
            if getattr(self, name) != 0:
                raise ValueError(
                    f"{name} must be 0, got {getattr(self, name)}: dppo learns from its rounds, see epochs."
                )
        if self.batch_size > self.decisions:
            raise ValueError(
                f"batch_size ({self.batch_size}) must not exceed decisions ({self.decisions}), those of an "
                "iteration."
            )


PRESETS: dict[str, DPPOConfig] = {"default": DPPOConfig()}
