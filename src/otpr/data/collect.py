"""Collection of demonstrations by a scripted expert with noisy actions; only successes are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.seeds import demonstration_seed
from otpr.envs import Expert, Setup, make_env, make_expert, task_spec
from otpr.envs.task_env import TaskEnv, by_name
from otpr.errors import OtprError
from otpr.spec import Spec

# The collection stops at fewer than one success in this many attempts.
_ATTEMPTS_PER_EPISODE = 50


def collect(
    task: str | Setup,
    *,
    episodes: int,
    noise: float,
    seed: int,
    user_expert: str | None = None,
    on_episode: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Run an expert until `episodes` attempts have succeeded, and return these.

    Gaussian noise is added to the expert's action, and the sum is clipped to [-1, 1]; the stored action is
    the executed one. Attempt i starts from `demonstration_seed(seed, i)` and has its own noise stream, so
    that the result depends only on the arguments and a larger number of episodes extends a smaller one.

    Args:
        task: a name for `task_spec`, or a setup.
        episodes: number of successes to keep, at least 1.
        noise: standard deviation of the action noise, >= 0, in units of the action range's half width.
        seed: the run's seed, >= 0.
        user_expert: `"module:Class"` of the user's own expert; None: the task's scripted one.
        on_episode: called after each attempt with the numbers kept and attempted so far.

    Raises:
        OtprError: an argument is out of range, the task is unknown or has no episode limit, or fewer than one
            attempt in 50 succeeds.
    """
    if episodes < 1:
        raise OtprError(f"The number of episodes must be at least 1, given {episodes}.")
    if not (np.isfinite(noise) and noise >= 0):
        raise OtprError(f"The noise must be a finite number, at least 0, given {noise}.")
    if seed < 0:
        raise OtprError(f"The seed must not be negative, given {seed}.")
    setup, spec = Setup.of(task), task_spec(task).spec
    env = make_env(setup)
    kept: list[Episode] = []
    attempts = 0
    try:
        expert = make_expert(setup.task, env, user_expert)
        while len(kept) < episodes:
            if attempts >= _ATTEMPTS_PER_EPISODE * (len(kept) + 1):
                raise OtprError(
                    f"The expert of {setup.task!r} succeeded in {len(kept)} of {attempts} attempts "
                    f"with action noise {noise:g}; {episodes} successes are out of reach. Lower the noise."
                )
            episode = _attempt(env, setup, spec, expert, noise, demonstration_seed(seed, attempts))
            attempts += 1
            if episode.success:
                kept.append(episode)
            if on_episode is not None:
                on_episode(len(kept), attempts)
    finally:
        env.close()
    return kept


def _attempt(env: TaskEnv, setup: Setup, spec: Spec, expert: Expert, noise: float, seed: int) -> Episode:
    # A second word of entropy: the environment draws its initial condition from the seed alone, and the noise
    # must be independent of it.
    generator = np.random.default_rng([seed, 1])

    def noisy() -> NDArray[np.float32]:
        action = expert.act(env.whole_observation)
        action = action + noise * generator.standard_normal(action.shape)
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    if not setup.cameras:
        return _episode(env, spec, seed, noisy, expert.reset)
    # Rendering is more expensive than simulating: only successful attempts are repeated and rendered.
    blind = _episode(env, spec, seed, noisy, expert.reset, look=False)
    return _looked_at(env, spec, blind) if blind.success else blind


def _looked_at(env: TaskEnv, spec: Spec, blind: Episode) -> Episode:
    """Repeat an episode with its images.

    Raises:
        OtprError: the environment does not reproduce the episode.
    """
    actions = iter(blind.actions)
    seen = _episode(env, spec, blind.seed, lambda: next(actions), lambda: None, steps=len(blind))
    same = all(np.array_equal(seen.observations[name], blind.observations[name]) for name in spec.vectors)
    if not (same and len(seen) == len(blind) and seen.success == blind.success):
        raise OtprError(
            f"The episode from seed {blind.seed} went otherwise when it was repeated: the environment is not "
            "determined by its seed and the actions, as its tasks should be."
        )
    return seen


def _episode(
    env: TaskEnv,
    spec: Spec,
    seed: int | None,
    act: Callable[[], NDArray[np.float32]],
    begin: Callable[[], None],
    *,
    look: bool = True,
    steps: int | None = None,
) -> Episode:
    """Run one episode.

    Args:
        env: the environment.
        spec: of the task.
        seed: the reset seed.
        act: gives the next action.
        begin: called after the reset.
        look: whether to keep images.
        steps: largest number of steps; None: no limit but the episode's end.
    """
    entries = spec.observation if look else spec.vectors
    observation, info = env.reset(seed=seed)
    begin()
    success = False
    observations: list[Mapping[str, NDArray[Any]]] = [by_name(spec, observation)]
    actions: list[NDArray[np.float32]] = []
    rewards: list[float] = []
    terminated = truncated = False
    while not (terminated or truncated or len(actions) == steps):
        action = act()
        observation, reward, terminated, truncated, info = env.step(action, look)
        observations.append(by_name(spec, observation))
        actions.append(action)
        rewards.append(reward)
        success |= info["success"]
    return Episode(
        observations={name: np.stack([seen[name] for seen in observations]) for name in entries},
        actions=np.stack(actions),
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=truncated,
        success=success,
        seed=seed,
    )
