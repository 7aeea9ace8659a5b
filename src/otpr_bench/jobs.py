"""The runs of a benchmark: parsing of methods and seeds, and each run of a method on a task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otpr.agents import agent_class, agent_config
from otpr.agents.parts.agent import OffPolicyAgent, OnPolicyAgent
from otpr.errors import OtprError
from otpr_bench.bases import Base
from otpr_bench.result_versions import result_version
from otpr_bench.results import RunKey
from otpr_bench.suites import BenchSuite, BenchTask


@dataclasses.dataclass(frozen=True)
class Variant:
    """An algorithm with a preset, and fields of the preset to change, as "field=value"."""

    algorithm: str
    preset: str = "default"
    changes: tuple[str, ...] = ()

    @property
    def settings(self) -> str:
        """The preset and the changes as results name them, such as `default:epsilon=0.1`."""
        return ":".join((self.preset, *self.changes))

    def __str__(self) -> str:
        """The variant in the form that `parse_variants` reads."""
        return self.algorithm if self.settings == "default" else f"{self.algorithm}:{self.settings}"


def parse_variants(text: str) -> tuple[Variant, ...]:
    """The variants in a text such as `otpr,otpr:paper,otpr:default:epsilon=0.1:candidates=1`.

    Raises:
        OtprError: there is none, one occurs twice, or an algorithm, preset, field or value is unknown.
    """
    variants: list[Variant] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        algorithm, preset, *changes = part.split(":") if ":" in part else (part, "default")
        variant = Variant(algorithm, preset, tuple(changes))
        agent_config(algorithm, preset, variant.changes)  # refuses unknown names and values
        if variant in variants:
            raise OtprError(f"--algorithms names {part!r} twice.")
        variants.append(variant)
    if not variants:
        raise OtprError("--algorithms names none; give some, separated by commas, as in otpr,otpr:paper,bc.")
    return tuple(variants)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds in a text such as `3`, `0..4` (both ends included) or `0,2,5..7`, sorted.

    Raises:
        OtprError: the text is malformed, or a range is empty.
    """
    seeds: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\.\.(\d{1,4}))?\s*", part)
        if not match:
            raise OtprError(f"--seeds takes 0..4, or 0,2,5; given {text!r}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise OtprError(f"--seeds: the range {part.strip()} is empty; the smaller seed comes first.")
        seeds.update(range(first, last + 1))
    return tuple(sorted(seeds))


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a variant on a task with a seed, under one result version."""

    suite: str
    task: BenchTask
    variant: Variant
    seed: int
    result_version: str

    def __str__(self) -> str:
        """The run in messages."""
        return f"{self.variant} on {self.task.id}, seed {self.seed}"

    @property
    def settings(self) -> str:
        """Hash of the command except seed and base, 12 hexadecimal digits."""
        return _hash([self._options(), self.variant.settings])

    def key(self, base: Base) -> RunKey:
        """The identity of this run in the results, as `Row.run`."""
        which = (self.suite, self.task.id, self.variant.algorithm, self.variant.settings, self.seed)
        return (*which, self.result_version, self.settings, base.hash)

    def directory(self, folder: Path, base: Base) -> Path:
        """The run's directory in the benchmark's folder, different for each version, settings and base."""
        which = _hash([self.result_version, self.settings, base.hash])[:8]
        variant = plain_name(str(self.variant))
        return folder / "runs" / plain_name(self.task.id) / variant / f"seed{self.seed}-{which}"

    def arguments(self, run_dir: Path, base: Base) -> list[str]:
        """The arguments of the command `otpr`, without `--resume`."""
        return [
            *("finetune", "--policy", str(base.policy), "--data", str(base.data)),
            *("--run-dir", str(run_dir), "--seed", str(self.seed), "--preset", self.variant.preset),
            *self._options(),
            *(["--set", *self.variant.changes] if self.variant.changes else []),
        ]

    def _options(self) -> list[str]:
        """The options that all runs of a variant on a task share."""
        budget = self.task.budget
        options = {
            "algorithm": self.variant.algorithm,
            "task": self.task.id,
            "env-steps": budget.env_steps,
            "warmup-steps": budget.warmup_steps,
            "num-envs": budget.num_envs,
            "eval-every": budget.steps_between_evaluations,
            "eval-episodes": budget.eval_episodes,
            "final-eval-episodes": budget.final_eval_episodes,
            "checkpoint-every": budget.steps_between_evaluations,
            "single": "end",
        }
        if self.task.recipe.episode_limit is not None:
            options["episode-limit"] = self.task.recipe.episode_limit
        flags = ["--no-video"]
        # for an agent that does not learn, this evaluation is the whole run
        if issubclass(agent_class(self.variant.algorithm), OffPolicyAgent | OnPolicyAgent):
            flags.append("--no-base-evaluation")
        return [*(text for name, value in options.items() for text in (f"--{name}", str(value))), *flags]


def make_jobs(suite: BenchSuite, variants: Sequence[Variant], seeds: Sequence[int]) -> list[Job]:
    """All runs of a benchmark, seed by seed, so that a stop leaves every variant with the same seeds."""
    return [
        Job(suite.name, task, variant, seed, result_version(variant.algorithm, task.id))
        for seed in seeds
        for task in suite.tasks
        for variant in variants
    ]


def plain_name(name: str) -> str:
    """The name of a task or variant as the name of a folder."""
    return re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]
