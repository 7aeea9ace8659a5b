"""Whole episodes of a policy in a vectorised environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv
from otpr.policy import Policy


class Rollout(NamedTuple):
    """Finished episodes, and how they were decided."""

    episodes: list[Episode]
    zero_compatibility: float  # share of decisions at which every candidate's H was zero


def run_episodes(
    env: ChunkedVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    action_seed: int,
    on_wave: Callable[[int], None] | None = None,
) -> Rollout:
    """One whole episode for each seed, `env.num_envs` at a time, in the order of `seeds`.

    The randomness of an episode's actions comes from `action_seed`, its own environment seed and the number
    of the decision, so that it does not depend on which episodes ran beside it.

    Args:
        env: environments to step; their chunk length must be the policy's.
        policy: what acts.
        seeds: environment seeds, each fixing an initial condition.
        action_seed: seed of the policy's sampling.
        on_wave: called with the number of episodes of each finished wave.
    """
    episodes, zeros, decisions = [], 0, 0
    for start in range(0, len(seeds), env.num_envs):
        wave = [_Trace(seed) for seed in seeds[start : start + env.num_envs]]
        wave_zeros, wave_decisions = _run_wave(env, policy, wave, action_seed)
        episodes += [trace.episode() for trace in wave]
        zeros += wave_zeros
        decisions += wave_decisions
        if on_wave is not None:
            on_wave(len(wave))
    return Rollout(episodes, zeros / max(decisions, 1))


class _Trace:
    """An episode while it grows."""

    def __init__(self, seed: int):
        self.seed = seed
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = self.success = False

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated

    def episode(self) -> Episode:
        return Episode(
            observations=np.asarray(self.observations, np.float32),
            actions=np.asarray(self.actions, np.float32),
            rewards=np.asarray(self.rewards, np.float32),
            terminated=self.terminated,
            truncated=self.truncated,
            success=self.success,
            seed=self.seed,
        )


def _run_wave(env: ChunkedVectorEnv, policy: Policy, wave: list[_Trace], action_seed: int) -> tuple[int, int]:
    """Run each trace to its end; the number of decisions without a positive H, and of all decisions."""
    idle = env.num_envs - len(wave)
    observations = env.reset([*(trace.seed for trace in wave), *([None] * idle)]).copy()
    for trace, observation in zip(wave, observations, strict=False):
        trace.observations.append(observation.copy())
    seeds = jnp.asarray([*(trace.seed for trace in wave), *([0] * idle)], jnp.uint32)
    zeros = decisions = decision = 0
    while running := [i for i, trace in enumerate(wave) if not trace.over]:
        keys = _decision_keys(action_seed, seeds, decision)
        device_chunks, none = policy.act_batch(jnp.asarray(observations), keys)
        chunks = np.asarray(device_chunks)
        step = env.step(chunks)
        decision += 1
        decisions += len(running)
        zeros += int(np.asarray(none)[running].sum())
        for i in running:
            trace, n = wave[i], int(step.steps[i])
            trace.observations.extend(step.observations[i, :n].copy())
            trace.actions.extend(chunks[i, :n])
            trace.rewards.extend(step.rewards[i, :n])
            trace.terminated = bool(step.terminated[i])
            trace.truncated = bool(step.truncated[i])
            trace.success = trace.success or bool(step.success[i])
            observations[i] = trace.observations[-1]
    return zeros, decisions


@jax.jit
def _decision_keys(action_seed: int, seeds: jax.Array, decision: int) -> jax.Array:
    def key_of(seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(action_seed), seed), decision)

    return jax.vmap(key_of)(seeds)
