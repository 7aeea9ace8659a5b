"""The configuration of a policy of otpr in LeRobot: where it lies, and what LeRobot calls what it sees."""

from __future__ import annotations

from dataclasses import dataclass, field

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode


@PreTrainedConfig.register_subclass("otpr")
@dataclass
class OtprConfig(PreTrainedConfig):
    """Written by `lerobot_policy_otpr.folder`.

    Attributes:
        otpr_path: the policy's folder, relative to the folder of this configuration, or absolute.
        state_keys: LeRobot's features that make otpr's vector entry, one after the other.
        image_keys: LeRobot's features of the images, by otpr's names.
        seed: of the draws.
        normalization_mapping: nothing: otpr normalises by itself.
    """

    otpr_path: str = "otpr"
    state_keys: list[str] = field(default_factory=lambda: ["observation.state"])
    image_keys: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    device: str | None = "cpu"
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(
            ("STATE", "ENV", "VISUAL", "ACTION"), NormalizationMode.IDENTITY
        )
    )

    @property
    def observation_delta_indices(self) -> None:
        """It is not trained by LeRobot."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """It is not trained by LeRobot."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """It is not trained by LeRobot."""
        return None

    def get_optimizer_preset(self):
        """Refused: otpr trains its policies."""
        raise NotImplementedError("A policy of otpr is trained by `otpr finetune`, not by LeRobot.")

    def get_scheduler_preset(self) -> None:
        """None, as above."""
        return None

    def validate_features(self) -> None:
        """Refuse features that the policy does not see.

        Raises:
            ValueError: names one.
        """
        for name in (*self.state_keys, *self.image_keys.values()):
            if self.input_features and name not in self.input_features:
                raise ValueError(f"{name} is seen by the policy, and is not among input_features.")
