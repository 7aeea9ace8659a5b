"""The rounds of episodes that a run asks its workers for, the next ones while it learns where it may."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from otpr.data.seeds import training_seed
from otpr.policies.policy import Policy
from otpr.training.loop import LoopConfig, Progression
from otpr.training.workers import Pending, Workers


class AskedRound(NamedTuple):
    """Episodes that workers were asked for."""

    pending: Pending
    during: int  # the number of the round that was collected when they were asked for
    updates: int  # gradient steps of the policy that runs them
    learnt: bool  # whether that is what was learnt


class Rounds:
    """Asks for rounds in their order, and takes them in that order.

    Args:
        workers: run the episodes.
        loop: how many episodes a round has, and by how many rounds a policy may be late.
        seed: of the run.
    """

    def __init__(self, workers: Workers, loop: LoopConfig, seed: int):
        self._workers, self._loop, self._seed = workers, loop, seed
        self._asked: deque[AskedRound] = deque()

    def take(self, at: Progression, explorer: Callable[[int], tuple[Policy, bool]]) -> AskedRound:
        """The next round, asked for now if nobody was asked for it before.

        Args:
            at: where the run stands.
            explorer: the policy, prepared, of the round whose first episode has this number, and whether it
                is what was learnt.
        """
        if not self._asked:
            self._ask(at, explorer)
        return self._asked.popleft()

    def ask_ahead(self, at: Progression, explorer: Callable[[int], tuple[Policy, bool]]) -> None:
        """Ask for as many of the next rounds as a policy may be late by; `at` does not count this one yet."""
        n = self._loop.num_envs
        while len(self._asked) < self._loop.most_rounds_late:
            self._ask(at, explorer, at.episodes + n * (len(self._asked) + 1))

    def late(self, at: Progression, taken: AskedRound) -> dict[str, float]:
        """Metrics: how far the policy of a round was behind; `at` does not count the round yet."""
        return {
            "rollout/rounds_late": at.episodes // self._loop.num_envs - taken.during,
            "rollout/updates_late": at.updates - taken.updates,
        }

    def _ask(
        self, at: Progression, explorer: Callable[[int], tuple[Policy, bool]], first: int | None = None
    ) -> None:
        n = self._loop.num_envs
        first = at.episodes if first is None else first
        policy, learnt = explorer(first)
        seeds = [training_seed(self._seed, first + i) for i in range(n)]
        pending = self._workers.start(policy, seeds, action_seed=self._seed)
        self._asked.append(AskedRound(pending, at.episodes // n, at.updates, learnt))
