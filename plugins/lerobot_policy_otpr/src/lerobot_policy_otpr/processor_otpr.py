"""What stands before and after the policy in LeRobot: batches alone, since otpr normalises by itself."""

from __future__ import annotations

from typing import Any

from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

from lerobot_policy_otpr.configuration_otpr import OtprConfig


def make_otpr_pre_post_processors(config: OtprConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    """LeRobot's usual processors, in which every normalisation is the identity.

    Args:
        config: of the policy.
        dataset_stats: not used.
    """
    return make_diffusion_pre_post_processors(config, dataset_stats=None)
