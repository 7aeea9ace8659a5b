"""What a fine-tuning run says of a round of episodes and of an evaluation: rows of metrics.jsonl.

docs/run-directory.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from otpr.training.evaluate import Evaluation
from otpr.training.loop import Progression
from otpr.training.rollout import Rollout


def of_collection(at: Progression, rollout: Rollout) -> dict[str, Any]:
    """The metrics of a collected round, which `at` counts already."""
    episodes = rollout.episodes
    return {
        "rollout/episodes": at.episodes,
        "rollout/broken_episodes": at.broken_episodes,
        "rollout/success_rate": mean([episode.success for episode in episodes]),
        "rollout/success_rate_recent": mean(at.recent),
        "rollout/return": mean([episode.total_reward for episode in episodes]),
        "rollout/length": mean([len(episode) for episode in episodes]),
        **_named(rollout.metrics, "rollout"),
    }


def of_evaluation(at: Progression, chosen: Evaluation) -> dict[str, Any]:
    """The metrics of an evaluation of the deployed policy, which `at` has recorded."""
    return {
        "eval/success_rate": chosen.success_rate,
        "eval/success_rate_single": at.success_single,
        "eval/return": at.mean_return,
        "eval/return_single": at.mean_return_single,
        "eval/episodes": chosen.episodes,
        "eval/execute": chosen.execute,
        "eval/length": chosen.mean_length,
        **_named(chosen.metrics, "eval"),
    }


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None for a round in which all episodes failed."""
    return sum(values) / len(values) if values else None


def _named(metrics: Mapping[str, float], stage: str) -> dict[str, float]:
    """A chooser's metrics under names with the stage, so that each name denotes one series."""
    return {f"{name}/{stage}": value for name, value in metrics.items()}
