"""What is to be run: methods and seeds as they are typed, and the run of one of each on one task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from otpr.agents import agent_class, agent_config
from otpr.errors import OtprError
from otpr_bench.bases import Base
from otpr_bench.results import RunKey
from otpr_bench.suites import BenchTask, Suite

SEEDS_LIMIT = 1000
"""More seeds than this are a slip of the finger."""


@dataclasses.dataclass(frozen=True)
class Method:
    """An algorithm with named settings, some of them perhaps changed.

    Attributes:
        algorithm: its name.
        preset: name of its settings.
        changes: fields of them to change, as "field=value".
    """

    algorithm: str
    preset: str = "default"
    changes: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The preset as results name it: with the changes, as in `default:epsilon=0.1`."""
        return ":".join((self.preset, *self.changes))

    def __str__(self) -> str:
        """As it is typed."""
        return self.algorithm if self.settings == "default" else f"{self.algorithm}:{self.settings}"


def parse_methods(text: str) -> tuple[Method, ...]:
    """Methods out of `otpr,otpr:paper,fql`; with changed fields, `otpr:default:epsilon=0.1:candidates=1`.

    Raises:
        OtprError: there is none, one is there twice, or an algorithm, preset, field or value is unknown.
    """
    methods: list[Method] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        algorithm, *rest = part.split(":")
        preset = rest[0] if rest else "default"
        method = Method(algorithm, preset, tuple(rest[1:]))
        agent_config(algorithm, preset, method.changes)  # refuses what it does not know
        if method in methods:
            raise OtprError(f"--algorithms names {part!r} twice.")
        methods.append(method)
    if not methods:
        raise OtprError("--algorithms names none; give some with commas between, as in otpr,otpr:paper,bc.")
    return tuple(methods)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Seeds out of `3`, `0..4` (both ends belong to it) or `0,2,5..7`, sorted.

    Raises:
        OtprError: it is malformed, a range is empty, or there are more than 1000.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\.\.(\d{1,9}))?\s*", part)
        if not match:
            raise OtprError(f"--seeds takes 0..4, or 0,2,5; given {text!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise OtprError(f"--seeds: the range {part.strip()} is empty; the smaller seed comes first.")
        if last - first >= SEEDS_LIMIT:
            raise OtprError(f"--seeds: {part.strip()} are more than {SEEDS_LIMIT} seeds.")
        seeds.update(range(first, last + 1))
    return tuple(sorted(seeds))


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a method on a task with a seed, with one version of the code."""

    suite: str
    task: BenchTask
    method: Method
    seed: int
    code_version: str

    def __str__(self) -> str:
        """For people."""
        return f"{self.method} on {self.task.id}, seed {self.seed}"

    @property
    def settings(self) -> str:
        """Hash of all that the run is told but for the seed and the base: 12 hexadecimal digits.

        What a preset stands for is in the code version.
        """
        return _hash([_arguments(self), self.method.settings])

    def key(self, base: Base) -> RunKey:
        """What tells this run from others in the results."""
        return (
            self.suite,
            self.task.id,
            self.method.algorithm,
            self.method.settings,
            self.seed,
            self.code_version,
            self.settings,
            base.hash,
        )

    def directory(self, folder: Path, base: Base) -> Path:
        """Where the run goes, in the benchmark's folder: elsewhere for each version, settings and base."""
        which = _hash([self.code_version, self.settings, base.hash])[:8]
        method = plain_name(str(self.method))
        return folder / "runs" / plain_name(self.task.id) / method / f"seed{self.seed}-{which}"

    def arguments(self, run_dir: Path, base: Base) -> list[str]:
        """Of the command `otpr`, without `--resume`."""
        changes = ["--set", *self.method.changes] if self.method.changes else []
        return [
            *("finetune", "--policy", str(base.policy), "--data", str(base.data)),
            *("--run-dir", str(run_dir), "--seed", str(self.seed), "--preset", self.method.preset),
            *_arguments(self),
            *changes,
        ]


def make_jobs(
    suite: Suite, methods: Sequence[Method], seeds: Sequence[int], version: Callable[[str, str], str]
) -> list[Job]:
    """All runs, one seed after the other, so that a stop leaves every method with the same seeds.

    Args:
        suite: its tasks.
        methods: run on each task.
        seeds: run of each method on each task.
        version: a function from algorithm and task to the version of the code.
    """
    return [
        Job(suite.name, task, method, seed, version(method.algorithm, task.id))
        for seed in seeds
        for task in suite.tasks
        for method in methods
    ]


def plain_name(name: str) -> str:
    """A task's or method's name as that of a folder."""
    return re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII)


def _arguments(job: Job) -> list[str]:
    """What runs of one method on one task have in common."""
    budget = job.task.budget
    options = {
        "algorithm": job.method.algorithm,
        "task": job.task.id,
        "env-steps": budget.env_steps,
        "warmup-steps": budget.warmup_steps,
        "num-envs": budget.num_envs,
        "eval-every": budget.eval_every,
        "eval-episodes": budget.eval_episodes,
        "final-eval-episodes": budget.final_eval_episodes,
        "checkpoint-every": budget.eval_every,
        "single": "end",
    }
    flags = ["--no-video"]
    if agent_class(job.method.algorithm).learns:  # else the evaluation of the base is all there is
        flags.append("--no-base-evaluation")
    return [*(text for name, value in options.items() for text in (f"--{name}", str(value))), *flags]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
