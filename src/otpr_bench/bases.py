"""The base policy of a task: made once by its recipe, measured, kept with its hashes, used by all runs.

FOLDER/demonstrations/   what `otpr collect` makes
FOLDER/pretrain/         what `otpr pretrain` makes; its policy is the base policy
FOLDER/plan.json         the task and the recipe, of a base that is not finished too
FOLDER/base.json         the same, the success that was measured, and the SHA-256 of every file of the two
                         folders; it is written last, so a base without it is not finished
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import time
from pathlib import Path
from typing import Any, TypeGuard, cast

from otpr.errors import OtprError
from otpr.storage import DamagedFile, read_json, write_json
from otpr_bench.suites import BAND, Recipe


@dataclasses.dataclass(frozen=True)
class Base:
    """A finished base.

    Attributes:
        task: the task.
        data: folder of the demonstrations.
        policy: folder of the policy.
        success: success rate of the policy over held-out episodes, those that runs are evaluated on.
        episodes: their number.
        hash: 12 hexadecimal digits that stand for the demonstrations and the policy.
    """

    task: str
    data: Path
    policy: Path
    success: float
    episodes: int
    hash: str

    @property
    def warning(self) -> str:
        """Why comparisons from this base say little; empty where its success is as it should be."""
        if BAND[0] <= self.success <= BAND[1]:
            return ""
        lack, cure = ("build on", "more") if self.success < BAND[0] else ("gain", "fewer")
        return (
            f"WARNING: the base policy of {self.task} succeeds in {self.success:.0%} of {self.episodes} "
            f"episodes, outside {BAND[0]:.0%} to {BAND[1]:.0%}: there is little to {lack}. Change its "
            f"recipe: {cure} demonstrations."
        )


def load_base(folder: Path, task: str, recipe: Recipe) -> Base | None:
    """The base in a folder; None where it is not finished.

    Raises:
        OtprError: it was made for another task or by another recipe, a file is not as it was made, or
            `base.json` is damaged.
    """
    file = folder / "base.json"
    if not file.exists():
        return None
    stored = read_json(file)
    if not _is_record(stored):
        raise DamagedFile(file, "it is not what `otpr bench` writes")
    wanted = {"task": task, "recipe": dataclasses.asdict(recipe)}
    found = {name: stored[name] for name in wanted}
    if found != wanted:
        raise OtprError(
            f"The base policy in {folder} was made otherwise: {json.dumps(found)}, and now it is to be "
            f"{json.dumps(wanted)}. Use another directory with --out, or delete {folder} to make it again."
        )
    files = _files(folder)
    if files != stored["files"]:
        names = sorted(
            name for name in {*files, *stored["files"]} if files.get(name) != stored["files"].get(name)
        )
        raise OtprError(
            f"{folder} is not as it was made: {', '.join(names[:3])}{' and more' if len(names) > 3 else ''} "
            "changed. Runs from it could not be compared with those before. Bring the files back, or delete "
            f"{folder} to make the base again."
        )
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return Base(
        task,
        folder / "demonstrations",
        folder / "pretrain" / "policy",
        stored["success"],
        stored["episodes"],
        digest[:12],
    )


def make_base(folder: Path, task: str, recipe: Recipe) -> None:
    """Make the base in a folder, or go on with one that was stopped.

    Raises:
        OtprError: the expert fails, or something cannot be written.
        Stopped: a signal asked to stop; imitation goes on from there the next time.
    """
    from otpr.cli.collect import Collect
    from otpr.cli.evaluate import Evaluate
    from otpr.cli.pretrain import Pretrain
    from otpr.data.loading import DataConfig
    from otpr.training.pretrain import PretrainConfig

    data, pretrained = folder / "demonstrations", folder / "pretrain"
    started = time.monotonic()
    # an unfinished base of another recipe is nothing to go on with
    plan = {"task": task, "recipe": dataclasses.asdict(recipe)}
    if folder.exists() and (not (folder / "plan.json").exists() or read_json(folder / "plan.json") != plan):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", plan)
    if not data.exists():
        Collect(
            task,
            data,
            episodes=recipe.demonstrations,
            noise=recipe.noise,
            seed=recipe.recipe_seed,
        ).run()
    if not (pretrained / "policy").exists():
        Pretrain(
            DataConfig((str(data),)),
            pretrained,
            PretrainConfig(chunk_length=recipe.chunk_length, updates=recipe.updates),
            seed=recipe.recipe_seed,
            resume=pretrained.exists(),
        ).run()
    (result,) = Evaluate((pretrained / "policy",), task=task, episodes=recipe.base_episodes).results()
    finish_base(folder, task, recipe, success=result["success_rate"], seconds=time.monotonic() - started)


def finish_base(folder: Path, task: str, recipe: Recipe, *, success: float, seconds: float) -> None:
    """Write `base.json` beside the demonstrations and the policy that are there.

    Args:
        folder: of the base.
        task: the task.
        recipe: how it was made.
        success: success rate over the episodes of the recipe.
        seconds: what the last sitting took.
    """
    write_json(
        folder / "base.json",
        {
            "task": task,
            "recipe": dataclasses.asdict(recipe),
            "success": success,
            "episodes": recipe.base_episodes,
            "seconds": round(seconds, 1),
            "files": _files(folder),
        },
    )


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of the demonstrations and of the policy, by its path in the folder."""
    sums: dict[str, str] = {}
    for part in ("demonstrations", "pretrain/policy"):
        for file in sorted((folder / part).rglob("*")):
            if file.is_file():
                with open(file, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                sums[file.relative_to(folder).as_posix()] = digest
    return sums


def _is_record(stored: Any) -> TypeGuard[dict[str, Any]]:
    kinds = {"task": str, "recipe": dict, "success": float | int, "episodes": int, "files": dict}
    if not isinstance(stored, dict):
        return False
    record = cast(dict[str, Any], stored)
    return all(isinstance(record.get(name), kind) for name, kind in kinds.items())
