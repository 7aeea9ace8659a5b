"""`otpr policy import` and `otpr policy export`: conversion from and to other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from otpr.data.agreement import Side, agree, check_names, of_task
from otpr.data.meaning import Meaning
from otpr.envs import Setup, TaskSpec, task_spec
from otpr.envs.setup import Observe
from otpr.errors import OtprError
from otpr.lerobot_names import STATE_PARTS
from otpr.policies.convert.dppo_files import Files, Which
from otpr.policies.convert.exported import Exported, write_files
from otpr.policies.convert.formats import import_policy
from otpr.policies.convert.imported import Bounds, Imported
from otpr.policies.convert.lerobot_export import WRITTEN_FOR, export_lerobot
from otpr.policies.convert.onnx_export import export_onnx
from otpr.policies.loading import load_policy, policy_meaning
from otpr.policies.policy import Policy
from otpr.storage import check_writable


@dataclasses.dataclass(frozen=True)
class ImportPolicy:
    """Bring in a policy of LeRobot, diffusion_policy or DPPO: the same actions from the same noise."""

    # LeRobot: folder with config.json and model.safetensors, or a checkpoint of its training;
    # diffusion_policy: converted checkpoint; DPPO: state_EPOCH.pt (docs/other-policies.md)
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    # folder of the new policy
    out: Path
    # its format; auto goes by what is there
    format: Literal["auto", "lerobot", "diffusion-policy", "dppo"] = "auto"
    # task that it acts in, whose action bounds and control rate it takes; left out, it names none
    task: str | None = None
    # the lower end of its actions, in its own units: one number, or one a dimension; left out, the task's, or
    # else -1
    action_low: tuple[float, ...] = ()
    # their upper end
    action_high: tuple[float, ...] = ()
    # what the observation entry "state" holds of the task; see `otpr collect --help`
    observe: Observe = "state"
    # cameras of the task that are its images, NAME or NAME:HEIGHTxWIDTH; not of environments that show images
    cameras: tuple[str, ...] = ()
    # names of differences between policy and task that do not matter (docs/data-agreement.md)
    accept: tuple[str, ...] = ()
    # of DPPO's: configuration of the run or of its evaluation; left out, .hydra/config.yaml of the run
    config: Path | None = None
    # of DPPO's: normalization.npz of the data it was trained on; left out, the one beside the weights
    normalization: Path | None = None
    # of DPPO's: weights of the moving average, or of the last step; auto takes the average where there is one
    weights: Which = "auto"
    # of DPPO's: how many actions of a plan are executed; left out, act_steps of the configuration
    execute: int | None = None

    def run(self) -> None:
        """Import a policy, write it atomically, and describe it."""
        check_names(self.accept)
        check_writable(self.out, "--out", folder=True)
        if self.out.exists():
            raise OtprError(f"{self.out} exists; give the name of a new folder with --out.")
        if bool(self.action_low) != bool(self.action_high):
            raise OtprError("Give both --action-low and --action-high, or neither.")
        known = self._task()
        imported = import_policy(
            self.source,
            None if self.format == "auto" else self.format,
            self._bounds(known),
            known and known.spec.control_rate,
            Files(self.config, self.normalization, self.weights, self.execute),
        )
        meaning = Meaning(parts=imported.parts)
        if known is not None:
            meaning = self._agreed(imported, known)
        imported.policy.save(
            self.out,
            task=self.task or "",
            view=None if known is None else known.setup.view(),
            meaning=meaning.to_json(),
        )
        notes = [f"- {note}" for note in imported.notes]
        print("\n".join([*notes, *imported.policy.spec.lines(), f"Policy: {self.out}"]))

    def _task(self) -> TaskSpec | None:
        if self.task is None:
            if self.cameras or self.observe != "state":
                raise OtprError("--observe and --cameras are of a task; name it with --task.")
            return None
        return task_spec(Setup.seen(self.task, None, self.observe, self.cameras))

    def _bounds(self, known: TaskSpec | None) -> Bounds | None:
        if self.action_low:
            return self.action_low, self.action_high
        return None if known is None else (known.spec.action_low, known.spec.action_high)

    def _agreed(self, imported: Imported, known: TaskSpec) -> Meaning:
        """The meaning of the policy's numbers from policy and task, which must agree."""
        hint = "Give the task that the policy was trained for, seen as it saw it (--observe, --cameras)."
        meaning, theirs = Meaning(parts=imported.parts), of_task(known)
        name, spec = f"the policy in {self.source}", imported.policy.spec.of_task()
        side = Side(name, spec, meaning=meaning, advice=hint)
        for line in agree(side, theirs, self.accept):
            print(line)
        parts = theirs.meaning.parts if "observation-parts" in self.accept else imported.parts
        return Meaning(parts=parts, facts=theirs.meaning.facts, accepted=self.accept)


@dataclasses.dataclass(frozen=True)
class ExportPolicy:
    """Write a policy as a folder that LeRobot loads and runs, or that onnxruntime runs without otpr."""

    # folder of the policy, or of the run that made it
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    # folder to write
    out: Path
    # the format to write; lerobot takes diffusion policies with a U-Net
    format: Literal["lerobot", "onnx"] = "lerobot"
    # of lerobot: how many numbers of the observation entry "state" are observation.state, the rest being
    # observation.environment_state; left out, as the policy was imported, else all
    state_length: int | None = None
    # of lerobot: its names of the images, in alphabetical order of their names here; left out, each is
    # observation.images.NAME
    image_keys: tuple[str, ...] = ()

    def run(self) -> None:
        """Export a policy, write it atomically, and report differences."""
        check_writable(self.out, "--out", folder=True)
        policy = load_policy(self.path)
        exported, reader = self._onnx(policy) if self.format == "onnx" else self._lerobot(policy)
        write_files(exported, self.out)
        for note in exported.notes:
            print(f"- {note}")
        print(f"Written for {reader}: {self.out}")

    def _onnx(self, policy: Policy) -> tuple[Exported, str]:
        if self.state_length is not None or self.image_keys:
            raise OtprError("--state-length and --image-keys are for --format lerobot.")
        return export_onnx(policy), "onnxruntime, with an example in act.py"

    def _lerobot(self, policy: Policy) -> tuple[Exported, str]:
        length, parts = self.state_length, policy_meaning(self.path)["parts"]
        if length is None and parts and parts[0][0] == STATE_PARTS[0]:
            length = parts[0][1]
        exported = export_lerobot(policy, state_length=length, image_keys=self.image_keys)
        return exported, f"LeRobot {WRITTEN_FOR}"
