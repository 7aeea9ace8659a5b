from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

from otpr.data.seeds import evaluation_seed
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.spec import Spec
from otpr.training.evaluate import Evaluation, evaluate
from otpr.training.workers import Lockstep

CHUNK = 4


class ToyEnv:
    """An episode from seed k lasts 5 + k steps; it succeeds with its last where k is even.

    Its first step of every decision pays 1, and its last 2 where it succeeds.
    """

    def __init__(self, num_envs: int):
        self.num_envs = num_envs
        self.broken: dict[int, str] = {}
        self.resets: list[list[int | None]] = []

    def reset(self, seeds: list[int | None]) -> dict[str, np.ndarray]:
        assert len(seeds) == self.num_envs
        self.resets.append(seeds)
        self.seeds = [-1 if seed is None else seed for seed in seeds]
        self.left = [0 if seed is None else 5 + seed for seed in seeds]
        return {"state": np.float32(self.seeds)[:, None]}

    def step(self, chunks: np.ndarray) -> Any:
        steps = np.minimum(self.left, CHUNK)
        over = (steps > 0) & (steps == self.left)
        self.left = list(self.left - steps)
        solved = over & (np.array(self.seeds) % 2 == 0)
        return SimpleNamespace(
            observations={"state": np.repeat(np.float32(self.seeds)[:, None, None], CHUNK, axis=1)},
            images={},
            looked=np.zeros((self.num_envs, CHUNK), np.bool_),
            rewards=self.rewards(steps, solved),
            steps=steps,
            terminated=solved,
            truncated=over & ~solved,
            success=solved,
        )

    def rewards(self, steps: np.ndarray, solved: np.ndarray) -> np.ndarray:
        rewards = np.zeros((self.num_envs, CHUNK), np.float32)
        rewards[:, 0] = steps > 0
        rewards[solved, steps[solved] - 1] += 2.0
        return rewards


class ToyWorkers(Lockstep):
    """Of a task that has no name."""

    def __init__(self, env: ToyEnv):
        self._env: Any = env


class ToyPolicy:
    """Reports 1 where the observation, which is the seed, is 1, and else 0."""

    spec = Spec.flat(1, 2, horizon=CHUNK, execute=CHUNK)
    encoder = VectorEncoder({"state": Normalizer(jnp.zeros(1), jnp.ones(1))})
    asks = False

    def plan_batch(self, observations, keys, prefixes, offered):
        state = observations["state"]
        assert state.shape == (keys.shape[0], 1, 1)
        return jnp.zeros((len(state), CHUNK, 2)), {"toy/one": (state[:, 0, 0] == 1).astype(jnp.float32)}


@pytest.mark.parametrize("num_envs", [1, 2, 5, 8])
def test_numbers_are_those_of_the_episodes_however_many_run_side_by_side(num_envs: int):
    env = ToyEnv(num_envs)
    finished: list[int] = []
    outcome = evaluate(ToyPolicy(), ToyWorkers(env), 5, on_wave=finished.append)  # pyright: ignore
    assert outcome.successes == 3  # seeds 0, 2, 4
    assert outcome.episodes == 5
    assert outcome.success_rate == 3 / 5
    assert outcome.mean_length == np.mean([5, 6, 7, 8, 9])
    assert outcome.returns == (4.0, 2.0, 4.0, 2.0, 5.0)
    assert outcome.mean_return == 17 / 5
    # 2 + 2 + 2 + 2 + 3 decisions, two of them of seed 1
    assert outcome.metrics == pytest.approx({"toy/one": 2 / 11})
    assert outcome.execute == CHUNK
    assert sum(finished) == 5
    seeds = [seed for wave in env.resets for seed in wave if seed is not None]
    assert seeds == [evaluation_seed(i) for i in range(5)]


def test_interval_is_wilsons():
    outcome = Evaluation((True,) * 37 + (False,) * 63, (1.0,) * 37 + (0.0,) * 63, 150.0, 4, {})
    expected = binomtest(37, 100).proportion_ci(confidence_level=0.95, method="wilson")
    assert tuple(outcome.interval) == pytest.approx((expected.low, expected.high))
    assert str(outcome) == "37% (37 of 100; 95%: 28% to 47%)"


def test_a_return_that_is_not_success_is_told_beside_it():
    # two subtasks of four, all four, none: one of three episodes succeeded, two subtasks an episode
    outcome = Evaluation((False, True, False), (2.0, 4.0, 0.0), 150.0, 4, {})
    assert str(outcome).endswith("), mean return 2")
    assert str(outcome).startswith("33% (1 of 3; ")
