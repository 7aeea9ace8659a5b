"""The settings of the fine-tuning loop, and the progression of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro

from otpr.agents.parts.agent import AgentConfig
from otpr.errors import OtprError, check_at_least
from otpr.training.evaluate import Evaluation
from otpr.training.safeguard import NAMES, Arm, Evidence, Outcomes


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How interaction and learning alternate."""

    # environment steps in all; the last round may overshoot them by less than its episodes
    env_steps: int = 40_000
    # episodes a round, run side by side
    num_envs: int = 8
    # environments of a worker, whose decisions are made in one call; left out, a round's divided by the
    # workers. Another number may change last bits, another number of workers does not
    envs_per_worker: int | None = None
    # collect the next rounds while learning from the last one: off-policy algorithms only
    asynchronous: Annotated[bool, tyro.conf.arg(name="async")] = False
    # with --async: by how many rounds the policy that collects may be older than the one that learns
    most_rounds_late: int = 1
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
    # deploy the fine-tuned policy, or one sample of it, only while that succeeds more often than the
    # pre-trained policy with this probability, by training episodes (docs/safeguard.md); 0: always
    safeguard: float = 0.0

    def __post_init__(self):
        """Check the numbers."""
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
        if self.envs_per_worker is not None:
            check_at_least(1, self, "envs_per_worker")
        check_at_least(1, self, "most_rounds_late")
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
        """The settings for a run's configuration, without newer ones that have their defaults."""
        later = ("envs_per_worker", "asynchronous", "most_rounds_late", "safeguard")
        usual = {field.name: field.default for field in dataclasses.fields(self)}
        found = dataclasses.asdict(self)
        return {name: value for name, value in found.items() if name not in later or value != usual[name]}


@dataclasses.dataclass
class Progression:
    """The position of a run in its loop."""

    env_steps: int = 0
    episodes: int = 0  # started
    broken_episodes: int = 0  # of these, failed because of the environment
    offline_updates: int = 0  # gradient steps taken before the first environment step
    warmup_updates: int = 0
    updates: int = 0  # gradient steps taken, all of them
    updates_due: float = 0.0  # outstanding gradient steps, in proportion to environment steps
    round_due: bool = False  # whether the work once per round is outstanding
    rounds: int = 0  # rounds with this work done
    evaluated_at: int = -1
    checkpointed_at: int = 0
    rows: int = 0  # of metrics
    seconds: float = 0.0  # wall-clock time, over all resumptions
    recent: list[bool] = dataclasses.field(default_factory=list)  # outcomes of the last training episodes
    base_success: float | None = None
    success: float | None = None  # of the last evaluation
    success_single: float | None = None
    base_return: float | None = None  # its mean return
    mean_return: float | None = None
    mean_return_single: float | None = None
    own: dict[str, float] = dataclasses.field(default_factory=dict)  # the algorithm's own last metrics
    encoded_at: int = 0  # gradient steps after which states were encoded last, by an encoder that is trained
    base_outcomes: list[float] = dataclasses.field(default_factory=list)  # the safeguard's evidence, as
    learnt_outcomes: list[float] = dataclasses.field(default_factory=list)  # `Outcomes` of each arm
    single_outcomes: list[float] = dataclasses.field(default_factory=list)
    guarded: Arm = "base"  # what the safeguard deploys
    files: int = 0  # of experience, in the run directory
    files_digest: str = ""  # of them all

    @property
    def evidence(self) -> Evidence:
        """The safeguard's evidence."""
        of_each = (self.base_outcomes, self.learnt_outcomes, self.single_outcomes)
        return Evidence(*(Outcomes(*outcomes) for outcomes in of_each))

    @evidence.setter
    def evidence(self, evidence: Evidence) -> None:
        self.base_outcomes, self.learnt_outcomes = [*evidence.base], [*evidence.learnt]
        self.single_outcomes = [*evidence.single]

    def deployed(self, loop: LoopConfig) -> Arm:
        """The arm that is deployed; the fine-tuned policy where there is no safeguard."""
        return self.guarded if loop.safeguard else "learnt"

    def judged(self, loop: LoopConfig, arms: Sequence[Arm], acted: Arm, outcomes: Sequence[bool]) -> None:
        """Take in the outcomes of a round of an arm, and decide what is deployed."""
        self.evidence = self.evidence.after(acted, outcomes)
        self.guarded = self.evidence.deployed(arms, loop.safeguard, self.guarded)

    def evaluated(self, chosen: Evaluation, single: Evaluation | None, *, first: bool) -> None:
        """Record an evaluation of the deployed policy and, if there is one, of a single sample."""
        self.evaluated_at = self.env_steps
        self.success, self.mean_return = chosen.success_rate, chosen.mean_return
        self.success_single = None if single is None else single.success_rate
        self.mean_return_single = None if single is None else single.mean_return
        if first:
            self.base_success, self.base_return = chosen.success_rate, chosen.mean_return

    def outcome(self, loop: LoopConfig, algorithm: str) -> dict[str, Any]:
        """The results of the run for summary.json, with the algorithm's own entries under its name."""
        return {
            **({"deployed": NAMES[self.deployed(loop)]} if loop.safeguard else {}),
            "base_success": self.base_success,
            "final_success": self.success,
            "final_success_single": self.success_single,
            "base_return": self.base_return,
            "final_return": self.mean_return,
            "final_return_single": self.mean_return_single,
            "eval_episodes": loop.final_eval_episodes,
            "wall_seconds": round(self.seconds, 1),
            **{name: value for name, value in self.own.items() if name.startswith(f"{algorithm}/")},
        }

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
        """The progression from a checkpoint's state; missing newer fields have their defaults.

        Raises:
            OtprError: a field is unknown or has another type; the message names the first.
        """
        defaults = dataclasses.asdict(cls())
        for name, value in state.items():
            default = defaults.get(name, ...)
            # None stands for an unknown number; JSON may write 1.0 as 1
            number = default is None or isinstance(default, float)
            if type(value) not in ((int, float, type(default)) if number else (type(default),)):
                raise OtprError(
                    f"The checkpoint says {name} = {value!r}, which no run can be in. Resume with the "
                    "otpr that the run's versions.json names."
                )
        return cls(**state)


Step = Literal["evaluate", "learn", "encode", "end_round", "collect"]
"""The kinds of steps of a run."""


ENCODE_EVERY = 1_000
"""Number of gradient steps after which states are re-encoded if no round has ended."""


def next_step(
    at: Progression,
    loop: LoopConfig,
    agent: AgentConfig,
    *,
    learns: bool,
    from_base: bool,
    encodes: bool = False,
) -> Step | None:
    """The next step of a run according to its state; None at the end.

    Args:
        at: the progression.
        loop: the loop's settings.
        agent: the algorithm's settings.
        learns: whether the algorithm learns anything.
        from_base: whether its initial policy acts like the pre-trained one.
        encodes: whether its encoder is trained, so that states must be re-encoded before any use other than
            gradient steps.
    """
    step, old = _next_step(at, loop, agent, learns=learns, from_base=from_base), at.updates - at.encoded_at
    if encodes and (old >= ENCODE_EVERY or (old > 0 and step != "learn")):
        return "encode"
    return step


def _next_step(
    at: Progression, loop: LoopConfig, agent: AgentConfig, *, learns: bool, from_base: bool
) -> Step | None:
    """`next_step` for a frozen encoder."""
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
    """The phase and the size of the next block of gradient steps."""
    if (left := agent.offline_updates - at.offline_updates) > 0:
        return "offline", min(left, loop.update_block)
    if (left := agent.warmup_updates - at.warmup_updates) > 0:
        return "warm-up", min(left, loop.update_block)
    return "online", loop.update_block


Phase = Literal["offline", "warm-up", "online"]
"""Gradient steps before the first environment step, of the critics alone, and of critics and policy."""
