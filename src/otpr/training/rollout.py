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
    episodes: list[Episode]
    zero_compatibility: float  # share of decisions at which every candidate's H was zero


def run_episodes(
    env: ChunkedVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    action_seed: int,
    on_wave: Callable[[list[Episode]], None] | None = None,
) -> Rollout:
    """One whole episode for each seed, `env.num_envs` at a time, in the order of `seeds`.

    The randomness of an episode's actions comes from `action_seed`, its own environment seed and the decision's number alone, so that an
    episode does not depend on which others it was run beside.

    Args:
        env: environments to step; the chunk length must be the policy's.
        seeds: environment seeds, each fixing an initial condition.
        action_seed: seed of the policy's sampling.
        on_wave: called with each finished wave of episodes.
    """
    episodes, zeros, decisions = [], 0, 0
    for start in range(0, len(seeds), env.num_envs):
        wave = list(seeds[start : start + env.num_envs])
        finished, wave_zeros, wave_decisions = _run_wave(env, policy, wave, action_seed)
        episodes += finished
        zeros += wave_zeros
        decisions += wave_decisions
        if on_wave is not None:
            on_wave(finished)
    return Rollout(episodes, zeros / max(decisions, 1))


@jax.jit
def _decision_keys(action_seed, seeds, decision):
    def key(seed):
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(action_seed), seed), decision)

    return jax.vmap(key)(seeds)


def _run_wave(env, policy, seeds, action_seed):
    idle = env.num_envs - len(seeds)
    observations = env.reset([*seeds, *([None] * idle)])
    key_seeds = jnp.asarray([*seeds, *([0] * idle)], jnp.uint32)
    running = np.array([True] * len(seeds) + [False] * idle)
    traces = [([observations[i].copy()], [], []) for i in range(len(seeds))]
    ends = [None] * len(seeds)
    zeros = decisions = wave_step = 0
    while running.any():
        keys = _decision_keys(action_seed, key_seeds, wave_step)
        chunks, none = policy.act_batch(observations, keys)
        chunks = np.asarray(chunks)
        zeros += int(np.asarray(none)[running].sum())
        decisions += int(running.sum())
        wave_step += 1
        result = env.step(chunks)
        for i in np.flatnonzero(running):
            n = int(result.steps[i])
            visited, actions, rewards = traces[i]
            visited.extend(result.observations[i, :n].copy())
            actions.extend(chunks[i, :n])
            rewards.extend(result.rewards[i, :n])
            if result.terminated[i] or result.truncated[i]:
                running[i] = False
                ends[i] = (bool(result.terminated[i]), bool(result.truncated[i]), bool(result.success[i]))
            else:
                observations[i] = visited[-1]
    return (
        [
            Episode(
                observations=np.stack(visited).astype(np.float32),
                actions=np.stack(actions).astype(np.float32),
                rewards=np.asarray(rewards, np.float32),
                terminated=end[0],
                truncated=end[1],
                success=end[2],
                seed=int(seed),
            )
            for (visited, actions, rewards), end, seed in zip(traces, ends, seeds, strict=True)
        ],
        zeros,
        decisions,
    )
