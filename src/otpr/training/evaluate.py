"""Success rates and returns on held-out initial conditions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from otpr.data.seeds import evaluation_seed
from otpr.envs import BrokenEnvironmentError
from otpr.policies.policy import Policy
from otpr.training.intervals import Interval, wilson_interval
from otpr.training.progress import Progress
from otpr.training.rollout import Delay, Rollout
from otpr.training.stopping import StopRequest
from otpr.training.workers import Workers

ACTION_SEED = 2**31 - 1
"""Seed of action sampling in all evaluations, so that results only differ by the policy."""


class Evaluation(NamedTuple):
    """The results of a number of episodes."""

    outcomes: tuple[bool, ...]  # success of each episode, in the order of the conditions
    returns: tuple[float, ...]  # the sum of each episode's rewards, without discount, in the same order
    mean_length: float  # environment steps per episode
    execute: int  # number of executed actions of each plan
    metrics: Mapping[str, float]  # the chooser's metrics, as means over decisions

    @property
    def successes(self) -> int:
        """Number of successful episodes."""
        return sum(self.outcomes)

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return len(self.outcomes)

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return self.successes / self.episodes

    @property
    def interval(self) -> Interval:
        """95% Wilson interval of the success rate."""
        return wilson_interval(self.successes, self.episodes)

    @property
    def mean_return(self) -> float:
        """Mean return; with a reward for each subtask, the mean number of completed subtasks."""
        return sum(self.returns) / self.episodes

    def __str__(self) -> str:
        low, high = self.interval
        rate = f"{self.success_rate:.0%} ({self.successes} of {self.episodes}; 95%: {low:.0%} to {high:.0%})"
        # with a reward of 1 for success, the mean return is the success rate
        says_more = any(back != float(won) for back, won in zip(self.returns, self.outcomes, strict=True))
        return f"{rate}, mean return {self.mean_return:.3g}" if says_more else rate


def evaluate(
    policy: Policy,
    workers: Workers,
    episodes: int,
    *,
    on_wave: Callable[[int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    delay: Delay | None = None,
) -> Evaluation:
    """Run the policy once from each of the first `episodes` held-out initial conditions.

    The conditions and the randomness of the actions are the same for every policy and every run. An episode
    that fails because of the environment is repeated once from the same condition, because leaving it out or
    counting it as a failure would cause a bias. A second such failure ends the evaluation.

    Args:
        policy: the deployed policy, or `policy.single()` for one sample without a choice.
        workers: run the episodes; their number does not change the conditions.
        episodes: number of episodes, >= 1.
        on_wave: called with the number of episodes finished since the last call.
        on_wait: called repeatedly while they run; an exception ends the evaluation.
        delay: see `run_episodes`.

    Raises:
        BrokenEnvironmentError: an episode failed twice, or environments failed too often; see
            `ChunkedVectorEnv`.
        NotFiniteError: see `run_episodes`.
    """
    seeds = [evaluation_seed(i) for i in range(episodes)]

    def run(seeds: Sequence[int]) -> Rollout:
        pending = workers.start(policy, seeds, action_seed=ACTION_SEED, delay=delay)
        return pending.result(on_wave=on_wave, on_wait=on_wait)

    rollout = run(seeds)
    finished, sums, decisions = rollout.episodes, Counter(rollout.sums), rollout.decisions
    if rollout.broken:
        again = run(list(rollout.broken))
        if again.broken:
            seed, cause = next(iter(again.broken.items()))
            raise BrokenEnvironmentError(
                f"The environment broke twice in the evaluation episode of seed {seed}, so there is no "
                f"success rate. The second time: {cause}"
            )
        finished = finished + again.episodes
        sums.update(again.sums)
        decisions += again.decisions
    by_seed = {episode.seed: episode for episode in finished}
    return Evaluation(
        outcomes=tuple(by_seed[seed].success for seed in seeds),
        returns=tuple(by_seed[seed].total_reward for seed in seeds),
        mean_length=sum(len(episode) for episode in finished) / episodes,
        execute=policy.spec.execute,
        metrics={name: total / decisions for name, total in sums.items()},
    )


def evaluate_both(
    deployed: Policy, workers: Workers, episodes: int, *, single: bool, stop: StopRequest
) -> tuple[Evaluation, Evaluation | None]:
    """Evaluate the deployed policy and, on request, one sample of it, with a progress display.

    Args:
        deployed: the policy.
        workers: run the episodes.
        episodes: number of episodes of each, >= 1.
        single: whether to evaluate one sample as well.
        stop: ends the evaluation when a signal has asked for it.

    Returns:
        Both evaluations. They are the same for a policy without a chooser; otherwise, the second is None
        without `single`.
    """
    total = 2 * episodes if single else episodes
    with Progress(total, "evaluation", "episodes", closing_line=False) as bar:

        def run(policy: Policy) -> Evaluation:
            stop.do(workers.prepare, policy)
            return evaluate(policy, workers, episodes, on_wave=bar.advance, on_wait=stop.abandon)

        chosen = run(deployed)
        if deployed.chooser is None:
            return chosen, chosen
        return chosen, run(deployed.single()) if single else None
