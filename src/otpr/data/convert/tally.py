"""Counts of the changes to the episodes of a converted data set, reported to the user."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

# Number of bad episodes that are reported with their reason; the others are only counted.
_TOLD = 20
PLAIN = ("success", "infos/success", "next.success")
"""Fields that are read as success without a note, because their names are clear."""


@dataclass
class Tally:
    """Changes to the episodes for a report to the user; counts are of episodes unless stated otherwise."""

    episodes: int = 0
    steps: int = 0
    successes: int = 0
    told_by: Counter[str] = field(default_factory=Counter[str])  # the fields that determined success
    assumed: int = 0
    unknown: str = ""  # why success had to be assumed
    assumption: str = ""  # the option that did, or had nothing to do
    cut: int = 0
    cut_steps: int = 0
    cut_why: str = ""
    goes_on: int = 0
    later_steps: int = 0
    after_end: int = 0
    after_end_steps: int = 0
    time_limits: int = 0
    unended: int = 0
    next_unfit: int = 0
    last_dropped: int = 0
    too_short: int = 0
    rewards_made: int = 0
    rewards_filled: int = 0
    dense: int = 0
    rounded: int = 0  # numbers
    clipped: int = 0  # numbers
    numbers: int = 0  # of all actions
    told: list[str] = field(default_factory=list[str])  # of the data and the task, a sentence each
    warnings: list[str] = field(default_factory=list[str])  # from resets and replays of the task
    bad: int = 0
    reasons: list[str] = field(default_factory=list[str])  # of the first bad ones

    def leave_out(self, reason: str) -> None:
        """Count an episode that is left out because it is bad."""
        self.bad += 1
        if len(self.reasons) < _TOLD:
            self.reasons.append(reason)

    def add(self, other: Tally) -> None:
        """Add the changes to one more episode."""
        for entry in fields(self):
            mine, theirs = getattr(self, entry.name), getattr(other, entry.name)
            if isinstance(mine, str):
                setattr(self, entry.name, theirs or mine)
            else:
                mine += theirs
                setattr(self, entry.name, mine)

    def lines(self) -> list[str]:
        """A sentence for each kind of change."""
        lines = [
            f"success of {_counted(count, 'episode')} told by {by}"
            for by, count in self.told_by.items()
            if by not in PLAIN
        ]
        lines += [sentence.format(_counted(count, "episode")) for count, sentence in self._told() if count]
        if self.assumption and not self.assumed:
            lines.append(f"{self.assumption} had no effect: the file tells success of every episode")
        if self.rounded:
            lines.append(
                f"{self.rounded:,} numbers of the actions overshot the range by rounding and were clipped"
            )
        if self.clipped:
            lines.append(
                f"{self.clipped:,} of {self.numbers:,} numbers of the actions were outside the range and "
                "were clipped to it"
            )
        if self.bad:
            more = [f"and {self.bad - len(self.reasons):,} more"] if self.bad > len(self.reasons) else []
            lines.append(
                "\n    ".join([f"{_counted(self.bad, 'episode')} left out as bad:", *self.reasons, *more])
            )
        return [*self.told, *lines, *(f"warning: {line}" for line in self.warnings)]

    def _told(self) -> tuple[tuple[int, str], ...]:
        """Counts of episodes, each with its sentence."""
        repeated, cut = (_counted(n, "later step") for n in (self.after_end_steps, self.cut_steps))
        later = _counted(self.later_steps, "step")
        counted = "a success" if self.assumption == "--assume-success" else "no success"
        return (
            (self.assumed, f"success of {{}} unknown ({self.unknown}): counted as {counted}, as given"),
            (
                self.after_end,
                f"{{}} cut at the end: its flag is repeated on {repeated}",
            ),
            (
                self.cut,
                f"{{}} ended at the first success, {self.cut_why}: {cut} left out",
            ),
            (
                self.goes_on,
                f"{{}} with {later} after the first success, kept as recorded: only otpr's own tasks end "
                "there; --end-at-success leaves these steps out",
            ),
            (
                self.time_limits,
                "{} terminated without success at the longest length of all: taken for a time limit, since "
                "the file marks none, and counted as cut off",
            ),
            (self.unended, "{} neither terminated nor truncated: counted as cut off"),
            (
                self.next_unfit,
                "{} whose next observations are not the following rows: these are not used",
            ),
            (
                self.last_dropped,
                "{} lacked the observation after the last step: that step left out, its reward and success "
                "given to the step before",
            ),
            (self.too_short, "{} of a single step without the observation after it left out"),
            (self.rewards_made, "{} without rewards: 1 at the last step of a success, 0 elsewhere"),
            (
                self.rewards_filled,
                "{} with rewards that are 0 in the whole set, and so were never filled: 1 at the last step",
            ),
            (
                self.dense,
                "{} with rewards other than 0 and 1, which most tasks of otpr do not pay: kept as they are",
            ),
        )


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' if count > 1 else ''}"
