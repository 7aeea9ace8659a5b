"""What files say beside their numbers: robosuite's arguments, LeRobot's robot and tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from otpr.cli.main import main
from otpr.data.convert.robosuite_args import facts
from otpr.data.convert.sources import convert, open_source
from otpr.data.datasets import read_dataset
from otpr.data.loading import DataConfig
from otpr.envs import task_spec
from otpr.errors import OtprError

FIXTURES = Path(__file__).parents[1] / "fixtures"
# robosuite's own file of this controller, before and since 1.5
OSC = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "impedance_mode": "fixed",
}
FORMER = {**OSC, "control_delta": True}
LATER = {"type": "BASIC", "body_parts": {"right": {**OSC, "input_type": "delta", "input_ref_frame": "base"}}}


def controller(config: Any, arms: int = 1, version: str = "1.5.1") -> str:
    kwargs = {"robots": ["Panda"] * arms, "controller_configs": config}
    return facts({"env_version": version, "env_kwargs": kwargs})["controller"]


@pytest.mark.parametrize("config", [FORMER, LATER, [FORMER], {"type": "OSC_POSE"}])
def test_robosuite_s_usual_controller_is_the_task_s(config: Any) -> None:
    assert controller(config) == task_spec("robosuite/lift").facts["controller"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**FORMER, "control_delta": False}, "OSC_POSE, absolute, along the world's axes"),
        ({"type": "JOINT_VELOCITY"}, "JOINT_VELOCITY, relative"),
        (
            {**FORMER, "output_max": 0.1, "output_min": -0.1},
            "OSC_POSE, relative, 1 is 0.1 m and 0.1 rad, along the world's axes",
        ),
        (
            {**FORMER, "kp": 300, "impedance_mode": "variable"},
            "OSC_POSE, relative, 1 is 0.05 m and 0.5 rad, along the world's axes, variable impedance, "
            "stiffness 300",
        ),
    ],
)
def test_other_controllers_are_not(config: dict[str, Any], words: str) -> None:
    assert controller(config) == words


def test_two_arms_have_axes_of_their_own_since_1_5() -> None:
    task = task_spec("robosuite/transport").facts
    assert controller(LATER, arms=2).endswith("along the axes of each arm's base")
    assert controller(FORMER, arms=2, version="1.4.1") == task["controller"]
    assert facts({"env_kwargs": {"robots": ["Panda", "Panda"]}})["robot"] == task["robot"]


def test_what_is_left_to_defaults_is_not_known() -> None:
    assert facts({}) == {}
    assert facts({"env_name": "Lift", "type": 1, "env_kwargs": {"robots": "Sawyer"}}) == {
        "environment": "Lift",
        "simulator": "robosuite",
        "robot": "Sawyer",
    }


def test_all_that_differs_in_a_robomimic_file_is_in_one_error(tmp_path: Path) -> None:
    path = Path(shutil.copy(FIXTURES / "lift.hdf5", tmp_path / "lift.hdf5"))
    with h5py.File(path, "a") as file:
        args = json.loads(file["data"].attrs["env_args"])
        args["env_kwargs"] |= {"robots": ["Sawyer"], "controller_configs": {"type": "JOINT_VELOCITY"}}
        args["env_kwargs"]["control_freq"] = 10
        file["data"].attrs["env_args"] = json.dumps(args)
    names = ("control-rate", "robot", "controller")
    with pytest.raises(OtprError, match=r"control-rate: 10 Hz(?s:.*)robot: Sawyer(?s:.*)controller: JOINT"):
        convert(open_source(path), tmp_path / "out")
    convert(open_source(path), tmp_path / "out", accept=names)
    written = read_dataset(tmp_path / "out")
    assert (written.meaning.accepted, written.meaning.facts["robot"]) == (names, "Sawyer")
    assert written.spec.control_rate == 10
    told: list[str] = []  # for this task it stays accepted
    DataConfig((str(tmp_path / "out"),)).read(None, told.append)
    assert [line.split(": ")[1] for line in told if line.startswith("accepted")] == list(names)


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """The LeRobot fixture, of whose five episodes the second and the fourth are of another task."""
    path = Path(shutil.copytree(FIXTURES / "lerobot", tmp_path / "robot"))
    for file in (path / "data").rglob("*.parquet"):
        table = pq.read_table(file)
        episodes = np.array(table["episode_index"])
        number = pa.array(np.where(np.isin(episodes, (1, 3)), 7, 0))
        table = table.set_column(table.schema.get_field_index("task_index"), "task_index", number)
        pq.write_table(table, file)
    tasks = pa.table({"task_index": [0, 7], "task": ["reach", "push"]})
    pq.write_table(tasks, path / "meta" / "tasks.parquet")
    return path


def test_tasks_of_a_lerobot_set_are_chosen(several: Path, tmp_path: Path, capsys: Any) -> None:
    whole = list(open_source(several).episodes())
    with pytest.raises(
        OtprError, match=r"(?s)several tasks.*0: reach \(3 episodes\)\s+7: push \(2 episodes\)"
    ):
        convert(open_source(several), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(OtprError, match=r"no episodes of task 1; it has:\s+0: reach"):
        open_source(several, task_index=(1,))
    for number, kept, words in ((0, (0, 2, 4), "reach"), (7, (1, 3), "push")):
        source = open_source(several, task_index=(number,))
        for given, index in zip(source.episodes(), kept, strict=True):
            np.testing.assert_array_equal(given.actions, whole[index].actions)
        assert source.facts == {"instruction": words}
    assert len(list(open_source(several, task_index=(0, 7)).episodes())) == 5
    assert main(["data", "inspect", str(several)]) == 0
    assert "own task      7: push (2 episodes)\n" in capsys.readouterr().out


def test_an_episode_of_several_tasks_is_refused(several: Path) -> None:
    (file,) = sorted((several / "data").rglob("*.parquet"))[:1]
    table = pq.read_table(file)
    number = np.array(table["task_index"]).copy()
    number[0] = 7
    index = table.schema.get_field_index("task_index")
    pq.write_table(table.set_column(index, "task_index", pa.array(number)), file)
    with pytest.raises(OtprError, match=r"episode 0 has several tasks \(0, 7 by task_index\)"):
        open_source(several)


def test_the_robot_of_a_lerobot_set_is_compared(several: Path) -> None:
    info = json.loads((several / "meta" / "info.json").read_text())
    for robot, known in (("so100", {"robot": "so100"}), ("unknown", {}), (None, {})):
        (several / "meta" / "info.json").write_text(json.dumps({**info, "robot_type": robot}))
        assert open_source(several).facts == known


def test_only_lerobot_numbers_its_tasks() -> None:
    with pytest.raises(OtprError, match="only LeRobot's sets number their tasks, this is robomimic"):
        open_source(FIXTURES / "lift.hdf5", task_index=(0,))
