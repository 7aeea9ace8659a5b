"""Kill a process before every single operation on files of everything that a run writes; see what is left.

    python tests/faults/killed_files.py FOLDER

Each scenario is prepared anew, done in a fork that kills itself before its n-th operation, and looked at, for
n = 1, 2, ... until one gets through. It prints how many were killed, as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter, read_experience
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.spec import Spec
from otpr.storage import check_seal, sealed_folder
from otpr.training import checkpoints, run_directory
from otpr.training.run_directory import RunDirectory, read_rows

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
CONFIG = {"seed": 0}


def tree(value: float) -> dict[str, Any]:
    return {"x": np.full(3, float(value)), "y": np.arange(4)}


def save(folder: Path, step: int, value: float) -> None:
    checkpoints.save(folder, step, tree(value), {"value": value})


def loaded(folder: Path) -> tuple[int | None, float | None]:
    """The newest checkpoint's step and value; its arrays and its state agree."""
    if (step := checkpoints.latest(folder)) is None:
        return None, None
    arrays, state = checkpoints.load(folder, step, tree(0.0))
    assert arrays["x"].tolist() == [state["value"]] * 3
    assert arrays["y"].tolist() == [0, 1, 2, 3]
    return step, state["value"]


def open_run(folder: Path, **options: Any) -> RunDirectory:
    return RunDirectory.open(folder / "run", command="c", config=CONFIG, **options)


def logged_run(folder: Path, rows: int) -> None:
    with open_run(folder) as run:
        for number in range(1, rows + 1):
            run.log({"env_steps": number, "row": number})


def numbers(folder: Path) -> list[int]:
    return [row["row"] for row in read_rows(folder / "run")]


# ---------------------------------------------------------------------------- what is done, what must be left


def three_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        save(folder, step, step)


def save_third(folder: Path) -> None:
    save(folder, 3, 3.0)


def see_third(folder: Path) -> None:
    assert loaded(folder) in ((2, 2), (3, 3)), loaded(folder)
    save(folder, 4, 4.0)  # what a killed process left goes with the next
    assert {path.name for path in folder.iterdir()} <= {"2", "3", "4"}
    assert len(list(folder.iterdir())) == 2


def save_second_again(folder: Path) -> None:
    save(folder, 2, 2.5)


def see_second(folder: Path) -> None:
    assert loaded(folder) in ((2, 2), (2, 2.5)), loaded(folder)  # never 1: that would cost work
    save(folder, 2, 2.5)
    assert {path.name for path in folder.iterdir()} == {"1", "2"}


def nothing(folder: Path) -> None:
    pass


def create(folder: Path) -> None:
    open_run(folder).close()


def see_created(folder: Path) -> None:
    if (folder / "run").exists():
        with open_run(folder, resume=True) as run:
            assert run.rows() == []
    else:
        open_run(folder).close()


def run_of_three(folder: Path) -> None:
    logged_run(folder, 3)


def overwrite(folder: Path) -> None:
    open_run(folder, overwrite=True).close()


def see_overwritten(folder: Path) -> None:
    """The old run whole, none, or the new one: it was to be deleted."""
    if (folder / "run").exists():
        assert numbers(folder) in ([1, 2, 3], [])
        open_run(folder, resume=True).close()
    else:
        open_run(folder).close()


def torn_run(folder: Path) -> None:
    logged_run(folder, 3)
    with open(folder / "run" / "metrics.jsonl", "a") as file:
        file.write('{"env_steps": 4, "ro')


def resume_and_rewind(folder: Path) -> None:
    with open_run(folder, resume=True) as run:
        run.rewind("row", 2)
        run.log({"env_steps": 3, "row": 3})


def see_rewound(folder: Path) -> None:
    assert numbers(folder) in ([1, 2, 3], [1, 2])
    resume_and_rewind(folder)
    assert numbers(folder) == [1, 2, 3]
    assert len(json.loads((folder / "run" / "versions.json").read_text())) in (2, 3)


def sealed(folder: Path) -> None:
    with sealed_folder(folder / "policy") as new:
        (new / "a").write_text("1")
        (new / "b").write_text("2")


def see_sealed(folder: Path) -> None:
    if (folder / "policy").exists():
        assert check_seal(folder / "policy") == {"a", "b"}


SPEC = Spec.flat(2, 1)


def episode(seed: int) -> Episode:
    return Episode(
        observations={"state": np.full((4, 2), seed, np.float32)},
        actions=np.zeros((3, 1), np.float32),
        rewards=np.zeros(3, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=seed,
    )


def writer(folder: Path) -> ExperienceWriter:
    return ExperienceWriter(folder / "experience", Setup("a task"), SPEC)


def seeds(folder: Path) -> list[int | None]:
    """Of the episodes that are there; each is what was collected from its seed."""
    found = list(read_experience(folder / "experience"))
    assert [one.observations["state"].tolist() for one in found] == [[[one.seed] * 2] * 4 for one in found]
    return [one.seed for one in found]


def begin_experience(folder: Path) -> None:
    writer(folder)


def see_begun(folder: Path) -> None:
    writer(folder).add([episode(1)])
    assert seeds(folder) == [1]


def three_rounds(folder: Path) -> None:
    experience = writer(folder)
    for seed in (1, 2, 3):
        experience.add([episode(seed)])


def fourth_round(folder: Path) -> None:
    writer(folder).add([episode(4), episode(5)])


def see_fourth(folder: Path) -> None:
    assert seeds(folder) in ([1, 2, 3], [1, 2, 3, 4, 5])
    experience = writer(folder)
    if experience.count == 3:
        experience.add([episode(4), episode(5)])
    assert seeds(folder) == [1, 2, 3, 4, 5]


def back_to_first(folder: Path) -> None:
    experience = writer(folder)
    digest = json.loads((folder / "digest").read_text())
    list(experience.back_to(1, digest))
    experience.add([episode(7)])


def one_counted_of_three(folder: Path) -> None:
    experience = writer(folder)
    experience.add([episode(1)])
    (folder / "digest").write_text(json.dumps(experience.digest))
    for seed in (2, 3):
        experience.add([episode(seed)])
    (folder / "experience" / ".episodes-000003.safetensors.part").write_bytes(b"killed while it wrote")


def see_first(folder: Path) -> None:
    assert seeds(folder) in ([1, 2, 3], [1, 2], [1], [1, 7])
    back_to_first(folder)
    assert seeds(folder) == [1, 7]
    assert not list((folder / "experience").glob(".*"))


SCENARIOS: dict[str, tuple[Callable[[Path], None], ...]] = {
    "save a checkpoint": (three_checkpoints, save_third, see_third),
    "replace a checkpoint": (three_checkpoints, save_second_again, see_second),
    "begin a run": (nothing, create, see_created),
    "overwrite a run": (run_of_three, overwrite, see_overwritten),
    "resume a run": (torn_run, resume_and_rewind, see_rewound),
    "save a policy": (nothing, sealed, see_sealed),
    "begin the experience": (nothing, begin_experience, see_begun),
    "write a round of episodes": (three_rounds, fourth_round, see_fourth),
    "go back to a checkpoint's episodes": (one_counted_of_three, back_to_first, see_first),
}


def killed_at(number: int, folder: Path, act: Callable[[Path], None]) -> bool:
    """Fork, act, die before the `number`-th operation on files in the folder; False if there was none."""
    if (child := os.fork()) == 0:
        seen = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            if event in OPERATIONS and str(arguments[0]).startswith(str(folder)):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        act(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0, "the fork failed"
    return False


def main() -> None:
    """As the module says."""
    # JAX says that it does not like forks; it has not begun to work here
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=r"os\.fork\(\)")
    os.fsync = lambda descriptor: None  # against power cuts, not kills; here it would only take time
    run_directory.software_versions = lambda: {"otpr": "0"}
    kills = {}
    for name, (prepare, act, see) in SCENARIOS.items():
        number = 0
        while True:
            number += 1
            folder = Path(sys.argv[1]) / f"{name} {number}"
            folder.mkdir()
            prepare(folder)
            if not killed_at(number, folder, act):
                break
            try:
                see(folder)
            except (AssertionError, OtprError) as error:
                raise AssertionError(f"{name}, killed before operation {number}: {error}") from error
            shutil.rmtree(folder)
        kills[name] = number - 1
    print(json.dumps(kills))


if __name__ == "__main__":
    main()
