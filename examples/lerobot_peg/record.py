"""Demonstrations, written by LeRobot's own writer: `python -m lerobot_peg.record --out FOLDER`.

Meta-World's scripted expert acts with noise; its successes are kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from peg_task import HAND, TASK, kept

from lerobot_peg.environment import ACTION, REST, PegConfig
from otpr.data.collect import collect


def main() -> None:
    """Collect and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=25)
    parser.add_argument("--noise", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    vectors = {"observation.state": HAND, "observation.environment_state": REST, "action": ACTION}
    features = {
        **{name: {"dtype": "float32", "shape": (length,), "names": None} for name, length in vectors.items()},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    data = LeRobotDataset.create(
        repo_id="local/peg", fps=PegConfig().fps, features=features, root=options.out, use_videos=False
    )
    episodes = collect(TASK, episodes=options.episodes, noise=options.noise, seed=options.seed)
    for episode in episodes:
        states = kept(episode.observations["state"])
        for t, action in enumerate(episode.actions):
            last = t + 1 == len(episode)
            frame = {
                "observation.state": states[t, :HAND],
                "observation.environment_state": states[t, HAND:],
                "action": np.asarray(action, np.float32),
                "next.reward": np.array([float(episode.rewards[t])], np.float32),
                "next.success": np.array([last]),
                "task": "insert the peg from the side",
            }
            data.add_frame(frame)
        data.save_episode()
    data.finalize()
    print(f"{len(episodes)} demonstrations: {options.out}")


if __name__ == "__main__":
    main()
