"""Evidence from all episodes of a data set: what marks success, and which fields are reliable.

A single episode is often ambiguous: rewards of 0 mean failure if other episodes are paid, and missing rewards
if none is. A set is therefore scanned once before its episodes are read by the rules.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from otpr.data.recorded import Recorded, Source
from otpr.spec import vector_type

DONES = "dones"
"""robomimic's field that is used if there are no rewards."""
SHAPED = "robosuite's shaped rewards of 1"
"""The source of success if robosuite's rewards are shaped."""


class Evidence:
    """The evidence of one set, complete after `add` has seen all of its readable episodes.

    Attributes:
        ours: whether otpr wrote the set, so that its fields are reliable.
        dims: the most frequent lengths of observation and action; (0, 0) without episodes.
        dtype: the type of the observations, "float64" if float32 would round any of them.
    """

    def __init__(self, ours: bool = False):
        self.ours = ours
        self.dtype = "float32"
        self._dims: Counter[tuple[int, int]] = Counter()
        self._recorded = 0
        self._whole = 0  # episodes flagged as solved on each of two steps or more
        self._partly = False  # an episode has both values of the success flag
        self._ends_only = True  # each episode is flagged on its last step and nowhere else
        self._flags_go_on = False
        self._solved = False  # an episode is flagged as solved
        self._longest = 0
        self._terminated: list[tuple[int, bool | None, bool]] = []  # steps, solved, paid on the last step
        self._truncated = False
        self._last_truncated = False
        self._joints = self._broken = 0
        # of the rewards
        self._steps = self._unpaid = self._long = self._paid_at_once = 0
        self._negative = self._ends_paid = self._paid_otherwise = self._paid_goes_on = False
        self._several = self._runs = self._long_runs = (
            False  # paid: more than once; on 2, on 3 steps in a row
        )
        self._paid: set[float] = set()  # at most two different positive ones

    def add(self, recorded: Recorded) -> None:
        """Add an episode. Inconsistent episodes are refused elsewhere."""
        steps = len(recorded.actions)
        if not steps:
            return
        self._dims[recorded.observations.shape[1], recorded.actions.shape[1]] += 1
        self.dtype = vector_type(self.dtype, recorded.observations.dtype)
        self._longest = max(self._longest, steps)
        self._truncated |= self._last_truncated  # except for the last episode: a file may end anywhere
        self._last_truncated = bool(recorded.truncated)
        if recorded.success is not None and len(recorded.success) == steps:
            self._add_success(recorded.success)
        if recorded.continues is not None:
            self._joints += len(recorded.continues)
            self._broken += int((~recorded.continues).sum())
        rewards = recorded.rewards
        known = rewards is not None and len(rewards) == steps and bool(np.isfinite(rewards).all())
        if rewards is not None and known:
            self._add_rewards(rewards, bool(recorded.terminated))
        if recorded.terminated:
            solved = None if recorded.success is None else bool(recorded.success.any())
            self._terminated.append((steps, solved, rewards is not None and known and bool(rewards[-1] > 0)))

    def _add_success(self, flags: NDArray[np.bool_]) -> None:
        self._recorded += 1
        self._whole += len(flags) > 1 and bool(flags.all())
        self._solved |= bool(flags.any())
        self._partly |= bool(flags.any() and not flags.all())
        self._ends_only &= bool(flags[-1] and not flags[:-1].any())
        self._flags_go_on |= bool(flags[:-1].any())

    def _add_rewards(self, rewards: NDArray[np.number], terminated: bool) -> None:
        paid = rewards > 0
        self._steps += len(rewards)
        self._unpaid += int((rewards == 0).sum())
        self._negative |= bool((rewards < 0).any())
        if len(self._paid) < 2:
            self._paid |= set(np.unique(rewards[paid])[:2].tolist())
        if len(rewards) > 1:
            self._long += 1
            self._paid_at_once += bool(paid[0])
        self._ends_paid |= bool(terminated and paid[-1])
        self._paid_otherwise |= bool(paid.any() and not (terminated and paid[-1]))
        self._several |= int(paid[0]) + int((paid[1:] & ~paid[:-1]).sum()) > 1
        self._runs |= bool((paid[1:] & paid[:-1]).any())
        self._long_runs |= bool((paid[2:] & paid[1:-1] & paid[:-2]).any())
        self._paid_goes_on |= bool(paid[:-1].any())

    @property
    def dims(self) -> tuple[int, int]:
        """See the class; of equally frequent lengths, the first."""
        return self._dims.most_common(1)[0][0] if self._dims else (0, 0)

    @property
    def unpaid(self) -> bool:
        """Whether there are rewards, and each of them is 0."""
        return self._steps > 0 and not self._paid and not self._negative

    @property
    def next_rows_fit(self) -> bool:
        """Whether most of the recorded next observations equal the following rows."""
        return 2 * self._broken <= self._joints

    @property
    def labels(self) -> bool:
        """Whether success flags are constant within each episode, and thus label whole episodes."""
        return self._whole > 0 and not self._partly

    @property
    def goes_on(self) -> bool:
        """Whether an episode continues after it was solved."""
        return (self._flags_go_on and not self.labels) if self._recorded else self._paid_goes_on

    @property
    def time_limit(self) -> int | None:
        """The length at which a time limit ended episodes that are marked as terminated, or None.

        It is the maximum length, shared by at least two such episodes and by at least half of the episodes
        that were terminated unsolved. Truncation flags, if the set has them, are trusted.
        """
        at_ends = self._rewards_tell()[0] == "end"
        failed = [
            steps
            for steps, solved, paid in self._terminated
            if not (at_ends and paid if solved is None else solved)
        ]
        count = failed.count(self._longest)
        if self.ours or self._truncated or self._longest < 2 or count < 2 or 2 * count < len(failed):
            return None
        return self._longest

    def success(self, recorded: Recorded) -> tuple[NDArray[np.bool_] | None, str]:
        """The steps of an episode after which the task was solved.

        Returns:
            (T,) flags and their source; or None and the reason.
        """
        flags, rewards = recorded.success, recorded.rewards
        if flags is not None:
            return self._recorded_success(flags, recorded.success_field)
        if rewards is None:
            return None, "neither success nor rewards are recorded"
        when, why = self._rewards_tell()
        if when is None:
            return None, why
        paid = rewards > 0
        if when == "end":
            paid[:-1] = False
            paid[-1] &= bool(recorded.terminated)
        return paid, why

    def _rewards_tell(self) -> tuple[Literal["end", "step"] | None, str]:
        """Whether rewards indicate success: that of a terminated episode's last step, or that of any step.

        Returns:
            Which of the two; or None and the reason.
        """
        one = len(self._paid) == 1 and not self._negative
        shown = f"a reward of {next(iter(self._paid)):g}" if one else "a reward"
        if self.unpaid:
            return None, "every reward of the whole set is 0"
        if 2 * self._paid_at_once > self._long:
            return None, "rewards are paid from the first step on, and so not for success"
        if not (one or (not self._negative and self._ends_paid and 2 * self._unpaid > self._steps)):
            return None, "the rewards take many values, and a termination may be a failure"
        if self._ends_paid and self._paid_otherwise and self._long_runs:
            return None, f"{shown} is paid at terminations, and elsewhere on three steps in a row or more"
        if self._ends_paid:
            return "end", f"{shown} at a termination"
        if self._several and not self._runs:
            return None, f"{shown} is paid several times an episode, a step each, as for parts of a task"
        return "step", f"{shown}, where all others are 0"

    def _recorded_success(self, flags: NDArray[np.bool_], field: str) -> tuple[NDArray[np.bool_] | None, str]:
        if field == DONES and self._ends_only:
            return None, f"`{DONES}` are 1 at the end of every episode, whether it was solved or not"
        if field == SHAPED and self.unpaid:
            return None, "every reward of the whole set is 0"
        if not self._solved and not self.ours and self._paid and self._rewards_tell()[0] is not None:
            return flags, f"{field}, which is 0 in the whole set, though rewards are paid as for success"
        if not self.labels:
            return flags, field
        last = np.zeros_like(flags)
        last[-1] = flags[-1]
        return last, f"{field}, the same on all steps of each episode, and so its label"

    def doubts(self) -> list[str]:
        """Notes on inconsistencies of the whole set, and how they are read."""
        doubts: list[str] = []
        if not self.next_rows_fit:
            doubts.append(
                f"the next observations of {self._broken:,} of {self._joints:,} steps are not the following "
                "rows; they are not used, and the last step of each episode is left out"
            )
        if self.time_limit is not None:
            doubts.append(
                f"episodes of the longest length, {self.time_limit:,}, are terminated without a known "
                "success, and none is marked as cut off: where they failed, this is taken for a time limit"
            )
        return doubts


def survey(source: Source) -> Evidence:
    """Scan a set and collect its evidence.

    Raises:
        OtprError: the whole file is unreadable.
    """
    evidence = Evidence(source.ours)
    for recorded in source.read(images=False):
        if isinstance(recorded, Recorded):
            evidence.add(recorded)
    return evidence
