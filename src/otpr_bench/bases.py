"""The base policy of a task: made once by its recipe, measured, stored with its hashes, used by all runs.

FOLDER/demonstrations/   what `otpr collect` makes
FOLDER/pretrain/         what `otpr pretrain` makes; its policy is the base policy
FOLDER/plan.json         the task and the recipe, also of an unfinished base
FOLDER/base.json         the same with the measured success and the SHA-256 of every file of the two folders;
                         it is written last, so a base without it is unfinished
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json, write_json
from otpr_bench.suites import BAND, Recipe


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished base."""

    task: str
    data: Path  # folder of the demonstrations
    policy: Path  # folder of the policy
    success: float  # of the policy, in [0, 1], over the held-out episodes that runs are evaluated on
    episodes: int  # number of these episodes
    execute: int | None  # how many actions of a plan were executed in them; None if that was not recorded
    mean_return: float | None  # undiscounted, of the same episodes; None if that was not recorded
    hash: str  # 12 hexadecimal digits that identify the demonstrations and the policy

    @property
    def warning(self) -> str:
        """Why comparisons from this base say little; empty if its success is within `BAND`."""
        if BAND[0] <= self.success <= BAND[1]:
            return ""
        lack, cure = ("build on", "more") if self.success < BAND[0] else ("gain", "fewer")
        return (
            f"WARNING: that is outside {BAND[0]:.0%} to {BAND[1]:.0%}, so there is little to {lack}. Change "
            f"the recipe of {self.task}: use {cure} demonstrations."
        )


def load_base(folder: Path, task: str, recipe: Recipe) -> Base | None:
    """The base in a folder; None if it is unfinished.

    Raises:
        OtprError: it was made for another task or by another recipe, a file changed since it was made, or
            `base.json` is damaged.
    """
    file = folder / "base.json"
    if not file.exists():
        return None
    stored = read_json(file)
    try:
        made, kept = _made(stored), dict[str, str](stored["files"])
        success, episodes = float(stored["success"]), int(stored["episodes"])
        execute = int(stored["execute"]) if "execute" in stored else None
        mean_return = float(stored["mean_return"]) if "mean_return" in stored else None
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedFile(file, error) from error
    if made != (wanted := _plan(task, recipe)):
        raise OtprError(
            f"The base policy in {folder} was made as {json.dumps(made)}; {json.dumps(wanted)} is needed. "
            f"Use another directory with --out, or delete {folder} to make the base again."
        )
    files = _files(folder)
    if files != kept:
        names = sorted({name for name, _ in files.items() ^ kept.items()})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise OtprError(
            f"{folder} is not as it was made: {', '.join(names[:3])}{more} changed. New runs would not "
            "compare with those before. Restore the files, or delete the folder to make the base again."
        )
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
    data, policy = folder / "demonstrations", folder / "pretrain" / "policy"
    return Base(task, data, policy, success, episodes, execute, mean_return, digest)


def make_base(folder: Path, task: str, recipe: Recipe) -> None:
    """Make the base in a folder, or continue one that was stopped.

    Raises:
        OtprError: the expert fails, or a file cannot be written.
        Stopped: a signal asked to stop; the next call continues the imitation.
    """
    from otpr.cli.collect import Collect
    from otpr.cli.evaluate import Evaluate
    from otpr.cli.pretrain import Pretrain
    from otpr.data.loading import DataConfig
    from otpr.training.pretrain import PretrainConfig

    data, pretrained, plan = folder / "demonstrations", folder / "pretrain", folder / "plan.json"
    # an unfinished base of another recipe cannot be continued
    if folder.exists() and (not plan.exists() or read_json(plan) != _plan(task, recipe)):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(plan, _plan(task, recipe))
    seed = recipe.recipe_seed
    if not data.exists():
        limit = recipe.episode_limit
        n, noise = recipe.demonstrations, recipe.noise
        Collect(task, data, episodes=n, noise=noise, seed=seed, episode_limit=limit).run()
    if not (pretrained / "policy").exists():
        config = PretrainConfig(horizon=recipe.chunk_length, updates=recipe.updates, width=recipe.width)
        sources = DataConfig((str(data),))
        Pretrain(sources, pretrained, config, seed=seed, resume=pretrained.exists()).run()
    evaluation = Evaluate(
        (pretrained / "policy",), task=task, episodes=recipe.base_episodes, episode_limit=recipe.episode_limit
    )
    (result,) = evaluation.results()
    success, mean_return = result["success_rate"], result["mean_return"]
    finish_base(folder, task, recipe, success=success, mean_return=mean_return, execute=result["execute"])


def finish_base(
    folder: Path, task: str, recipe: Recipe, *, success: float, mean_return: float, execute: int
) -> None:
    """Write `base.json` beside demonstrations and a policy that are complete.

    The policy's `success`, in [0, 1], and its `mean_return` are over `recipe.base_episodes` episodes, with
    `execute` actions of each plan executed.
    """
    measured: dict[str, Any] = {
        "success": success,
        "mean_return": mean_return,
        "episodes": recipe.base_episodes,
        "execute": execute,
    }
    write_json(folder / "base.json", _plan(task, recipe) | measured | {"files": _files(folder)})


def _plan(task: str, recipe: Recipe) -> dict[str, Any]:
    return {"task": task, "recipe": dataclasses.asdict(recipe)}


def _made(stored: dict[str, Any]) -> dict[str, Any]:
    """The plan that a file holds; settings that came later have their defaults."""
    return _plan(stored["task"], Recipe(**stored["recipe"]))


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the demonstrations and of the policy, by its path in the folder."""
    sums: dict[str, str] = {}
    for part in ("demonstrations", "pretrain/policy"):
        for file in sorted(file for file in (folder / part).rglob("*") if file.is_file()):
            with open(file, "rb") as stream:
                sums[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return sums
