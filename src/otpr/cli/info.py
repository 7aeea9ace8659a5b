"""`otpr info`: what is installed here, and what there is to do."""

from __future__ import annotations

import dataclasses
import json

from otpr.envs import list_tasks
from otpr.training.versions import software_versions


@dataclasses.dataclass(frozen=True)
class Info:
    """Versions, devices, and every task with the extra that it needs."""

    # as JSON, for programs
    json: bool = False

    def run(self) -> None:
        """Print it."""
        versions = software_versions()
        tasks = list_tasks()
        if self.json:
            print(
                json.dumps(
                    {"versions": versions, "tasks": [dataclasses.asdict(task) for task in tasks]}, indent=2
                )
            )
            return
        for name, value in versions.items():
            missing = "not in a git checkout" if name == "git_commit" else "not installed"
            shown = ", ".join(value) if isinstance(value, list) else value or missing
            print(f"{name:18} {shown}")
        # plain text, and no table that is cut where the terminal is narrow: it is there to be searched
        row = "{:40} {:>11} {:>6} {:>11} {:>6}  {}"
        print("\n" + row.format("task", "observation", "action", "steps limit", "expert", "simulator"))
        for task in tasks:
            simulator = "installed" if task.installed else task.install
            expert = "yes" if task.expert else "no"
            print(
                row.format(
                    task.id, task.observation_dim, task.action_dim, task.episode_limit, expert, simulator
                )
            )
        print("and gym/ID (any Gymnasium environment) and module:factory (yours): docs/bring-your-own.md")
