"""What a fine-tuning run is told about its loop, and where it stands in it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from otpr.agents.parts.agent import AgentConfig
from otpr.errors import OtprError, check_at_least
from otpr.training.safeguard import Evidence, Outcomes


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How interaction and learning alternate."""

    # environment steps in all; the last round may overshoot them by less than its episodes
    env_steps: int = 40_000
    # episodes a round, run side by side
    num_envs: int = 8
    # environment steps before learning starts
    warmup_steps: int = 2_000
    # gradient steps that are compiled into one program, between two rows of metrics
    update_block: int = 250
    # environment steps between evaluations
    eval_every: int = 10_000
    # episodes of an evaluation on the way
    eval_episodes: int = 50
    # episodes of the first evaluation, of the base policy, and of the last
    final_eval_episodes: int = 100
    # when one sample, without a chooser, is evaluated beside the policy as deployed
    single: Literal["always", "end", "never"] = "always"
    # do not evaluate the pre-trained policy first, where the algorithm starts from it
    no_base_evaluation: bool = False
    # environment steps between checkpoints
    checkpoint_every: int = 10_000
    # seconds that a simulator process may take for a chunk; ten times as many to make and reset environments
    env_timeout: float = 60.0
    # end the run once more than half of the critics' values are beyond what the rewards allow
    stop_on_divergence: bool = False
    # deploy what was learnt only while it succeeds more often than the pre-trained policy with this
    # probability, by training episodes of both (docs/safeguard.md); 0: always
    safeguard: float = 0.0

    def __post_init__(self):
        """Refuse numbers that make no loop."""
        check_at_least(
            1,
            self,
            "env_steps",
            "num_envs",
            "update_block",
            "eval_every",
            "eval_episodes",
            "final_eval_episodes",
            "checkpoint_every",
        )
        check_at_least(0, self, "warmup_steps")
        check_at_least(0.001, self, "env_timeout")
        if not 0 <= self.safeguard < 1:
            raise OtprError(f"safeguard is a probability, at least 0 and below 1; given {self.safeguard:g}.")
        if self.warmup_steps >= self.env_steps:
            raise OtprError(
                f"warmup_steps must be below env_steps, or nothing is learnt; given {self.warmup_steps} and "
                f"{self.env_steps}."
            )

    def record(self) -> dict[str, Any]:
        """The settings as a run's configuration keeps them; the safeguard only where it is used."""
        left_out = set() if self.safeguard else {"safeguard"}
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in left_out}


@dataclasses.dataclass
class Progression:
    """Where a run stands."""

    env_steps: int = 0
    episodes: int = 0  # started
    broken_episodes: int = 0  # of these, lost to the environment
    offline_updates: int = 0  # gradient steps taken before the first environment step
    warmup_updates: int = 0
    updates: int = 0  # gradient steps taken, all of them
    updates_due: float = 0.0  # gradient steps that the environment steps ask for and that are not taken
    round_due: bool = False  # what an agent does once a round, after its updates
    rounds: int = 0  # in which that was done
    evaluated_at: int = -1
    checkpointed_at: int = 0
    rows: int = 0  # of metrics
    seconds: float = 0.0  # wall-clock, over all sittings
    recent: list[bool] = dataclasses.field(default_factory=list)  # outcomes of the last training episodes
    base_success: float | None = None
    success: float | None = None  # of the last evaluation
    success_single: float | None = None
    base_return: float | None = None  # the mean sum of rewards, likewise
    mean_return: float | None = None
    mean_return_single: float | None = None
    own: dict[str, float] = dataclasses.field(default_factory=dict)  # the algorithm's own last metrics
    base_outcomes: list[float] = dataclasses.field(default_factory=list)  # what the safeguard knows of the
    learnt_outcomes: list[float] = dataclasses.field(default_factory=list)  # two policies, as `Outcomes`
    files: int = 0  # of experience, in the run directory
    files_digest: str = ""  # of them all

    @property
    def evidence(self) -> Evidence:
        """What the safeguard knows."""
        return Evidence(Outcomes(*self.base_outcomes), Outcomes(*self.learnt_outcomes))

    @evidence.setter
    def evidence(self, evidence: Evidence) -> None:
        self.base_outcomes, self.learnt_outcomes = [*evidence.base], [*evidence.learnt]

    def learned(self, phase: Phase, n: int) -> None:
        """Count `n` gradient steps of a phase."""
        self.updates += n
        if phase == "offline":
            self.offline_updates += n
        elif phase == "warm-up":
            self.warmup_updates += n
        else:
            self.updates_due -= n

    @classmethod
    def of(cls, state: dict[str, Any]) -> Progression:
        """From what a checkpoint says; fields that are newer than it keep their defaults.

        Raises:
            OtprError: names the first field that is unknown or of another type.
        """
        defaults = dataclasses.asdict(cls())
        for name, value in state.items():
            default = defaults.get(name, ...)
            # None stands for a number that is not known yet; JSON may write 1.0 as 1
            number = default is None or isinstance(default, float)
            if type(value) not in ((int, float, type(default)) if number else (type(default),)):
                raise OtprError(
                    f"The checkpoint says {name} = {value!r}, which no run can be in. Resume with the "
                    "otpr that the run's versions.json names."
                )
        return cls(**state)


Step = Literal["evaluate", "learn", "end_round", "collect"]
"""What a run can do next."""


def next_step(
    at: Progression, loop: LoopConfig, agent: AgentConfig, *, learns: bool, from_base: bool
) -> Step | None:
    """What the state of a run calls for; None at the end.

    Args:
        at: where the run stands.
        loop: its loop's settings.
        agent: its algorithm's settings.
        learns: whether the algorithm learns anything.
        from_base: whether its first policy acts as the pre-trained one does.
    """
    offline = at.offline_updates < agent.offline_updates
    # the pre-trained policy, or the first policy of an algorithm that makes its own
    if at.evaluated_at < 0 and (from_base or not offline):
        return "evaluate"
    if not learns:
        return None
    if offline:
        return "learn"
    if at.env_steps >= loop.warmup_steps:
        if at.warmup_updates < agent.warmup_updates or at.updates_due >= loop.update_block:
            return "learn"
        if at.round_due:
            return "end_round"
    over = at.env_steps >= loop.env_steps
    # by multiples of `eval_every`: counted from the last evaluation, long rounds would lose some
    due = at.env_steps // loop.eval_every > at.evaluated_at // loop.eval_every
    if at.evaluated_at < at.env_steps and (over or due):
        return "evaluate"
    return None if over else "collect"


def next_block(at: Progression, loop: LoopConfig, agent: AgentConfig) -> tuple[Phase, int]:
    """Of which phase the next block of gradient steps is, and how many it has."""
    if (left := agent.offline_updates - at.offline_updates) > 0:
        return "offline", min(left, loop.update_block)
    if (left := agent.warmup_updates - at.warmup_updates) > 0:
        return "warm-up", min(left, loop.update_block)
    return "online", loop.update_block


Phase = Literal["offline", "warm-up", "online"]
"""Gradient steps before the first environment step, of the critics alone, and of critics and policy."""
