"""Whole episodes of a policy in a vectorised environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv
from otpr.policies.acting import decision_keys
from otpr.policies.policy import Policy
from otpr.training.numbers import NotFiniteError


class Rollout(NamedTuple):
    """Finished episodes, and how they were decided."""

    episodes: list[Episode]  # those that the environment did not break, in the order of their seeds
    zeros: int  # decisions at which every candidate's H was zero
    decisions: int
    broken: dict[int, str]  # seeds of the others, each with the cause; nothing is kept of them

    @property
    def zero_compatibility(self) -> float:
        """Share of decisions at which every candidate's H was zero."""
        return self.zeros / max(self.decisions, 1)


def run_episodes(
    env: ChunkedVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    action_seed: int,
    on_wave: Callable[[int], None] | None = None,
    on_chunk: Callable[[], None] | None = None,
) -> Rollout:
    """One whole episode for each seed, `env.num_envs` at a time, in the order of `seeds`.

    The randomness of an episode's actions comes from `action_seed`, its own environment seed and the number
    of the decision, so that it does not depend on which episodes ran beside it, or broke.

    Args:
        env: environments to step; their chunk length must be the policy's.
        policy: what acts.
        seeds: environment seeds, each fixing an initial condition.
        action_seed: seed of the policy's sampling.
        on_wave: called with the number of finished episodes of each wave.
        on_chunk: called before each chunk; what it raises leaves the episodes as they are.

    Raises:
        NotFiniteError: an observation, a reward or an action is NaN or infinite. It carries the episode.
        BrokenEnvironmentError: the environment broke too often; see `ChunkedVectorEnv`.
    """
    episodes, broken, zeros, decisions = [], {}, 0, 0
    for start in range(0, len(seeds), env.num_envs):
        wave = [_Trace(seed) for seed in seeds[start : start + env.num_envs]]
        wave_zeros, wave_decisions = _run_wave(env, policy, wave, action_seed, on_chunk)
        finished = [trace.episode() for trace in wave if trace.broken is None]
        broken |= {trace.seed: trace.broken for trace in wave if trace.broken is not None}
        episodes += finished
        zeros += wave_zeros
        decisions += wave_decisions
        if on_wave is not None:
            on_wave(len(finished))
    return Rollout(episodes, zeros, decisions, broken)


def compile_acting(policy: Policy, env: ChunkedVectorEnv) -> None:
    """Compile what `run_episodes` asks of the policy, which takes seconds, where it has not been yet."""
    observations = np.zeros((env.num_envs, env.observation_dim), np.float32)
    seeds = np.zeros(env.num_envs, np.uint32)
    jax.block_until_ready(_decide(policy, observations, np.int32(0), seeds, np.uint32(0)))


class _Trace:
    """An episode while it grows."""

    def __init__(self, seed: int):
        self.seed = seed
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = self.success = False
        self.broken: str | None = None

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated or self.broken is not None

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


def _run_wave(
    env: ChunkedVectorEnv,
    policy: Policy,
    wave: list[_Trace],
    action_seed: int,
    on_chunk: Callable[[], None] | None,
) -> tuple[int, int]:
    """Run each trace to its end; the number of decisions without a positive H, and of all decisions."""
    idle = env.num_envs - len(wave)
    observations = env.reset([*(trace.seed for trace in wave), *([None] * idle)]).copy()
    for slot, trace in enumerate(wave):
        trace.broken = env.broken.get(slot)
        trace.observations.append(observations[slot].copy())
        if trace.broken is None:
            _check_finite(env, slot, trace)
    seeds = np.asarray([*(trace.seed for trace in wave), *([0] * idle)], np.uint32)
    zeros = decisions = decision = 0
    while running := [i for i, trace in enumerate(wave) if not trace.over]:
        if on_chunk is not None:
            on_chunk()
        device_chunks, none = _decide(policy, observations, np.int32(action_seed), seeds, np.uint32(decision))
        chunks = np.asarray(device_chunks)
        if not np.isfinite(chunks[running]).all():
            raise _bad_action(env, wave, running, chunks)
        step = env.step(chunks)
        decision += 1
        decisions += len(running)
        zeros += int(np.asarray(none)[running].sum())
        for i in running:
            trace, n = wave[i], int(step.steps[i])
            if i in env.broken:
                trace.broken = env.broken[i]
                continue
            trace.observations.extend(step.observations[i, :n].copy())
            trace.actions.extend(chunks[i, :n])
            trace.rewards.extend(step.rewards[i, :n])
            trace.terminated = bool(step.terminated[i])
            trace.truncated = bool(step.truncated[i])
            trace.success = trace.success or bool(step.success[i])
            observations[i] = trace.observations[-1]
            if not (np.isfinite(step.observations[i]).all() and np.isfinite(step.rewards[i]).all()):
                _check_finite(env, i, trace)
    return zeros, decisions


def _check_finite(env: ChunkedVectorEnv, slot: int, trace: _Trace) -> None:
    """Refuse an episode that holds NaN or infinity, with the first place of it."""
    episode = trace.episode()
    for place, values in (("observation", episode.observations), ("reward", episode.rewards[:, None])):
        bad = ~np.isfinite(values).all(axis=1)
        if bad.any():
            # observation t is that after t steps, reward t that of step t + 1
            step = int(bad.argmax()) + (place == "reward")
            raise NotFiniteError(
                f"{env.task_id}: {place} not finite at step {step} of the episode of seed {trace.seed} "
                f"(environment {slot}): {values[bad.argmax()]}. Mend the environment.",
                f"episode-{trace.seed}",
                _record(trace),
            )


def _bad_action(
    env: ChunkedVectorEnv, wave: list[_Trace], running: list[int], chunks: np.ndarray
) -> NotFiniteError:
    slot = next(i for i in running if not np.isfinite(chunks[i]).all())
    trace = wave[slot]
    return NotFiniteError(
        f"{env.task_id}: the policy's actions are not finite after step {len(trace.actions)} of the episode "
        f"of seed {trace.seed} (environment {slot}); the environment was not given them.",
        f"episode-{trace.seed}",
        {**_record(trace), "refused_chunk": chunks[slot]},
    )


def _record(trace: _Trace) -> dict[str, np.ndarray]:
    episode = trace.episode()
    return {
        "seed": np.asarray(episode.seed),
        "observations": episode.observations,
        "actions": episode.actions,
        "rewards": episode.rewards,
    }


@eqx.filter_jit
def _decide(
    policy: Policy, observations: np.ndarray, action_seed: np.int32, seeds: np.ndarray, decision: np.uint32
) -> tuple[Float[Array, "n h act"], Bool[Array, " n"]]:
    """Keys and chunks in one compiled call: each call costs a third of a millisecond."""
    return policy.act_batch(jnp.asarray(observations), decision_keys(action_seed, seeds, decision))
