"""Collecting episodes with the policy, against the environments alone replaying the very same actions."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.subjects import default_agent
from benchmarks.timing import in_turns, medians, ratio
from otpr.data.episodes import Episode
from otpr.data.seeds import training_seed
from otpr.envs import ChunkedVectorEnv, Setup
from otpr.policies.policy import Policy
from otpr.spec import STATE
from otpr.training.rollout import run_episodes

TASK = "metaworld/peg-insert-side-v3"
CHUNK_LENGTH = 4


def rollout(sizes: Sizes) -> list[Row]:
    """Environment steps a second with the policy, over those without: before learning, and after it began.

    Until its critics have learnt something a run draws one sample; then it chooses among candidates.
    """
    agent = default_agent(sizes, CHUNK_LENGTH, levels=10)
    policies = {"rollout_vs_bare": agent.actor.policy, "rollout_choosing_vs_bare": agent.deployed()}
    return against_bare(Setup(TASK), policies, {"rollout_vs_bare": 0.85}, sizes)


def against_bare(
    setup: Setup, policies: Mapping[str, Policy], at_least: Mapping[str, float], sizes: Sizes
) -> list[Row]:
    """A row for each policy: its steps a second over those of the environments alone.

    Args:
        setup: the task; where it has cameras, both sides render the same frames.
        policies: by the row's name; they execute `CHUNK_LENGTH` actions at a time.
        at_least: targets, by the row's name.
        sizes: of the run.
    """
    about = "environment steps a second of collecting / of the same environments replaying the same actions"
    if setup.cameras:
        about += ", the same frames rendered on both sides"
    seeds = [training_seed(0, i) for i in range(sizes.num_envs)]
    rows: list[Row] = []
    with ChunkedVectorEnv(setup, sizes.num_envs, CHUNK_LENGTH, processes=True) as env:
        for name, policy in policies.items():
            collect = functools.partial(_collect, env, policy, seeds)
            recorded = collect()
            chunks = chunks_of(recorded, CHUNK_LENGTH)
            replay(env, seeds, chunks, recorded)  # once with a look at what comes of it
            bare = functools.partial(replay, env, seeds, chunks)
            times = in_turns({"bare": bare, "with policy": collect}, sizes.rollout_turns)
            steps = sum(len(episode) for episode in recorded)
            rows.append(
                Row(
                    name,
                    ratio(times["bare"], times["with policy"]),
                    "of the steps/s",
                    about,
                    medians(times),
                    at_least=at_least.get(name),
                    note=f"{sizes.num_envs} environments, {policy.candidates} candidates, "
                    f"{steps / medians(times)['with policy']:,.0f} steps/s with the policy",
                    details={"environment steps": steps},
                )
            )
    return rows


def _collect(env: ChunkedVectorEnv, policy: Policy, seeds: list[int]) -> list[Episode]:
    return run_episodes(env, policy, seeds, action_seed=0).episodes


def chunks_of(episodes: list[Episode], chunk_length: int) -> np.ndarray:
    """The actions of all episodes, (decisions, n, h, action_dim), zeros after an episode's end."""
    decisions = max(-(-len(episode) // chunk_length) for episode in episodes)
    n, action_dim = len(episodes), episodes[0].actions.shape[1]
    actions = np.zeros((n, decisions * chunk_length, action_dim), np.float32)
    for i, episode in enumerate(episodes):
        actions[i, : len(episode)] = episode.actions
    return actions.reshape(n, decisions, chunk_length, action_dim).swapaxes(0, 1).copy()


def replay(
    env: ChunkedVectorEnv, seeds: list[int], chunks: np.ndarray, expected: list[Episode] | None = None
) -> None:
    """Step the environments through the chunks.

    Raises:
        RuntimeError: another episode came of it than `expected`, so the two sides do not do the same.
    """
    env.reset(seeds)
    steps = [env.step(chunk) for chunk in chunks]
    if expected is not None:
        taken = np.sum([step.steps for step in steps], axis=0)
        same = np.array([len(episode) for episode in expected]) == taken
        last = np.array([episode.observations[STATE][-1] for episode in expected])
        if not (same.all() and np.array_equal(steps[-1].observations[STATE][:, -1], last)):
            raise RuntimeError(
                "The replayed episodes differ from the recorded ones; expected the same states."
            )
