"""From an episode as recorded to one as otpr's environments would record it: the rules of docs/data.md."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import Bounds, to_unit
from otpr.data.episodes import Episode, validate_episode
from otpr.data.recorded import Recorded, check_lengths
from otpr.errors import OtprError
from otpr.spec import STATE, vector_type


@dataclass(frozen=True)
class Rules:
    """What the user decides.

    Attributes:
        assume_success: an episode counts as a success where the file does not say.
        sparse_rewards: rewards become 1 at the step that succeeds and 0 elsewhere, whatever was recorded.
        action_low: what becomes -1: a number a dimension, or one for all; none: -1 where `action_high` is
            given, else what the file states.
        action_high: what becomes 1; likewise.
        clip_actions: numbers outside the range are clipped to it.
    """

    assume_success: bool = False
    sparse_rewards: bool = False
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    clip_actions: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        low, high = self._range
        if not all(np.isfinite([*low, *high])):
            raise OtprError(f"The action range must be finite, given {low} to {high}.")
        if len(low) > 1 and len(high) > 1 and len(low) != len(high):
            raise OtprError(
                f"The action range has {len(low)} lower and {len(high)} upper ends; give as many."
            )
        if not (np.asarray(low) < np.asarray(high)).all():
            raise OtprError(f"Each --action-low must be below its --action-high, given {low} and {high}.")

    @property
    def _range(self) -> Bounds:
        return self.action_low or (-1.0,), self.action_high or (1.0,)

    def bounds(self, action_dim: int) -> Bounds | None:
        """The action range that the user gave, a number a dimension; None where there is none.

        Raises:
            OtprError: it has another number of dimensions.
        """
        if not self.action_low and not self.action_high:
            return None
        for end in self._range:
            if len(end) not in (1, action_dim):
                raise OtprError(f"The action range has {len(end)} dimensions; the data have {action_dim}.")
        low, high = (end * action_dim if len(end) == 1 else end for end in self._range)
        return low, high


@dataclass
class Tally:
    """What was done to the episodes, to be told to the user; counts of episodes unless named otherwise."""

    episodes: int = 0
    steps: int = 0
    successes: int = 0
    cut: int = 0
    cut_steps: int = 0
    last_dropped: int = 0
    too_short: int = 0
    rewards_made: int = 0
    assumed: int = 0
    dense: int = 0
    rounded: int = 0  # numbers
    clipped: int = 0  # numbers
    numbers: int = 0  # of all actions
    told: list[str] = field(default_factory=list[str])  # of the data and the task, a sentence each
    warnings: list[str] = field(default_factory=list[str])  # from resets and replays of the task

    def lines(self) -> list[str]:
        """A sentence for each thing that was done."""
        told = (
            (self.assumed, "success unknown: {} counted as success because these are demonstrations"),
            (
                self.cut,
                "{} ended at the first success, as in otpr's environments: "
                f"{self.cut_steps:,} later steps left out",
            ),
            (
                self.last_dropped,
                "{} lacked the observation after the last step: that step left out, its reward and success "
                "given to the step before",
            ),
            (self.too_short, "{} of a single step without the observation after it left out"),
            (self.rewards_made, "{} without rewards: 1 at the last step of a success, 0 elsewhere"),
            (
                self.dense,
                "{} with rewards other than 0 and 1, unlike most tasks of otpr: "
                "--sparse-rewards replaces them",
            ),
        )
        lines = [sentence.format(_episodes(count)) for count, sentence in told if count]
        if self.rounded:
            lines.append(
                f"{self.rounded:,} numbers of the actions overshot the range by rounding and were clipped"
            )
        if self.clipped:
            lines.append(
                f"{self.clipped:,} of {self.numbers:,} numbers of the actions were outside the range and "
                "were clipped to it"
            )
        return [*self.told, *lines, *(f"warning: {line}" for line in self.warnings)]


def _episodes(count: int) -> str:
    return f"{count:,} episode{'s' if count > 1 else ''}"


def finish(
    recorded: Recorded,
    rules: Rules,
    tally: Tally,
    *,
    last_observation: bool | None,
    bounds: Bounds | None = None,
) -> Episode | None:
    """Apply the rules to one episode.

    Args:
        recorded: the episode as its file has it.
        rules: what the user decided.
        tally: counts what is done; changed in place.
        last_observation: see `Source`.
        bounds: of the actions, a number a dimension; None: they are in [-1, 1].

    Returns:
        The episode, valid in the sense of `validate_episode`; None where nothing of it is left.

    Raises:
        OtprError: its lengths do not fit together, its success is unknown, a number is NaN or infinite.
        ActionRangeError: an action is outside the range.
    """
    check_lengths(recorded, last_observation)
    recorded = _end_at_success(recorded, tally)
    steps = len(recorded.actions)
    observations, rewards, success = recorded.observations, recorded.rewards, recorded.success
    if len(observations) == steps:
        if steps == 1:
            tally.too_short += 1
            return None
        steps -= 1
        tally.last_dropped += 1
        if rewards is not None:
            rewards = np.append(rewards[: steps - 1], rewards[steps - 1] + rewards[steps])
        if success is not None:
            success = np.append(success[: steps - 1], success[steps - 1] | success[steps])
    solved = _solved(replace(recorded, rewards=rewards, success=success), rules, tally)
    terminated, truncated = recorded.terminated, recorded.truncated
    if terminated is None:
        terminated, truncated = solved, not solved
    if rewards is None or rules.sparse_rewards:
        tally.rewards_made += rewards is None
        rewards = np.zeros(steps)
        rewards[-1] = solved
        # a reward that is paid once ends the episode, or the value of its last state would hold it again
        if solved:
            terminated, truncated = True, False
    elif not np.isin(rewards, (0, 1)).all():
        tally.dense += 1
    unit, rounded, clipped = to_unit(
        recorded.actions[:steps], bounds, recorded.place, clip=rules.clip_actions
    )
    episode = Episode(
        observations={STATE: _as(vector_type(observations.dtype), observations)},
        actions=_as("float32", unit),
        rewards=_as("float32", rewards),
        terminated=terminated,
        truncated=bool(truncated),
        success=solved,
        seed=recorded.seed,
    )
    validate_episode(episode, where=recorded.place)
    tally.episodes += 1
    tally.steps += steps
    tally.successes += solved
    tally.rounded += rounded
    tally.clipped += clipped
    tally.numbers += unit.size
    return episode


def _end_at_success(recorded: Recorded, tally: Tally) -> Recorded:
    """Leave out the steps after the first recorded success: an environment of otpr would have ended there."""
    if recorded.success is None or not recorded.success.any():
        return recorded
    steps = int(np.argmax(recorded.success)) + 1
    if steps == len(recorded.actions):
        return recorded
    tally.cut += 1
    tally.cut_steps += len(recorded.actions) - steps
    return replace(
        recorded,
        observations=recorded.observations[: steps + 1],
        actions=recorded.actions[:steps],
        rewards=None if recorded.rewards is None else recorded.rewards[:steps],
        success=recorded.success[:steps],
        terminated=True,
        truncated=False,
    )


def _solved(recorded: Recorded, rules: Rules, tally: Tally) -> bool:
    """Whether the task was solved: recorded, else inferred, else assumed, else an error."""
    if recorded.success is not None:
        return bool(recorded.success.any())
    if recorded.terminated:
        return recorded.rewards is None or bool(recorded.rewards[-1] > 0)
    if rules.assume_success:
        tally.assumed += 1
        return True
    if recorded.rewards is None or recorded.terminated is None:
        raise OtprError(
            f"{recorded.place}: success unknown: the file records neither success nor what tells it. "
            "If these are demonstrations that all succeed, give --assume-success."
        )
    return False


def _as(dtype: str, values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # a number too large becomes infinity, and is refused by name
        return np.ascontiguousarray(values, dtype)


def sparse_success(rewards: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where rewards of only 0 and 1 say that the task was solved; None where there are others."""
    return rewards == 1 if np.isin(rewards, (0, 1)).all() else None
