"""Data and task: what is compared, refused, accepted, put in order and told."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from otpr.cli.main import main
from otpr.data.agreement import ACCEPTABLE, Side, agree, assumed, check_names, compare, needless
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.episodes import Episode
from otpr.data.loading import DataConfig
from otpr.data.meaning import FACTS, Meaning, chosen
from otpr.data.overlap import Sample
from otpr.envs import make_env, task_spec
from otpr.errors import OtprError
from otpr.spec import Entry, Spec
from tests.data import agreement_envs
from tests.data.agreement_envs import STEP

HERE = "tests.data.agreement_envs"
POINT, FLAT, WIDE, SHIFTED = (f"{HERE}:{name}" for name in ("point", "flat", "wide", "shifted"))
SPEC = Spec({"state": Entry((4,))}, (-STEP,) * 2, (STEP,) * 2, control_rate=20)
PARTS = (("pos", 2), ("goal", 2))


def side(name: str = "it", task: str | None = None, *, spec: Spec = SPEC, **meaning: Any) -> Side:
    return Side(name, spec, task, Meaning(**meaning))


def names(mine: Side, theirs: Side) -> list[str | None]:
    return [difference.name for difference in compare(mine, theirs)]


def test_what_both_know_is_compared() -> None:
    assert names(side(), side()) == []
    assert names(side(task="a"), side(task="b")) == ["task"]
    assert names(side(task="a"), side()) == []
    assert names(side(parts=PARTS), side(parts=PARTS[::-1])) == ["observation-order"]
    assert names(side(parts=PARTS), side(parts=(("pos", 2), ("aim", 2)))) == ["observation-parts"]
    assert names(side(parts=PARTS), side()) == []
    # one array of everything is not known to be made of anything else
    assert names(side(parts=(("observations", 4),)), side(parts=PARTS)) == []
    assert names(side(), side(spec=dataclasses.replace(SPEC, control_rate=10))) == ["control-rate"]
    assert names(side(), side(spec=dataclasses.replace(SPEC, control_rate=None))) == []
    wide = dataclasses.replace(SPEC, action_low=(-1, -1), action_high=(1, 1))
    assert names(side(), side(spec=wide)) == ["action-bounds"]
    assert names(side(spec=wide, bounds_stated=False), side()) == []
    for fact in FACTS:
        assert names(side(facts={fact: "this"}), side(facts={fact: "that"})) == [fact]
        assert names(side(facts={fact: "This"}), side(facts={fact: "this"})) == []
        assert names(side(facts={fact: "this"}), side()) == []
    # an environment of another task is the same difference once
    assert names(side(task="a", facts={"environment": "A"}), side(task="b", facts={"environment": "B"})) == [
        "task"
    ]


@pytest.mark.parametrize(
    ("least", "greatest", "low", "high", "refused"),
    [
        (-0.05, 0.05, -0.05, 0.05, True),  # the task's own units, all of them used
        (-0.01, 0.02, -0.05, 0.05, True),
        (-0.05, 0.9, -0.05, 0.05, False),  # no number of the task's
        (0.1, 0.9, 0, 2, True),
        (-0.1, 0.9, 0, 2, False),
        (-1, 1, -2, 2, False),  # told, not refused: both are possible
    ],
)
def test_numbers_without_stated_bounds_are_looked_at(
    least: float, greatest: float, low: float, high: float, refused: bool
) -> None:
    task = side("the task", spec=Spec({"state": Entry((4,))}, (low,) * 2, (high,) * 2))
    data = Side(
        "the data",
        Spec.flat(4, 2),
        None,
        Meaning(bounds_stated=False),
        lambda: ((least,) * 2, (greatest,) * 2),
    )
    assert names(data, task) == (["action-bounds"] if refused else [])
    told = assumed(data, task)
    assert told == [
        f"the data does not say what -1 and 1 stand for in its actions; they are taken for the bounds of the "
        f"task, [{low:g}, {high:g}]"
    ]


def test_all_differences_are_in_one_error_with_what_accepts_them() -> None:
    mine = side("the data", "a", parts=PARTS, facts={"robot": "Sawyer"})
    theirs = side("the task b", "b", parts=PARTS[::-1], facts={"robot": "Panda"})
    with pytest.raises(OtprError) as refused:
        agree(mine, theirs, ("task",))
    assert str(refused.value).splitlines() == [
        "The data and the task b do not fit together (in this order):",
        "  observation-order: pos (2), goal (2) against goal (2), pos (2)",
        "    Leave out --keys, or give --keys goal pos.",
        "  robot: Sawyer against Panda",
        f"    {FACTS['robot']}.",
        "To use it all the same, as if there were no difference (docs/data-agreement.md): --accept "
        "observation-order robot",
    ]
    accepted = agree(mine, theirs, ("task", "observation-order", "robot"))
    assert accepted[0] == "accepted between the data and the task b: task: a against b"
    assert len(accepted) == 3
    assert needless(("task", "robot"), accepted) == []
    assert needless(("task", "controller", "controller"), accepted) == [
        "--accept controller: the data differ from nothing in that"
    ]


def test_shapes_cannot_be_accepted() -> None:
    other = side("the task", spec=dataclasses.replace(SPEC, observation={"state": Entry((5,))}))
    with pytest.raises(
        OtprError, match=r"vector \(4,\) float32 against vector \(5,\)(?s:.*)Do so"
    ) as refused:
        agree(side("the data"), other, ACCEPTABLE, "Do so.")
    assert "--accept" not in str(refused.value)


def test_names_of_differences_are_checked() -> None:
    with pytest.raises(OtprError, match=r"Unknown difference to accept 'control_rate'.*'control-rate'"):
        check_names(("control_rate",))
    with pytest.raises(OtprError, match="Unknown difference"):
        DataConfig(("a",), accept=("everything",))


def test_parts_of_the_task_are_chosen_where_all_are_there() -> None:
    known = {"goal": 2, "pos": 2, "time": 1}
    assert chosen((), PARTS, known, ["goal", "pos", "time"]) == ["pos", "goal"]
    assert chosen(("goal",), PARTS, known, ["goal"]) == ["goal"]
    assert chosen((), PARTS, {"goal": 2, "pos": 3}, ["goal", "pos"]) == ["goal", "pos"]
    assert chosen((), (), known, ["goal"]) == ["goal"]


# ------------------------------------------------------------------------------------ Minari's own sets


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A set that Minari's own collector made: its space is alphabetical, its bounds are the environment's."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    env, expert = minari.DataCollector(agreement_envs.point(), record_infos=True), agreement_envs.Expert()
    for seed in range(4):
        observation, _ = env.reset(seed=seed)
        over = False
        while not over:
            action = expert.act(observation).astype(np.float32)
            observation, _, terminated, truncated, _ = env.step(action)
            over = terminated or truncated
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's, about authors and a folder that it forgets
        env.create_dataset("my/point-v0")
    env._tmp_dir.cleanup()
    return "my/point-v0"


def check_point(episodes: list[Episode]) -> None:
    """Against the environment itself: observations in its order, actions that lead where they led."""
    env = make_env(POINT)
    for seed, episode in enumerate(episodes):
        assert episode.seed == seed
        observation, _ = env.reset(seed=seed)
        np.testing.assert_allclose(episode.observations["state"][0], observation, atol=1e-7)
        for step, action in enumerate(episode.actions, start=1):
            observation, *_, info = env.step(action)
            np.testing.assert_allclose(episode.observations["state"][step], observation, atol=1e-6)
        assert info["success"]


def test_bounds_and_order_of_a_minari_set_are_the_task_s(stored: str) -> None:
    told: list[str] = []
    sets, _ = DataConfig((stored,)).read(POINT, told.append)
    check_point(sets[0])
    assert np.abs(np.concatenate([e.actions for e in sets[0]])).max() == 1.0
    assert told == [
        "the data set my/point-v0: of the observation these parts are read, as the task has them: "
        "pos (2), goal (2)"
    ]


def test_converted_it_is_the_same_and_says_what_it_means(
    stored: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["data", "convert", stored, "--task", POINT, "--out", str(out)]) == 0
    written = read_dataset(out)
    check_point(written.episodes)
    assert written.meaning == Meaning(parts=PARTS)
    assert written.spec == task_spec(POINT).spec
    assert main(["data", "inspect", str(out)]) == 0
    assert "parts         pos (2), goal (2)\n" in capsys.readouterr().out


def test_a_set_with_bounds_of_its_own_is_not_of_a_faster_environment(stored: str) -> None:
    with pytest.raises(OtprError, match=r"action-bounds: \[-0\.05, 0\.05\] against \[-0\.1, 0\.1\]"):
        DataConfig((stored,)).read(WIDE)
    sets, _ = DataConfig((stored,), accept=("action-bounds",)).read(WIDE, lambda line: None)
    assert len(sets[0]) == 4


def test_an_order_that_the_user_gives_differs_until_it_is_accepted(stored: str, tmp_path: Path) -> None:
    convert = ["data", "convert", stored, "--task", POINT, "--keys", "goal", "pos", "--out"]
    assert main([*convert, str(tmp_path / "no")]) == 2
    assert not (tmp_path / "no").exists()
    assert main([*convert, str(tmp_path / "yes"), "--accept", "observation-order"]) == 0
    # for this task it stays as it was accepted; for others it is put in order by name
    told: list[str] = []
    sets, _ = DataConfig((str(tmp_path / "yes"),)).read(None, told.append)
    raw, _ = agreement_envs.point().reset(seed=0)
    np.testing.assert_array_equal(sets[0][0].observations["state"][0], [*raw["goal"], *raw["pos"]])
    assert [line.partition(" between")[0] for line in told] == ["accepted"]
    config = DataConfig((str(tmp_path / "yes"),), accept=("task",))
    sets, _ = config.read(SHIFTED, lambda line: None)
    np.testing.assert_array_equal(sets[0][0].observations["state"][0], [*raw["pos"], *raw["goal"]])


def test_two_sets_are_compared_where_the_task_knows_less(stored: str, tmp_path: Path) -> None:
    for keys in (("pos", "goal"), ("goal", "pos")):
        command = ["data", "convert", stored, "--keys", *keys, "--out", str(tmp_path / keys[0])]
        assert main(command) == 0
    data = (str(tmp_path / "pos"), str(tmp_path / "goal"))
    with pytest.raises(OtprError, match=r"goal and the data set .*pos do not fit(?s:.*)observation-order"):
        DataConfig(data).read(FLAT)
    assert len(DataConfig(data, accept=("observation-order",)).read(FLAT, lambda line: None)[0]) == 2
    # where the task knows the names, both are put in its order
    sets, _ = DataConfig(data).read(POINT, lambda line: None)
    check_point(sets[0])
    check_point(sets[1])


# ------------------------------------------------------------------------------------ arrays, older sets


def arrays(path: Path, scale: float, **more: np.ndarray) -> Path:
    generator = np.random.default_rng(0)
    fields = {
        "observations": generator.standard_normal((20, 4)),
        "actions": scale * generator.uniform(-1, 1, (20, 2)),
        "timeouts": np.arange(1, 21) % 10 == 0,
    }
    np.savez(path, **{**fields, **more})
    return path


def test_arrays_in_the_environment_s_units_are_refused_until_they_are_mapped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    convert = ["data", "convert", str(arrays(tmp_path / "a.npz", STEP)), "--task", FLAT, "--assume-success"]
    convert += ["--skip-check", "--out", str(tmp_path / "out")]
    assert main(convert) == 2
    said = capsys.readouterr().err
    assert "not stated, and all actions are within the bounds [-0.05, 0.05]" in said
    assert "--action-low -0.05 -0.05 --action-high 0.05 0.05" in said
    bounds = ["--action-low", "-0.05", "-0.05", "--action-high", "0.05", "0.05"]  # the advice, followed
    assert main([*convert, *bounds]) == 0
    with np.load(tmp_path / "a.npz") as given:
        stored = read_dataset(tmp_path / "out").episodes[0].actions
        np.testing.assert_allclose(stored, given["actions"][:9] / STEP, rtol=1e-6)
    assert main([*convert, "--accept", "action-bounds", "--overwrite"]) == 0
    with np.load(tmp_path / "a.npz") as given:
        np.testing.assert_array_equal(
            read_dataset(tmp_path / "out").episodes[0].actions, given["actions"][:9].astype(np.float32)
        )


def test_a_set_of_data_format_2_is_told_what_it_does_not_say(tmp_path: Path) -> None:
    zeros = np.zeros((4, 4), np.float32)
    one = Episode(
        {"state": zeros}, np.ones((3, 2), np.float32), np.ones(3, np.float32), True, False, True, None
    )
    write_dataset([one], tmp_path / "set", task_id=POINT, expert="npz data", noise=None, seed=None)
    file = tmp_path / "set" / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["meaning"]
    file.write_text(json.dumps({**metadata, "otpr_data_format": 2, "observation_keys": ["goal", "pos"]}))
    told: list[str] = []
    DataConfig((str(tmp_path / "set"),)).read(None, told.append)
    assert told == [
        f"the data set {tmp_path / 'set'}: of the observation these parts are read, as the task has them: "
        "pos (2), goal (2)",
        f"the data set {tmp_path / 'set'} does not say what -1 and 1 stand for in its actions; they are "
        f"taken for the bounds of the task {POINT}, [-0.05, 0.05]",
    ]


def test_actions_are_clipped_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    actions = np.linspace(-17, 24, 40).reshape(20, 2)
    path = arrays(tmp_path / "a.npz", 1, actions=actions)
    convert = ["data", "convert", str(path), "--assume-success", "--out", str(tmp_path / "out")]
    assert main(convert) == 2
    assert "over [-17, 22.9487] [-15.9487, 24]" in capsys.readouterr().err
    assert main([*convert, "--clip-actions"]) == 0
    written = np.concatenate([episode.actions for episode in read_dataset(tmp_path / "out").episodes])
    kept = np.delete(actions, [9, 19], axis=0)  # the last step of each has no observation after it
    np.testing.assert_array_equal(written, np.clip(kept, -1, 1).astype(np.float32))
    outside = int((np.abs(kept) > 1).sum())
    assert f"- {outside} of 36 numbers of the actions were outside the range" in capsys.readouterr().out


def test_what_is_accepted_is_recorded() -> None:
    assert DataConfig(("a",), accept=("robot",)).record([])["accept"] == ("robot",)
    assert "accept" not in DataConfig(("a",)).record([])


# ------------------------------------------------------------------------------------ resets and replays


def collected(task: str, tmp_path: Path) -> list[Episode]:
    out = tmp_path / "own"
    arguments = ["--expert", f"{HERE}:Expert", "--episodes", "3", "--noise", "0", "--out", str(out)]
    assert main(["collect", task, *arguments]) == 0
    assert read_dataset(out).meaning.parts == PARTS
    return read_dataset(out).episodes


def compared(episodes: list[Episode], task: str) -> list[str]:
    sample = Sample()
    for episode in episodes:
        sample.add(episode)
    return sample.compared(task_spec(task))


def test_episodes_of_the_task_pass_and_others_are_told(tmp_path: Path) -> None:
    own = collected(POINT, tmp_path)
    assert compared(own, POINT) == []
    unseeded = [dataclasses.replace(episode, seed=None) for episode in own]
    assert compared(unseeded, POINT) == []
    told = compared(own, SHIFTED)
    assert told[0].startswith(f"reset with the seed of episode 0, {own[0].seed}: goal[")
    assert len(compared(unseeded, SHIFTED)) == 2
    assert all("goal[" in line and "is not as in the task" in line for line in compared(unseeded, SHIFTED))
    # twice as far with each step
    (first, *_) = compared(own, WIDE)
    assert first.startswith("replay of episode 0 from its seed leaves the stored observations at step 1: pos")
    # the flag alone
    told = compared([dataclasses.replace(own[0], success=False)], POINT)
    assert told == ["replay of episode 0 from its seed ends with success, the stored without success"]


def test_without_the_simulator_it_is_said(tmp_path: Path) -> None:
    task = dataclasses.replace(task_spec(POINT), installed=False, install="pip install it")
    assert Sample().compared(task) == [
        f"not compared with resets of {POINT}: its simulator is not installed (pip install it)"
    ]
