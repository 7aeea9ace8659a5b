"""A policy of otpr behind LeRobot's interface: observations in, the chosen plan's actions out."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy

import otpr
from lerobot_policy_otpr.configuration_otpr import OtprConfig
from otpr.policies.acting import recent
from otpr.policies.units import in_units


class OtprPolicy(PreTrainedPolicy):
    """Acts with `otpr.load_policy`: encoder, plans and the choice among them are otpr's, in JAX.

    Each environment of a batch has a history, and actions that are still to be executed, of its own. The seed
    of a decision is made of the configuration's seed, the episode, the environment and the decision.
    """

    config_class = OtprConfig
    name = "otpr"

    def __init__(self, config: OtprConfig, policy: Any = None, **_: Any):
        super().__init__(config)
        # LeRobot moves modules to a device, and looks for parameters
        self.placeholder = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.policy = policy
        self.episode = -1
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: OtprConfig | None = None, **kwargs: Any
    ) -> OtprPolicy:
        """Read a folder that `lerobot_policy_otpr.folder` wrote.

        Raises:
            FileNotFoundError: it is no local folder.
            otpr.errors.OtprError: the policy in it is damaged.
        """
        folder = Path(pretrained_name_or_path)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder; a policy of otpr is read from a local folder.")
        if config is None:
            config = OtprConfig.from_pretrained(folder)
        config.validate_features()
        return cls(config, otpr.load_policy(folder / config.otpr_path)).eval()

    def reset(self) -> None:
        """Forget the episode."""
        self.episode += 1
        self.seen: list[deque[dict[str, np.ndarray]]] = []
        self.planned: list[deque[np.ndarray]] = []
        self.decision = 0

    def select_action(self, batch: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        """One action for each environment, (b, action_dim), in its own units."""
        observations = self._observations(batch)
        if not self.seen:
            history = self.policy.spec.history
            self.seen = [deque(maxlen=history) for _ in observations]
            self.planned = [deque() for _ in observations]
        deciding = not self.planned[0]  # all environments decide at the same steps
        for i, observation in enumerate(observations):
            self.seen[i].append(observation)
            if deciding:
                self.planned[i].extend(self._decide(i))
        self.decision += deciding
        actions = np.stack([planned.popleft() for planned in self.planned])
        return torch.from_numpy(actions.astype(np.float32))

    def predict_action_chunk(self, batch: dict[str, torch.Tensor], **_: Any) -> torch.Tensor:
        """The actions that are executed after these observations, (b, execute, action_dim).

        The policy must see a single observation: a history is kept by `select_action`.
        """
        if self.policy.spec.history > 1:
            raise ValueError("The policy sees several observations; call select_action at every step.")
        self.seen = [deque([observation], maxlen=1) for observation in self._observations(batch)]
        chunks = np.stack([self._decide(i) for i in range(len(self.seen))])
        return torch.from_numpy(chunks.astype(np.float32))

    def forward(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        """Refused: otpr trains its policies."""
        raise NotImplementedError("A policy of otpr is trained by `otpr finetune`, not by LeRobot.")

    def get_optim_params(self) -> dict[str, Any]:
        """Refused, as `forward`."""
        raise NotImplementedError("A policy of otpr is trained by `otpr finetune`, not by LeRobot.")

    def _decide(self, i: int) -> np.ndarray:
        """The actions to execute in environment i."""
        spec = self.policy.spec
        seen = recent(self.seen[i], spec.history)
        words = (self.config.seed, self.episode, i, self.decision)
        seed = int(np.random.SeedSequence(words).generate_state(1)[0])
        given = seen[spec.only_vector] if spec.only_vector else seen
        return in_units(self.policy.act(given, seed), spec)

    def _observations(self, batch: dict[str, torch.Tensor]) -> list[dict[str, np.ndarray]]:
        """Of each environment, by otpr's names and in its types."""
        config, spec = self.config, self.policy.spec
        arrays: dict[str, np.ndarray] = {}
        for name in spec.vectors:
            parts = [batch[key].detach().cpu().numpy() for key in config.state_keys]
            arrays[name] = np.concatenate(parts, axis=-1)
        for name in spec.images:
            # LeRobot's are (b, c, h, w) in [0, 1], of frames of uint8
            frames = batch[config.image_keys[name]].detach().cpu().numpy()
            arrays[name] = np.rint(np.moveaxis(frames, 1, -1) * 255).astype(np.uint8)
        n = len(next(iter(arrays.values())))
        return [{name: array[i] for name, array in arrays.items()} for i in range(n)]
