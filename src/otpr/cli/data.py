"""`otpr data inspect` and `otpr data convert`: statistics of a data set, and conversion to otpr's format."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import tyro

from otpr.data.convert.rules import Rules
from otpr.data.convert.sources import Format, convert, open_source
from otpr.data.convert.tally import PLAIN
from otpr.data.dataset_writer import check_free
from otpr.data.inspect import SATURATED, inspect
from otpr.data.picture import draw
from otpr.data.recorded import Source
from otpr.spec import Spec
from otpr.storage import check_writable
from otpr.training.stopping import undone_by_sigterm


@dataclasses.dataclass(frozen=True)
class InspectData:
    """Tell what is in a data set of any format that otpr reads, be it fit for training or not."""

    # file or folder of the data set, or the id of one of Minari's
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH_OR_ID")]
    # a PNG file for a picture; left out, none is drawn
    picture: Path | None = None
    # parts of the observation to look at, images among them; left out, the format's own choice
    keys: tuple[str, ...] = ()
    # numbers of a LeRobot set's own tasks to look at; left out, all
    task_index: tuple[int, ...] = ()
    # the format; auto goes by what is in the file
    format: Format = "auto"
    # as JSON, for programs
    json: bool = False

    def run(self) -> None:
        """Read the data set once and print the statistics."""
        if self.picture is not None:
            check_writable(self.picture, "--picture")
        found = inspect(open_source(self.data, self.format, keys=self.keys, task_index=self.task_index))
        numbers = found.as_dict()
        print(json.dumps(numbers, indent=2) if self.json else _described(numbers, found.spec, found.source))
        if self.picture is not None:
            draw(found, self.picture)
            if not self.json:
                print(f"\npicture       {self.picture}")


@dataclasses.dataclass(frozen=True)
class ConvertData:
    """Bring a data set of another format into otpr's, which is Minari's."""

    # file or folder of the data set, or the id of one of Minari's
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    # folder of the new data set
    out: Path
    # its format; auto goes by what is in the file; npz is any dictionary of arrays, in .npz or .hdf5
    format: Format = "auto"
    # task the data belong to; left out, the one that a set of otpr's or a robomimic file names, else none
    task: str | None = None
    # parts of the observation, images among them, the vectors in the order wanted; left out, all images and
    # the format's own choice of vectors (docs/data.md)
    keys: tuple[str, ...] = ()
    # named subset of the demonstrations in a robomimic file
    filter_key: str | None = None
    # numbers of a LeRobot set's own tasks, of which episodes are read; needed where it has several
    task_index: tuple[int, ...] = ()
    # where the file does not say whether an episode succeeded, it did
    assume_success: bool = False
    # where the file does not say, it did not
    assume_failure: bool = False
    # end episodes at their first success, as otpr's own tasks do; data of these are ended there anyway
    end_at_success: bool = False
    # leave out episodes that cannot be trained on, and list them
    skip_bad: bool = False
    # rewards become 1 on the step that succeeds and 0 elsewhere
    sparse_rewards: bool = False
    # the action range's lower end in the file, mapped to -1: one number, or one a dimension; left out, what
    # the file states, else -1
    action_low: tuple[float, ...] = ()
    # its upper end, mapped to 1
    action_high: tuple[float, ...] = ()
    # numbers of the actions outside the range are clipped to it
    clip_actions: bool = False
    # names of differences between data and task that do not matter (docs/data-agreement.md)
    accept: tuple[str, ...] = ()
    # do not compare the data with resets and replays of the task, e.g. where it is a real robot
    skip_check: bool = False
    # replace the data set that is there
    overwrite: bool = False

    @undone_by_sigterm("nothing was written")
    def run(self) -> None:
        """Convert atomically and report the changes."""
        check_free(self.out, self.overwrite)
        check_writable(self.out, "--out", folder=True)
        rules = Rules(
            assume_success=self.assume_success,
            assume_failure=self.assume_failure,
            end_at_success=self.end_at_success,
            skip_bad=self.skip_bad,
            sparse_rewards=self.sparse_rewards,
            action_low=self.action_low,
            action_high=self.action_high,
            clip_actions=self.clip_actions,
        )
        source = open_source(
            self.source,
            self.format,
            keys=self.keys,
            filter_key=self.filter_key,
            task=self.task,
            task_index=self.task_index,
        )
        tally = convert(
            source,
            self.out,
            task=self.task,
            rules=rules,
            accept=self.accept,
            check=not self.skip_check,
            overwrite=self.overwrite,
        )
        print(f"{source.path}: {source.format}" + "".join(f"; {note}" for note in source.notes))
        shapes = {name: " x ".join(map(str, entry.shape)) for name, entry in source.images.items()}
        parts = [f"{key} ({size})" for key, size in (*source.keys, *shapes.items())]
        print("observation: " + ", ".join(parts))
        for line in (*source.doubts, *tally.lines()):
            print(f"- {line}")
        print(
            f"{tally.episodes:,} episodes, {tally.steps:,} steps, {tally.successes:,} successes, "
            f"task {self.task or source.task_id or 'not named'}: {self.out}"
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """Look into data sets, and bring those of other projects into otpr's format."""

    command: (
        Annotated[InspectData, tyro.conf.subcommand("inspect", prefix_name=False)]
        | Annotated[ConvertData, tyro.conf.subcommand("convert", prefix_name=False)]
    )

    def run(self) -> None:
        """Run the subcommand."""
        self.command.run()


SUBCOMMANDS = {"inspect": InspectData, "convert": ConvertData}
"""The subcommands of `otpr data`."""


def _described(found: dict[str, Any], spec: Spec, source: Source) -> str:
    """The statistics in words and as a table."""
    length, paid = found["length"], found["return"]
    unknown = f", {found['success_unknown']:,} unknown" if found["success_unknown"] else ""
    twice = len(found["duplicates"])
    ended = (
        "not told apart"
        if found["terminated"] is None
        else f"{found['terminated']:,} terminated, {found['truncated']:,} truncated"
    )
    lines = [
        f"{found['path']}: {found['format']}, task {found['task'] or 'not named'}",
        f"episodes      {found['episodes']:,}" + (f", {twice:,} of them copies" if twice else ", no copies"),
        f"steps         {found['steps']:,}",
        f"length        {length['min']:.0f} to {length['max']:.0f}, median {length['median']:g}",
        f"success       {found['successes']:,} of {found['episodes']:,}{unknown}",
        *(f"  told by     {by}" for by in found["success_told_by"] if by not in PLAIN),
        f"ended         {ended}",
        "return        "
        + (f"{paid['min']:g} to {paid['max']:g}, median {paid['median']:g}" if paid else "no rewards"),
        *spec.lines(),
        *source.meaning.lines(),
        *(f"own task      {line}" for line in source.undecided),
    ]
    if found["actions_outside"]:
        lines.append(f"outside       {found['actions_outside']:,} numbers of the actions are outside [-1, 1]")
    if found["duplicates"]:
        shown = ", ".join(f"{b} = {a}" for a, b in found["duplicates"][:5])
        lines.append(f"copies        episodes {shown}" + (", ..." if twice > 5 else ""))
    if found["problem_count"]:
        lines.append(f"problems      {found['problem_count']:,}; the first:")
        lines += [f"  {problem}" for problem in found["problems"]]
    else:
        lines.append("problems      none")
    lines += _frames(found["images"])
    rows = [*found["observation"], *found["action"]]
    width = max(len("dimension"), *(len(row["name"]) for row in rows))
    lines += ["", f"{'dimension':{width}} {'min':>10} {'max':>10} {'mean':>10} {'std':>10}  notes"]
    lines += [_row(row, width) for row in rows]
    return "\n".join(lines)


def _frames(images: list[dict[str, Any]]) -> list[str]:
    """A table of the images; empty if there are none."""
    if not images:
        return []
    width = max(len("images"), *(len(row["name"]) for row in images))
    lines = [
        "",
        f"{'images':{width}} {'size':>13} {'frames':>10} {'black':>8} {'one colour':>10} {'repeated':>8}",
    ]
    for row in images:
        shares = [row[name] for name in ("black", "one_colour", "repeated")]
        black, plain, repeated = ("-" if share is None else f"{share:.1%}" for share in shares)
        size = " x ".join(map(str, row["shape"]))
        lines.append(
            f"{row['name']:{width}} {size:>13} {row['frames']:>10,} {black:>8} {plain:>10} {repeated:>8}"
        )
    return lines


def _row(row: dict[str, Any], width: int) -> str:
    notes: list[str] = []
    if row["constant"]:
        notes.append("constant")
    if row.get("saturated"):
        notes.append(f"beyond {SATURATED}: {row['saturated']:.1%}")
    notes += [
        f"{row[kind]:,} {word}" for kind, word in (("nan", "NaN"), ("infinite", "infinite")) if row[kind]
    ]
    numbers = " ".join(
        f"{'-' if row[name] is None else format(row[name], '.4g'):>10}"
        for name in ("min", "max", "mean", "std")
    )
    return f"{row['name']:{width}} {numbers}  {', '.join(notes)}".rstrip()
