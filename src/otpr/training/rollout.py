"""Whole episodes of a policy in a vectorised environment."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from otpr.data.episodes import Episode
from otpr.envs import ChunkedVectorEnv, ChunkStep
from otpr.policies.acting import decision_keys, recent
from otpr.policies.asked import Asked, NoPlansError
from otpr.policies.policy import Policy
from otpr.policies.prefix import Prefix
from otpr.spec import Spec, zeros
from otpr.training.faults import NotFiniteError


class Delay(NamedTuple):
    """A robot that needs time to decide.

    Attributes:
        steps: number of actions between an observation and the arrival of its plan, at least 1.
        waits: whether the robot meanwhile executes zero actions instead of continuing the previous plan. If
            it does not wait, the first plan of an episode is available at its start.
    """

    steps: int
    waits: bool


class Rollout(NamedTuple):
    """Finished episodes, and metrics of their decisions."""

    episodes: list[Episode]  # those that the environment did not break, in the order of their seeds
    sums: Mapping[str, float]  # of what the chooser reported, over all decisions
    decisions: int
    broken: dict[int, str]  # seeds of the others, each with the cause; nothing is kept of them

    @property
    def metrics(self) -> dict[str, float]:
        """The chooser's metrics, as means over decisions."""
        return {name: total / max(self.decisions, 1) for name, total in self.sums.items()}


def run_episodes(
    env: ChunkedVectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    *,
    action_seed: int,
    on_wave: Callable[[int], None] | None = None,
    on_chunk: Callable[[], None] | None = None,
    delay: Delay | None = None,
) -> Rollout:
    """Run one whole episode for each seed, `env.num_envs` at a time, in the order of `seeds`.

    The randomness of an episode's actions depends on `action_seed`, its environment seed and the number of
    the decision, and not on other episodes.

    Args:
        env: environments to step, as many actions at a time as the policy executes.
        policy: what acts.
        seeds: environment seeds, each fixing an initial condition.
        action_seed: seed of the policy's sampling.
        on_wave: called with the number of finished episodes of each wave.
        on_chunk: called before each decision; what it raises leaves the episodes as they are.
        delay: of each decision. Where the robot waits, `env` steps as many more actions at a time.

    Raises:
        NotFiniteError: an observation, a reward or an action is NaN or infinite. It carries the episode.
        BrokenEnvironmentError: the environment broke too often; see `ChunkedVectorEnv`.
    """
    episodes, broken, decisions = [], {}, 0
    sums: Counter[str] = Counter()
    for start in range(0, len(seeds), env.num_envs):
        wave = [_Trace(seed, policy.spec) for seed in seeds[start : start + env.num_envs]]
        decisions += _run_wave(env, policy, wave, action_seed, on_chunk, sums, delay)
        finished = [trace.episode() for trace in wave if trace.broken is None]
        broken |= {trace.seed: trace.broken for trace in wave if trace.broken is not None}
        episodes += finished
        if on_wave is not None:
            on_wave(len(finished))
    return Rollout(episodes, sums, decisions, broken)


def compile_acting(policy: Policy, env: ChunkedVectorEnv) -> None:
    """Compile what `run_episodes` asks of the policy, which takes seconds, where it has not been yet."""
    seen = zeros(policy.spec.observation, env.num_envs, policy.spec.history)
    seeds = np.zeros(env.num_envs, np.uint32)
    offered = policy.offered(seen, decision_keys(0, seeds, 0), rows=())
    given = policy.encoder.on_device(seen)
    jax.block_until_ready(_decide(policy, given, np.int32(0), seeds, np.uint32(0), offered=offered))


def acts_alike(one: Policy, other: Policy, n: int) -> bool:
    """Whether two policies decide alike, but for rounding, for `n` observations of zeros and some keys."""
    if one.spec != other.spec:
        return False
    if isinstance(one.generator, Asked) and isinstance(other.generator, Asked):
        return one.generator.desk is other.generator.desk
    seen = zeros(one.spec.observation, n, one.spec.history)
    seeds = np.arange(n, dtype=np.uint32)

    def decided(policy: Policy) -> Float[Array, "n e a"]:
        return _decide(policy, policy.encoder.on_device(seen), np.int32(0), seeds, np.uint32(0))[0]

    return bool(np.allclose(decided(one), decided(other), atol=1e-3))


class _Trace:
    """An episode in progress."""

    def __init__(self, seed: int, spec: Spec):
        self.seed, self._spec = seed, spec
        self.observations: dict[str, list[np.ndarray]] = {name: [] for name in spec.observation}
        self.looked: list[int] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.terminated = self.truncated = self.success = False
        self.broken: str | None = None

    @property
    def over(self) -> bool:
        return self.terminated or self.truncated or self.broken is not None

    def start(self, first: Mapping[str, np.ndarray]) -> None:
        """Add the first observation."""
        for name, seen in self.observations.items():
            seen.append(first[name].copy())
        self.looked.append(0)

    def extend(self, slot: int, chunk: np.ndarray, step: ChunkStep) -> None:
        """Add the results of a decision's actions; `slot` is that of the episode."""
        n = int(step.steps[slot])
        looked = np.flatnonzero(step.looked[slot, :n])
        self.looked.extend(len(self.actions) + 1 + int(i) for i in looked)
        for name, rows in step.observations.items():
            self.observations[name].extend(rows[slot, :n].copy())
        for name, frames in step.images.items():
            self.observations[name].extend(frames[slot, : len(looked)].copy())
        self.actions.extend(chunk[:n])
        self.rewards.extend(step.rewards[slot, :n])
        self.terminated = bool(step.terminated[slot])
        self.truncated = bool(step.truncated[slot])
        self.success = self.success or bool(step.success[slot])

    def last(self, name: str) -> np.ndarray:
        """The last observations that a decision sees, (history, *shape); before the first that repeats."""
        seen = recent(self.observations[name], self._spec.history)
        return seen.reshape(self._spec.history, *self._spec.observation[name].shape)

    def episode(self) -> Episode:
        looked = np.asarray(self.looked, np.int32)
        return Episode(
            observations={
                name: np.asarray(seen, self._spec.observation[name].dtype)
                for name, seen in self.observations.items()
            },
            actions=np.asarray(self.actions, np.float32).reshape(-1, self._spec.action_dim),
            rewards=np.asarray(self.rewards, np.float32),
            terminated=self.terminated,
            truncated=self.truncated,
            success=self.success,
            seed=self.seed,
            looked=looked if self._spec.images and len(looked) <= len(self.actions) else None,
        )


def _run_wave(
    env: ChunkedVectorEnv,
    policy: Policy,
    wave: list[_Trace],
    action_seed: int,
    on_chunk: Callable[[], None] | None,
    sums: Counter[str],
    delay: Delay | None,
) -> int:
    """Run each trace to its end, add what the chooser reports to `sums`; the number of decisions."""
    idle = env.num_envs - len(wave)
    first = env.reset([*(trace.seed for trace in wave), *([None] * idle)])
    for slot, trace in enumerate(wave):
        trace.broken = env.broken.get(slot)
        trace.start({name: rows[slot] for name, rows in first.items()})
        if trace.broken is None:
            _check_finite(env, slot, trace)
    seen = zeros(policy.spec.observation, env.num_envs, policy.spec.history)
    seeds = np.asarray([*(trace.seed for trace in wave), *([0] * idle)], np.uint32)
    decisions = decision = 0
    ahead: Float[Array, "n d a"] | None = None  # what will be executed while the next plans are made
    while running := [i for i, trace in enumerate(wave) if not trace.over]:
        if on_chunk is not None:
            on_chunk()
        for i in running:
            for name, rows in seen.items():
                rows[i] = wave[i].last(name)
        offered = None
        if policy.asks:
            try:
                offered = policy.offered(seen, decision_keys(action_seed, seeds, decision), running)
            except NoPlansError as error:
                for i in running:
                    wave[i].broken = str(error)
                break
        given = policy.encoder.on_device(seen)
        on_device = _decide(
            policy, given, np.int32(action_seed), seeds, np.uint32(decision), delay, ahead, offered
        )
        ahead = on_device[2]
        chunks, metrics = jax.device_get(on_device[:2])
        if not np.isfinite(chunks[running]).all():
            raise _bad_action(env, wave, running, chunks)
        step = env.step(chunks)
        decision += 1
        decisions += len(running)
        sums.update({name: float(values[running].sum()) for name, values in metrics.items()})
        for i in running:
            trace = wave[i]
            if i in env.broken:
                trace.broken = env.broken[i]
                continue
            trace.extend(i, chunks[i], step)
            finite = all(np.isfinite(rows[i]).all() for rows in step.observations.values())
            if not (finite and np.isfinite(step.rewards[i]).all()):
                _check_finite(env, i, trace)
    return decisions


def _check_finite(env: ChunkedVectorEnv, slot: int, trace: _Trace) -> None:
    """Check that an episode is finite; the error names the first place that is not."""
    episode = trace.episode()
    places = [("observation", array) for array in episode.observations.values() if array.dtype.kind == "f"]
    for place, values in (*places, ("reward", episode.rewards)):
        flat = values.reshape(len(values), math.prod(values.shape[1:]))
        bad = ~np.isfinite(flat).all(axis=1)
        if bad.any():
            # observation t is that after t steps, reward t that of step t + 1
            step = int(bad.argmax()) + (place == "reward")
            raise NotFiniteError(
                f"{env.task_id}: {place} not finite at step {step} of the episode of seed {trace.seed} "
                f"(environment {slot}): {flat[bad.argmax()]}. Mend the environment.",
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
        {**_record(trace), "refused_actions": chunks[slot]},
    )


def _record(trace: _Trace) -> dict[str, np.ndarray]:
    episode = trace.episode()
    return {
        "seed": np.asarray(episode.seed),
        **{f"observations/{name}": array for name, array in episode.observations.items()},
        "actions": episode.actions,
        "rewards": episode.rewards,
    }


@eqx.filter_jit
def _decide(
    policy: Policy,
    seen: Any,
    action_seed: np.int32,
    seeds: np.ndarray,
    decision: np.uint32,
    delay: Delay | None = None,
    ahead: Float[Array, "n d a"] | None = None,
    offered: np.ndarray | None = None,
) -> tuple[Float[Array, "n e a"], dict[str, Float[Array, " n"]], Float[Array, "n d a"] | None]:
    """Keys and actions in one compiled call: each call costs a third of a millisecond.

    Returns:
        The actions to execute, the chooser's metrics, and the actions after them that will be executed while
        the next plan is made (None without a delay, or where the robot waits for it).
    """
    keys, executed = decision_keys(action_seed, seeds, decision), policy.spec.executed
    prefixes = None if ahead is None else Prefix.of(ahead, policy.spec)
    plans, metrics = policy.plan_batch(seen, keys, prefixes, offered)
    if delay is None:
        return plans[:, executed], metrics, None
    if delay.waits:
        return jnp.pad(plans[:, executed], [(0, 0), (delay.steps, 0), (0, 0)]), metrics, None
    return plans[:, executed], metrics, Prefix.left(plans, delay.steps, policy.spec)
