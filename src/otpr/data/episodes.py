"""One episode of experience, and the refusal of bad ones before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError


@dataclass(frozen=True)
class Episode:
    """One episode of T >= 1 steps.

    Attributes:
        observations: (T+1, observation_dim) float32: the one after reset, then the one after each step.
        actions: (T, action_dim) float32, in [-1, 1], as executed.
        rewards: (T,) float32.
        terminated: the episode reached a terminal state (mostly: success).
        truncated: it was cut off, e.g. by the time limit: the last state has a future that was not seen.
        success: the task was solved.
        seed: the environment's reset seed, in [0, 2**31); None where unknown.
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    terminated: bool
    truncated: bool
    success: bool
    seed: int | None

    def __len__(self) -> int:
        """The number of steps, T."""
        return len(self.actions)


def validate_episodes(
    episodes: Sequence[Episode],
    *,
    source: str,
    observation_dim: int | None = None,
    action_dim: int | None = None,
) -> None:
    """Refuse episodes that cannot be trained on.

    Args:
        episodes: what was read or collected.
        source: where they come from, e.g. the file; named in the error.
        observation_dim: the dimension expected; None: that of the first episode.
        action_dim: likewise for the actions.

    Raises:
        OtprError: there are none; one is empty; its arrays have wrong dimensions or lengths that do not fit
            together; a number is NaN or infinite; an action is outside [-1, 1]. The message names the source,
            the episode's index and the field.
    """
    if not episodes:
        raise OtprError(f"{source}: holds no episodes; at least one is needed.")
    first = episodes[0]
    for index, episode in enumerate(episodes):
        validate_episode(
            episode,
            where=f"{source}: episode {index}",
            observation_dim=first.observations.shape[-1] if observation_dim is None else observation_dim,
            action_dim=first.actions.shape[-1] if action_dim is None else action_dim,
        )


def validate_episode(
    episode: Episode, *, where: str, observation_dim: int | None = None, action_dim: int | None = None
) -> None:
    """Refuse one episode that cannot be trained on; see `validate_episodes`.

    Args:
        episode: what was read or collected.
        where: the file and the place in it; named in the error.
        observation_dim: the dimension expected; None: its own.
        action_dim: likewise for the actions.
    """
    _check_matrix(where, "observations", episode.observations, observation_dim)
    _check_matrix(where, "actions", episode.actions, action_dim)
    if episode.rewards.ndim != 1:
        raise OtprError(f"{where}: rewards have shape {episode.rewards.shape}, expected (steps,).")
    steps = len(episode.actions)
    if steps == 0:
        raise OtprError(f"{where}: actions are empty; an episode has at least one step.")
    if len(episode.observations) != steps + 1:
        raise OtprError(
            f"{where}: observations have length {len(episode.observations)}, expected {steps + 1}, "
            f"one more than the {steps} actions."
        )
    if len(episode.rewards) != steps:
        raise OtprError(
            f"{where}: rewards have length {len(episode.rewards)}, expected {steps}, as many as actions."
        )
    for field in ("observations", "actions", "rewards"):
        bad = np.argwhere(~np.isfinite(getattr(episode, field)))
        if len(bad):
            raise OtprError(
                f"{where}: {field} hold NaN or infinity, first at step {bad[0, 0]}; "
                "mend or leave out that episode."
            )
    bad = np.argwhere(np.abs(episode.actions) > 1.0)
    if len(bad):
        value = episode.actions[tuple(bad[0])]
        raise OtprError(
            f"{where}: actions leave [-1, 1], first at step {bad[0, 0]} with {value:.6g}; "
            "rescale the data to the environment's action range."
        )


def _check_matrix(where: str, field: str, given: NDArray[np.float32], dim: int | None) -> None:
    expected = "dim" if dim is None else dim
    if given.ndim != 2 or given.shape[1] != (given.shape[-1] if dim is None else dim):
        raise OtprError(f"{where}: {field} have shape {given.shape}, expected (steps, {expected}).")
