"""Rounds of training episodes: the collecting policy, and the scheduling of workers."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from otpr.agents.parts.agent import Agent, OffPolicyAgent
from otpr.data.seeds import training_seed
from otpr.devices import on_first
from otpr.errors import OtprError
from otpr.policies.policy import Policy
from otpr.training.loop import LoopConfig, Progression
from otpr.training.rollout import Rollout
from otpr.training.safeguard import Arm
from otpr.training.stopping import StopRequest
from otpr.training.workers import Pending, Workers


class Collection(NamedTuple):
    """A round that was collected."""

    rollout: Rollout
    arm: Arm  # who collected it
    late: dict[str, float]  # how far behind the policy was, by metric name; empty where it cannot be


class _Asked(NamedTuple):
    """Episodes that were requested from workers."""

    pending: Pending
    round: int  # the one that was collected when they were asked for
    updates: int  # gradient steps of the policy that runs them
    arm: Arm


class Rounds:
    """Requests the rounds of a run from workers, one at a time, or some ahead in asynchronous runs.

    Args:
        workers: run the episodes.
        base: the pre-trained policy.
        loop: the loop's settings.
        seed: the run's.
        stop: ends a wait when a signal has asked for it.
    """

    def __init__(self, workers: Workers, base: Policy, loop: LoopConfig, seed: int, stop: StopRequest):
        self._workers, self._base, self._loop, self._seed, self._stop = workers, base, loop, seed, stop
        self._asked: deque[_Asked] = deque()

    def take(self, at: Progression, agent: Agent) -> Collection:
        """Wait for the next round, which is requested now unless it was requested ahead."""
        number = self._number(at)
        if not self._asked:
            self._ask(at, agent, number, at.episodes)
        asked = self._asked.popleft()
        # looked at meanwhile: episodes of a slow simulator take minutes
        rollout = asked.pending.result(on_wait=self._stop.abandon)
        late: dict[str, float] = {}
        if self._loop.asynchronous:
            late = {
                "rollout/rounds_late": number - asked.round,
                "rollout/updates_late": at.updates - asked.updates,
            }
        return Collection(rollout, asked.arm, late)

    def ask_ahead(self, at: Progression, agent: Agent) -> None:
        """Request the rounds that may run while the agent learns from the last one."""
        if not self._loop.asynchronous or at.env_steps >= self._loop.env_steps:
            return
        while len(self._asked) < self._loop.most_rounds_late:
            first = at.episodes + self._loop.num_envs * len(self._asked)
            self._ask(at, agent, self._number(at) - 1, first)

    def _number(self, at: Progression) -> int:
        return at.episodes // self._loop.num_envs

    def _ask(self, at: Progression, agent: Agent, number: int, first: int) -> None:
        """Ask for a round by the policy as it is now.

        Args:
            at: where the run stands.
            agent: the algorithm.
            number: of the round that is being collected.
            first: number of the first episode asked for.
        """
        explorer, arm = self._explorer(at, agent, first)
        self._stop.do(self._workers.prepare, explorer)
        seeds = [training_seed(self._seed, first + i) for i in range(self._loop.num_envs)]
        pending = self._workers.start(explorer, seeds, action_seed=self._seed)
        self._asked.append(_Asked(pending, number, at.updates, arm))

    def _explorer(self, at: Progression, agent: Agent, first: int) -> tuple[Policy, Arm]:
        """The policy that collects a round, and which arm of the safeguard it is."""
        exploring = agent.exploring()
        if not at.updates:  # untrained critics choose no better than chance
            return on_first(exploring.single()), "base"
        arm: Arm = "learnt"
        if self._loop.safeguard:
            arm = at.evidence.drawn(arms(agent), [self._seed, first])
        if arm == "base":
            return self._base.single(), arm
        return on_first(exploring.single() if arm == "single" else exploring), arm


def arms(agent: Agent) -> list[Arm]:
    """The arms of the safeguard beside "base": "single" is one of them if the fine-tuned policy chooses."""
    return ["learnt", "single"] if agent.deployed().chooser is not None else ["learnt"]


def check_rounds(loop: LoopConfig, agent: Agent, workers: Workers, *, from_base: bool) -> None:
    """Check that algorithm and workers support the settings of collection.

    Args:
        loop: the settings.
        agent: the algorithm.
        workers: run the episodes.
        from_base: whether its first policy acts as the pre-trained one does.

    Raises:
        OtprError: a setting is not supported; the message says which and why.
    """
    off_policy, algorithm = isinstance(agent, OffPolicyAgent), agent.config.algorithm
    if loop.asynchronous and not off_policy:
        raise OtprError(
            f"--async needs an algorithm that learns from any policy's experience, and {algorithm} does not. "
            "Leave it out."
        )
    if loop.asynchronous and not workers.ahead:
        raise OtprError("--async needs workers that act by themselves: --rollout local, or ray.")
    if loop.safeguard and not (off_policy and from_base):
        raise OtprError(
            f"--safeguard lets the pre-trained policy collect some of the rounds, and {algorithm} cannot "
            "learn from them, or makes another policy than that. Leave it out, or take another algorithm "
            "(docs/safeguard.md)."
        )
