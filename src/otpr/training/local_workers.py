"""Workers that are processes of this machine."""

from __future__ import annotations

import itertools
import signal
from typing import NamedTuple

from otpr.envs import Setup
from otpr.envs.served import ServedProcess
from otpr.policies.packed import PackedPolicy
from otpr.training.episode_runner import worker_env
from otpr.training.rollout import Rollout
from otpr.training.workers import Wave


class Shared(NamedTuple):
    """A policy and its number."""

    number: int
    policy: PackedPolicy


class LocalCrew:
    """Makes workers that are processes of this machine.

    Args:
        setup, num_envs, execute, history, timeout: see `EpisodeRunner`.
    """

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int, timeout: float):
        self._arguments = (setup, num_envs, execute, history, timeout)
        self._numbers = itertools.count()

    def hire(self) -> LocalWorker:
        """See `Crew.hire`."""
        return LocalWorker(*self._arguments)

    def share(self, policy: PackedPolicy) -> Shared:
        """See `Crew.share`."""
        return Shared(next(self._numbers), policy)

    def close(self) -> None:
        """Nothing is left."""


class LocalWorker(ServedProcess):
    """An `EpisodeRunner` in a process of its own, with JAX on one thread."""

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int, timeout: float):
        self._timeout, self._known = timeout, -1
        super().__init__(
            "otpr.training.episode_runner:EpisodeRunner",
            (setup, num_envs, execute, history, timeout),
            task_id=setup.task,
            who="the worker",
            env=worker_env(),
        )

    def run(self, policy: Shared, wave: Wave) -> Rollout:
        """See `Worker.run`."""
        known, self._known = self._known, policy.number
        # the arrays cross once, not with every wave
        self.send("run", policy.number, None if known == policy.number else policy.policy, wave)
        return self.receive()

    def _died(self, status: int) -> str:
        if status == -signal.SIGALRM:
            return (
                f"the environment hung: no chunk of actions within {self._timeout:g} seconds, or no reset "
                "within ten times that."
            )
        return super()._died(status)
