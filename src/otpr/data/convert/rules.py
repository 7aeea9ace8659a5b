"""The rules of docs/data.md, which convert recorded episodes to the form of otpr's environments."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.data.actions import ActionRangeError, Bounds, to_unit
from otpr.data.convert.tally import Tally
from otpr.data.episodes import Episode, validate_episode
from otpr.data.evidence import Evidence, survey
from otpr.data.flags import NotFlagsError
from otpr.data.frames import check_seen
from otpr.data.recorded import Recorded, Source, check_lengths, first_steps
from otpr.envs.user_env import is_user_task
from otpr.errors import OtprError
from otpr.spec import STATE


class SuccessUnknownError(OtprError):
    """The data do not determine whether an episode succeeded. The caller adds what to do."""

    def __init__(self, place: str, why: str):
        super().__init__(f"{place}: success unknown: {why}.")


class BadEpisodeError(OtprError):
    """An episode cannot be trained on and must not be skipped. The caller adds what to do."""


@dataclass(frozen=True)
class Rules:
    """The decisions of the user.

    Attributes:
        assume_success: episodes of unknown outcome count as successes.
        assume_failure: episodes of unknown outcome count as failures.
        sparse_rewards: replace rewards by 1 at the successful step and 0 elsewhere.
        end_at_success: episodes end at their first success, as in otpr's named tasks.
        skip_bad: skip episodes that cannot be trained on.
        action_low: the action that becomes -1, one number for each dimension or one for all; empty: -1 if
            `action_high` is given, otherwise the file's bound.
        action_high: the action that becomes 1, in the same form.
        clip_actions: clip actions to the range.
    """

    assume_success: bool = False
    assume_failure: bool = False
    sparse_rewards: bool = False
    end_at_success: bool = False
    skip_bad: bool = False
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    clip_actions: bool = False

    def __post_init__(self) -> None:
        """Check the range, and that at most one assumption is made."""
        if self.assume_success and self.assume_failure:
            raise OtprError("Give --assume-success or --assume-failure, not both.")
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
        """The action range given by the user, one number for each dimension; None if there is none.

        Raises:
            OtprError: the range has another number of dimensions.
        """
        if not self.action_low and not self.action_high:
            return None
        for end in self._range:
            if len(end) not in (1, action_dim):
                raise OtprError(f"The action range has {len(end)} dimensions; the data have {action_dim}.")
        low, high = (end * action_dim if len(end) == 1 else end for end in self._range)
        return low, high


def follow(
    source: Source,
    rules: Rules,
    tally: Tally,
    *,
    task: str | None,
    bounds: Bounds | None = None,
    evidence: Evidence | None = None,
) -> Iterator[Episode]:
    """Read the episodes of a set by the rules.

    Args:
        source: an open data set.
        rules: the decisions of the user.
        tally: counts the changes; updated in place.
        task: the task that the set is read for; None: unknown. Named tasks end at success.
        bounds: the action bounds that become [-1, 1]; None: actions are in [-1, 1] already.
        evidence: the evidence of the whole set; None: the set is scanned before the first episode.

    Raises:
        BadEpisodeError: an episode cannot be trained on.
        NotFlagsError: a field of success or of ends holds numbers other than flags.
        OtprError: no episode is left, or the whole file is unreadable.
        SuccessUnknownError: the data do not determine whether an episode succeeded.
        ActionRangeError: an action is outside the range.
    """
    named = task is not None and not is_user_task(task)
    tally.cut_why = f"as in {task}" if named else "as --end-at-success says"
    rules = replace(rules, end_at_success=rules.end_at_success or named)
    if rules.assume_success or rules.assume_failure:
        tally.assumption = "--assume-success" if rules.assume_success else "--assume-failure"
    evidence = evidence or survey(source)
    for item in source.read():
        try:
            if isinstance(item, OtprError):
                raise item
            episode = finish(
                item, rules, tally, evidence, last_observation=source.last_observation, bounds=bounds
            )
        except (SuccessUnknownError, NotFlagsError):
            raise
        except OtprError as error:
            if not rules.skip_bad:
                raise error if isinstance(error, ActionRangeError) else BadEpisodeError(error) from error
            tally.leave_out(str(error))
            continue
        if episode is not None:
            yield episode
    if tally.bad and not tally.episodes:
        raise OtprError(
            f"{source.path}: holds no episode that can be kept, {tally.bad:,} were left out. The first: "
            f"{tally.reasons[0]}"
        )
    if not tally.episodes:
        raise OtprError(
            f"{source.path}: holds no episodes of two observations or more; at least one is needed."
        )


def finish(
    recorded: Recorded,
    rules: Rules,
    tally: Tally,
    evidence: Evidence,
    *,
    last_observation: bool | None,
    bounds: Bounds | None = None,
) -> Episode | None:
    """Apply the rules to one episode.

    Args:
        recorded: the episode as stored.
        rules: the decisions of the user; `end_at_success` is also set if the task ends at success.
        tally: counts the changes; updated in place unless an error is raised.
        evidence: the evidence of the whole set.
        last_observation: see `Source`.
        bounds: see `follow`.

    Returns:
        The episode, valid in the sense of `validate_episode`; None if no step is left.

    Raises:
        OtprError: lengths do not match, dimensions differ from most episodes, a number is NaN or infinite,
            every frame of a camera is black, or next observations are not the following rows.
        SuccessUnknownError: the data do not determine whether it succeeded.
        ActionRangeError: an action is outside the range.
    """
    check_lengths(recorded, last_observation)
    dims = (recorded.observations.shape[1], recorded.actions.shape[1])
    if dims != evidence.dims:
        raise OtprError(
            f"{recorded.place}: has (observation, action) dimensions {dims}, most episodes {evidence.dims}; "
            "mend or leave out that episode."
        )
    check_seen(recorded.images.items(), recorded.place)
    done = Tally()
    flags, why = evidence.success(recorded)
    recorded = _joined(replace(recorded, success=flags), evidence, done)
    rewards = recorded.rewards
    made = rewards is None or rules.sparse_rewards
    recorded = _end_at_success(recorded, rules, made, done)
    if rewards is not None and not made:
        done.dense = int(not np.isin(rewards, (0, 1)).all())
    at_limit = len(recorded.actions) == evidence.time_limit
    shortened = _without_last(recorded, done)
    if shortened is None:
        tally.add(done)
        return None
    recorded = shortened
    unpaid = np.zeros(len(recorded.actions))
    actions, done.rounded, done.clipped = to_unit(
        recorded.actions, bounds, recorded.place, clip=rules.clip_actions
    )
    episode = Episode(
        observations=_observations(recorded, evidence.dtype),
        actions=_as("float32", actions),
        rewards=_as("float32", unpaid if recorded.rewards is None else recorded.rewards),
        terminated=False,
        truncated=False,
        success=False,
        seed=recorded.seed,
        looked=recorded.looked,
    )
    validate_episode(episode, where=recorded.place)
    solved = _solved(recorded, rules, why, done)
    if solved and recorded.success is None and recorded.rewards is not None and evidence.unpaid:
        made, done.rewards_filled = True, 1
    if made:
        done.rewards_made = int(recorded.rewards is None)
        unpaid[-1] = solved
        episode = replace(episode, rewards=_as("float32", unpaid))
    # a reward that is paid once ends the episode, otherwise its last state's value would count it again
    if solved and (made or rules.end_at_success):
        terminated, truncated = True, False
    else:
        terminated, truncated = _ended(recorded, solved, at_limit, evidence, done)
    done.episodes, done.steps, done.successes = 1, len(episode), int(solved)
    done.numbers = episode.actions.size
    tally.add(done)
    return replace(episode, terminated=terminated, truncated=truncated, success=solved)


def _joined(recorded: Recorded, evidence: Evidence, done: Tally) -> Recorded:
    """The episode without its last observation if the set's next observations are not following rows.

    Raises:
        OtprError: they are for most of the set, but not for all rows of this episode.
    """
    if recorded.continues is None:
        return recorded
    if not evidence.next_rows_fit:
        done.next_unfit = 1
        frames = {name: array[:-1] for name, array in recorded.images.items()}
        return replace(recorded, observations=recorded.observations[:-1], images=frames)
    broken = np.flatnonzero(~recorded.continues)
    if len(broken):
        raise OtprError(
            f"{recorded.place}: the next observation of {len(broken)} of {len(recorded.actions)} steps is "
            f"not the following row, first that of step {broken[0]}. If episodes end there, mark the ends; "
            "else mend or leave out that episode."
        )
    return recorded


def _end_at_success(recorded: Recorded, rules: Rules, made: bool, done: Tally) -> Recorded:
    """The episode up to its first success, if the task or a single reward ends it there."""
    done.after_end, done.after_end_steps = int(recorded.after_end > 0), recorded.after_end
    if recorded.success is None or not recorded.success.any():
        return recorded
    steps = int(np.argmax(recorded.success)) + 1
    later = len(recorded.actions) - steps
    if not later:
        return recorded
    if not (made or rules.end_at_success):
        done.goes_on, done.later_steps = 1, later
        return recorded
    done.cut, done.cut_steps = 1, later
    if not rules.end_at_success:
        done.cut_why = "since a reward made of success is paid once"
    return first_steps(recorded, steps)


def _without_last(recorded: Recorded, done: Tally) -> Recorded | None:
    """The episode without its last step if that has no next observation; None if nothing is left."""
    steps = len(recorded.actions) - 1
    if len(recorded.observations) > steps + 1:
        return recorded
    if not steps:
        done.too_short = 1
        return None
    done.last_dropped = 1
    rewards, success = recorded.rewards, recorded.success
    if rewards is not None:
        rewards = np.append(rewards[: steps - 1], rewards[steps - 1] + rewards[steps])
    if success is not None:
        success = np.append(success[: steps - 1], success[steps - 1] | success[steps])
    return replace(recorded, actions=recorded.actions[:steps], rewards=rewards, success=success)


def _solved(recorded: Recorded, rules: Rules, why: str, done: Tally) -> bool:
    """Whether the task was solved: stated by the set, otherwise assumed, otherwise an error."""
    if recorded.success is not None:
        done.told_by[why] += 1
        return bool(recorded.success.any())
    if not (rules.assume_success or rules.assume_failure):
        raise SuccessUnknownError(recorded.place, why)
    done.assumed, done.unknown = 1, why
    return rules.assume_success


def _ended(
    recorded: Recorded, solved: bool, at_limit: bool, evidence: Evidence, done: Tally
) -> tuple[bool, bool]:
    """Whether the episode was terminated, and whether it was truncated."""
    if recorded.terminated is None:  # success terminates episodes if no episode of the set continues after it
        terminated = solved and not evidence.goes_on
        return terminated, not terminated
    if recorded.terminated and at_limit and not solved:
        done.time_limits = 1
        return False, True
    if not (recorded.terminated or recorded.truncated):
        done.unended = 1
        return False, True
    return recorded.terminated, bool(recorded.truncated)


def _observations(recorded: Recorded, dtype: str) -> dict[str, NDArray[Any]]:
    """Vectors and images by entry name."""
    vectors = {STATE: _as(dtype, recorded.observations)} if recorded.observations.shape[1] else {}
    return {**vectors, **recorded.images}


def _as(dtype: str, values: NDArray[Any]) -> NDArray[Any]:
    with np.errstate(over="ignore"):  # overflow becomes infinity and is refused later
        return np.ascontiguousarray(values, dtype)
