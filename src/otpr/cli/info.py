"""`otpr info`: installed software, and available tasks."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any

import tyro

from otpr.cli.bug_report import bug_report
from otpr.data.agreement import of_task
from otpr.data.meaning import listed
from otpr.envs import Setup, TaskSpec, cameras_of, list_tasks
from otpr.envs.registry import known_task
from otpr.envs.shifts import SHIFTS
from otpr.envs.user_env import is_user_task
from otpr.errors import OtprError
from otpr.spec import json_ready
from otpr.training.versions import software_versions


@dataclasses.dataclass(frozen=True)
class Info:
    """Versions, devices and the suites of tasks; the tasks of one suite; or what is known of one task."""

    # a suite, e.g. metaworld, or a task id; left out, versions and all suites are told
    task: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE|TASK")] = None
    # as JSON, for programs
    json: bool = False
    # versions, devices, extras and platform as Markdown, to be pasted into a report of a problem
    report: bool = False

    def run(self) -> None:
        """Print the information."""
        if self.report:
            if self.json or self.task is not None:
                raise OtprError(
                    "--report is of the whole installation: give it alone, as `otpr info --report`."
                )
            print(bug_report())
            return
        suites: dict[str, list[TaskSpec]] = {}
        for task in list_tasks():
            suites.setdefault(task.id.partition("/")[0], []).append(task)
        if self.task is None:
            self._everything(suites)
        elif self.task in suites:
            self._suite(suites[self.task])
        else:
            self._task(known_task(self.task))

    def _everything(self, suites: dict[str, list[TaskSpec]]) -> None:
        versions = software_versions()
        if self.json:
            tasks = [_as_json(task) for each in suites.values() for task in each]
            print(json.dumps({"versions": versions, "shifts": _shifts(), "tasks": tasks}, indent=2))
            return
        for name, value in versions.items():
            missing = "not in a git checkout" if name == "git_commit" else "not installed"
            shown = ", ".join(value) if isinstance(value, list) else value or missing
            print(f"{name:18} {shown}")
        row = "{:12} {:>5} {:>12}  {}"
        print("\n" + row.format("suite", "tasks", "with expert", "simulator"))
        for name, tasks in suites.items():
            experts = sum(task.expert for task in tasks)
            print(row.format(name, len(tasks), experts, _simulator(tasks[0])))
        print("and gym/ID (any Gymnasium environment) and module:factory (yours): docs/bring-your-own.md")
        print("\n`otpr info SUITE` lists its tasks, `otpr info TASK` tells what is known of one.")
        print(f"Shifts: {', '.join(SHIFTS)} (docs/shifts.md).")

    def _suite(self, tasks: list[TaskSpec]) -> None:
        if self.json:
            print(json.dumps({"tasks": [_as_json(task) for task in tasks]}, indent=2))
            return
        # plain text, because a table would be cut in narrow terminals and could not be searched
        row = "{:40} {:>11} {:>6} {:>11} {:>6}  {}"
        print(row.format("task", "observation", "action", "steps limit", "expert", "simulator"))
        for task in tasks:
            numbers = sum(math.prod(entry.shape) for entry in task.spec.observation.values())
            expert = "yes" if task.expert else "no"
            print(
                row.format(
                    task.id, numbers, task.spec.action_dim, task.episode_limit, expert, _simulator(task)
                )
            )

    def _task(self, task: TaskSpec) -> None:
        cameras = cameras_of(task.id) if task.installed else ()
        if self.json:
            print(json.dumps({**_as_json(task), "cameras": cameras}, indent=2))
        else:
            print(_described(task, cameras))


def _shifts() -> dict[str, Any]:
    return {name: dataclasses.asdict(definition) for name, definition in SHIFTS.items()}


def _as_json(task: TaskSpec) -> dict[str, Any]:
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(task)}
    known = {name: value for name, value in fields.items() if name not in ("setup", "columns")}
    geometry = None if task.geometry is None else dataclasses.asdict(task.geometry)
    return json_ready({"id": task.id, **known, "spec": task.spec.to_json(), "geometry": geometry})


def _described(task: TaskSpec, cameras: tuple[str, ...]) -> str:
    limit = task.episode_limit
    seen = [f"cameras       {', '.join(cameras)}"] if cameras else []
    if not is_user_task(task.id):
        own = known_task(Setup(task.id, observe="proprioception"))
        parts = own.parts or (("state", own.spec.observation["state"].shape[0]),)
        seen.append(f"proprioception {listed(parts)}")
    return "\n".join(
        [
            task.id,
            *task.spec.lines(),
            *of_task(task).meaning.lines(),
            f"episode limit {'none declared: give --episode-limit' if limit is None else f'{limit} steps'}",
            f"expert        {'scripted' if task.expert else 'none'}",
            *seen,
            f"simulator     {_simulator(task)}",
        ]
    )


def _simulator(task: TaskSpec) -> str:
    return "installed" if task.installed else f"not installed: {task.install}"
