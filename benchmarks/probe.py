"""What a frozen encoder knows: how well a linear map of its features predicts what the simulator knows.

python -m benchmarks.probe POLICY

A critic that is given features can only value what is in them. The scripted expert with noise visits states;
ridge regression from the features of half of the episodes to each number of the simulator's own observation
is tested on the other half. A share of 1 is all of a number's variance, 0 none of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from otpr.cli.finetune import policy_setup
from otpr.data.seeds import training_seed
from otpr.envs import Setup, make_env, make_expert, task_spec
from otpr.envs.task_env import by_name
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy

NOISE = 0.7
"""Of the expert's actions, as in the demonstrations of the quickstart."""

STRIDE = 16
"""Steps between two looks: what changes from episode to episode alone needs many of them."""

_PENALTIES = (1e-4, 1e-2, 1.0, 100.0)


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Features of some observations, and what the simulator knows there."""


class Explained(NamedTuple):
    """How a number of the simulator is predicted on episodes that were not fitted."""

    column: int
    spread: float  # its standard deviation there, in its own unit
    error: float  # root mean square error of the prediction
    share: float  # of its variance


def visited(policy: Policy, setup: Setup, episodes: int) -> list[Pair]:
    """Features and the simulator's own numbers, at every sixteenth step of episodes of the noisy expert."""
    spec = task_spec(setup).spec
    env = make_env(setup)
    expert = make_expert(setup.task, env)
    found: list[Pair] = []
    for episode in range(episodes):
        seed = training_seed(1, episode)
        noise = np.random.default_rng([seed, 1])
        observation, _ = env.reset(seed=seed)
        expert.reset()
        seen, told, ended, step = [by_name(spec, observation)], [env.whole_observation], False, 0
        while not ended:
            action = expert.act(env.whole_observation)
            action = np.clip(action + NOISE * noise.standard_normal(action.shape), -1, 1).astype(np.float32)
            step += 1
            observation, _, terminated, truncated, _ = env.step(action, step % STRIDE == 0)
            ended = terminated or truncated
            if step % STRIDE == 0:
                seen.append(by_name(spec, observation))
                told.append(env.whole_observation)
        stacked = {name: np.stack([each[name] for each in seen]) for name in spec.observation}
        found.append((encode(policy.encoder, stacked), np.stack(told)))
    env.close()
    return found


def explained(pairs: list[Pair]) -> list[Explained]:
    """Each number that varies, predicted on the second half of the episodes by the first."""
    half = len(pairs) // 2
    x, y = (np.concatenate([pair[i] for pair in pairs[:half]]).astype(np.float64) for i in (0, 1))
    x_test, y_test = (np.concatenate([pair[i] for pair in pairs[half:]]).astype(np.float64) for i in (0, 1))
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-9
    x, x_test = (x - mean) / scale, (x_test - mean) / scale
    offset = y.mean(axis=0)
    # the penalty that predicts the last fifth of the fitted rows best
    cut = len(x) * 4 // 5
    fits = {p: _ridge(x[:cut], y[:cut] - offset, p) for p in _PENALTIES}
    best = min(
        fits,
        key=lambda p: float((((x[cut:] @ fits[p] + offset - y[cut:]) / (y.std(axis=0) + 1e-9)) ** 2).sum()),
    )
    error = np.sqrt(((x_test @ _ridge(x, y - offset, best) + offset - y_test) ** 2).mean(axis=0))
    spread = y_test.std(axis=0)
    return [
        Explained(i, float(spread[i]), float(error[i]), float(1 - (error[i] / spread[i]) ** 2))
        for i in range(y.shape[1])
        if spread[i] > 1e-3
    ]


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    return np.asarray(np.linalg.solve(x.T @ x + penalty * len(x) * np.eye(x.shape[1]), x.T @ y), np.float64)


def main() -> None:
    """Parse, visit, fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.probe", description=__doc__)
    parser.add_argument("policy", type=Path, help="folder of a policy, or of its run")
    parser.add_argument("--episodes", type=int, default=100, help="of the noisy expert")
    options = parser.parse_args()
    policy, setup = load_policy(options.policy), policy_setup(options.policy)
    table = Table("number", "spread", "error", "share explained", box=None)
    for row in explained(visited(policy, setup, options.episodes)):
        table.add_row(str(row.column), f"{row.spread:.3g}", f"{row.error:.3g}", f"{row.share:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
