"""A policy of otpr as a policy of LeRobot; LeRobot finds this package by its name and imports it."""

from lerobot_policy_otpr.configuration_otpr import OtprConfig
from lerobot_policy_otpr.modeling_otpr import OtprPolicy
from lerobot_policy_otpr.processor_otpr import make_otpr_pre_post_processors

__all__ = ["OtprConfig", "OtprPolicy", "make_otpr_pre_post_processors"]
