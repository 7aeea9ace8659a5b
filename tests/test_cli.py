from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest

import otpr
from otpr.cli.main import main
from otpr.data.dataset_writer import write_dataset
from otpr.data.datasets import read_dataset
from otpr.data.seeds import evaluation_seed
from otpr.envs import ChunkedVectorEnv, Setup, task_spec
from otpr.policies.loading import load_policy
from otpr.training import checkpoints
from otpr.training.evaluate import evaluate
from otpr.training.run_directory import RunDirectory, read_rows
from otpr.training.workers import Lockstep
from otpr.trees import read_arrays
from tiny import (
    AGENT,
    COLLECT,
    LOOP,
    POLICY,
    TASK,
    assert_same_arrays,
    demonstrations,
    files,
    options,
    weights,
)

TIMES = {"seconds", "eval/seconds", "wall_seconds"}
PRETRAIN = ["pretrain", "--data", "demos", *options({**POLICY, "updates": 300, "batch_size": 32})]
# One placement here and in other processes: last bits depend on it, and its default on the number of cores.
PLACED_LOOP = options({**LOOP, "rollout": "lockstep"})
FINETUNE = ["finetune", "--policy", "base", "--data", "demos", *PLACED_LOOP, "--no-video", "--set", *AGENT]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, in which three commands were run: it holds `demos`, `base` and `tuned`."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["collect", TASK, "--out", "demos", *options(COLLECT)]) == 0
        assert main([*PRETRAIN, "--run-dir", "base"]) == 0
        assert main([*FINETUNE, "--run-dir", "tuned"]) == 0
        yield folder


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in TIMES}


def checkpoint_files(run: str) -> dict[str, np.ndarray]:
    """Everything in the newest checkpoint of a fine-tuning run, as raw arrays by name."""
    step = checkpoints.latest(f"{run}/checkpoints")
    assert step is not None
    return read_arrays(Path(run, "checkpoints", str(step), "arrays.safetensors"))


def test_collected_demonstrations_are_what_the_expert_did(place: Path):
    stored = read_dataset("demos")
    assert stored.task_id == TASK
    assert stored.metadata["expert"] == "scripted expert"
    assert len(stored.episodes) == 2
    for given, expected in zip(stored.episodes, demonstrations(), strict=True):
        np.testing.assert_array_equal(given.actions, expected.actions)
        np.testing.assert_equal(given.observations, expected.observations)
        assert given.success


def test_run_directory_has_what_was_promised(place: Path):
    assert {file.name for file in Path("tuned").iterdir()} == {
        "config.json",
        "versions.json",
        "metrics.jsonl",
        "lock",
        "summary.json",
        "tensorboard",
        "checkpoints",
        "experience",
        "policy",
        "learning_curve.png",
    }
    config = json.loads(Path("tuned/config.json").read_text())["config"]
    assert config["loop"].items() >= LOOP.items()
    assert config["algorithm"] == "otpr"
    assert config["episode_limit"] is None
    assert config["task"] == TASK
    assert config["agent"]["critic_width"] == 16
    summary = json.loads(Path("tuned/summary.json").read_text())
    promised = (
        "task algorithm preset seed env_steps base_success final_success eval_episodes wall_seconds execute"
    )
    assert summary.keys() >= {*promised.split(), "otpr/marginal_error"}
    assert summary["episode_limit"] == 200
    assert (summary["task"], summary["algorithm"], summary["env_steps"]) == (TASK, "otpr", 1200)
    assert Path("tuned/learning_curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.long
@pytest.mark.parametrize("stop_at", [pytest.param("updates", id="in the middle of the updates")])
def test_stopped_and_resumed_run_is_the_uninterrupted_run(
    place: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    log = RunDirectory.log

    def log_and_interrupt(run: RunDirectory, row: dict[str, Any]) -> None:
        log(run, row)
        if stop_at in row:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "log", log_and_interrupt)
    assert main([*FINETUNE, "--run-dir", "stopped"]) == 0
    printed = capsys.readouterr().out
    assert "fine-tuning stopped at 400 environment steps. Go on with:" in printed
    assert 2 < len(read_rows("stopped")) < len(read_rows("tuned"))
    assert not Path("stopped/policy").exists()
    monkeypatch.setattr(RunDirectory, "log", log)
    again = printed.rstrip().split("\n")[-1].split()
    assert again[1:] == [*FINETUNE, "--run-dir", "stopped", "--resume"]
    assert main(again[1:]) == 0
    assert [timeless(row) for row in read_rows("stopped")] == [timeless(row) for row in read_rows("tuned")]
    assert_same_arrays(weights(Path("stopped/policy")), weights(Path("tuned/policy")))
    assert_same_arrays(checkpoint_files("stopped"), checkpoint_files("tuned"))
    summaries = [timeless(json.loads(Path(run, "summary.json").read_text())) for run in ("stopped", "tuned")]
    assert summaries[0] == summaries[1]
    assert len(json.loads(Path("stopped/versions.json").read_text())) == 2


@pytest.mark.long
def test_evaluation_of_saved_policies_is_that_in_memory_and_differs_from_the_bases(
    place: Path, capsys: pytest.CaptureFixture[str]
):
    arguments = ["--episodes", "3", "--num-envs", "2", "--out", "numbers/evaluation.json"]
    assert main(["evaluate", "base", "tuned", *arguments]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    lines = [line for line in lines if not line.startswith("evaluating")]  # progress, on a slow machine
    results = json.loads(Path("numbers/evaluation.json").read_text())
    assert [(result["policy"], result["kind"]) for result in results] == [
        ("base", "one sample"),
        ("tuned", "chosen of 4"),
        ("tuned", "one sample"),
    ]
    base, tuned = load_policy("base"), otpr.load_policy("tuned")
    with ChunkedVectorEnv(TASK, 2, base.spec.execute, processes=False) as env:
        outcomes = [evaluate(policy, Lockstep(env), 3) for policy in (base, tuned, tuned.single())]
        start = env.reset([evaluation_seed(0), None])["state"][0]
    for result, outcome, line in zip(results, outcomes, lines, strict=True):
        assert result["success_rate"] == outcome.success_rate
        assert result["mean_length"] == outcome.mean_length
        assert {name: result[name] for name in result if "/" in name} == outcome.metrics
        assert result["interval_95"] == list(outcome.interval)
        assert (result["episodes"], result["task"], result["episode_limit"]) == (3, TASK, 200)
        assert result["execute"] == base.spec.execute
        assert (result["sampler"], result["sampler_steps"]) == ("ddpm", POLICY["denoising_steps"])
        assert line == f"{result['policy']} on {TASK}, {result['kind']}: {outcome}"
    assert np.abs(tuned.single().act(start, 0) - base.act(start, 0)).max() > 1e-2
    # the run's own last evaluation was on the same conditions
    last = read_rows("tuned")[-1]
    assert (last["eval/success_rate"], last["eval/length"]) == (
        results[1]["success_rate"],
        results[1]["mean_length"],
    )


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "sampler", "steps"),
    [
        (["--sampler", "dpm++", "--sampler-steps", "2"], "dpm++", 2),
        (["--sampler", "ddim"], "ddim", POLICY["denoising_steps"]),
        (["--sampler-steps", "1"], "ddpm", 1),
    ],
)
def test_evaluation_samples_as_it_is_told(place: Path, arguments: list[str], sampler: Any, steps: int):
    told = ["--episodes", "1", "--num-envs", "1", "--out", "numbers/sampled.json"]
    assert main(["evaluate", "tuned", *told, *arguments]) == 0
    results = json.loads(Path("numbers/sampled.json").read_text())
    assert [(result["sampler"], result["sampler_steps"]) for result in results] == [(sampler, steps)] * 2
    tuned = load_policy("tuned").with_sampler(sampler, steps)
    with ChunkedVectorEnv(TASK, 1, tuned.spec.execute, processes=False) as env:
        outcomes = [evaluate(policy, Lockstep(env), 1) for policy in (tuned, tuned.single())]
    assert [result["mean_length"] for result in results] == [outcome.mean_length for outcome in outcomes]
    assert results[0]["otpr/zero_compatibility"] == outcomes[0].metrics["otpr/zero_compatibility"]


def test_evaluation_executes_and_ends_as_it_is_told(place: Path):
    told = ["--episodes", "2", "--num-envs", "1", "--execute", "3", "--episode-limit", "50"]
    assert main(["evaluate", "base", *told, "--out", "numbers/executed.json"]) == 0
    [result] = json.loads(Path("numbers/executed.json").read_text())
    assert (result["execute"], result["episode_limit"], result["mean_length"]) == (3, 50, 50)
    policy = load_policy("base").executing(3)
    with ChunkedVectorEnv(Setup(TASK, 50), 1, 3, processes=False) as env:
        assert result["success_rate"] == evaluate(policy, Lockstep(env), 2).success_rate


@pytest.mark.long
def test_evaluation_chooses_as_it_is_told(place: Path):
    told = ["--episodes", "2", "--num-envs", "1", "--rule", "highest"]
    assert main(["evaluate", "base", "tuned", *told, "--out", "numbers/chosen.json"]) == 0
    results = json.loads(Path("numbers/chosen.json").read_text())
    assert [result["rule"] for result in results] == [None, "highest", None]
    tuned = load_policy("tuned")
    assert tuned.chooser is not None
    assert tuned.chooser.about()["rule"] == "central"
    by_highest = tuned.choosing(tuned.chooser.by("highest"), tuned.candidates)
    with ChunkedVectorEnv(TASK, 1, tuned.spec.execute, processes=False) as env:
        outcome = evaluate(by_highest, Lockstep(env), 2)
    assert results[1]["mean_length"] == outcome.mean_length


@pytest.mark.long
def test_plans_of_which_a_part_is_executed_go_through_every_command(place: Path):
    plan = ["--horizon", "8", "--execute", "4", "--history", "2"]
    few = options({**{name: value for name, value in POLICY.items() if name != "horizon"}, "updates": 20})
    assert main(["pretrain", "--data", "demos", *few, *plan, "--run-dir", "part/base", "--log", "none"]) == 0
    spec = load_policy("part/base").spec
    assert (spec.history, spec.horizon, spec.execute) == (2, 8, 4)
    loop = options({**LOOP, "env_steps": 200, "warmup_steps": 100, "eval_every": 200})
    tune = [
        "finetune",
        "otpr",
        "--policy",
        "part/base",
        "--data",
        "demos",
        *loop,
        "--no-video",
        "--set",
        *AGENT,
    ]
    assert main([*tune, "--run-dir", "part/tuned", "--episode-limit", "60"]) == 0
    assert load_policy("part/tuned").spec == spec
    summary = json.loads(Path("part/tuned/summary.json").read_text())
    assert (summary["execute"], summary["episode_limit"]) == (4, 60)
    assert json.loads(Path("part/tuned/config.json").read_text())["config"]["episode_limit"] == 60
    rows = read_rows("part/tuned")
    assert {row["eval/length"] for row in rows if "eval/length" in row} == {60}
    assert not Path("part/base/tensorboard").exists()
    assert Path("part/tuned/tensorboard").is_dir()


def test_info_tells_versions_devices_and_suites_on_one_screen(capsys: pytest.CaptureFixture[str]):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^otpr +{re.escape(otpr.__version__)}$", text, re.MULTILINE)
    assert re.search(rf"^jax +{re.escape(jax.__version__)}$", text, re.MULTILINE)
    assert re.search(rf"^devices +{re.escape(str(jax.devices()[0]))}", text, re.MULTILINE)
    assert re.search(r"^metaworld +50 +50  installed$", text, re.MULTILINE)
    assert len(text.splitlines()) <= 50


def test_info_lists_the_tasks_of_a_suite(capsys: pytest.CaptureFixture[str]):
    assert main(["info", "metaworld"]) == 0
    text = capsys.readouterr().out
    assert re.search(rf"^{TASK} +39 +4 +200 +yes +installed$", text, re.MULTILINE)
    assert len(re.findall(r"^metaworld/\S+-v3 ", text, re.MULTILINE)) == 50
    assert main(["info", "metaworld", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tasks"]) == 50


def test_info_for_programs_is_json(capsys: pytest.CaptureFixture[str]):
    assert main(["info", "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["versions"]["otpr"] == otpr.__version__
    assert info["versions"]["devices"] == [str(device) for device in jax.devices()]
    [task] = [task for task in info["tasks"] if task["id"] == TASK]
    assert task == {
        "id": TASK,
        "extra": "metaworld",
        "install": "pip install 'otpr[metaworld]'",
        "installed": True,
        "spec": task_spec(TASK).spec.to_json(),
        "episode_limit": 200,
        "expert": True,
        "parts": [],
        "facts": {"simulator": "metaworld", "robot": "Sawyer"},
        "resolution": 1e-4,
        "geometry": {
            "positions": [0, 1, 2, 4, 5, 6, 11, 12, 13, 36, 37, 38],
            "per_metre": 1.0,
            "lag": 18,
            "hand": 0,
            "reach": 0.01,
            "open": -1.0,
        },
    }
    assert info["shifts"]["gain"]["amounts"] == [0.8, 0.6, 0.4]


def test_info_names_the_extra_that_a_task_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from importlib import util

    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "metaworld" else find_spec(name))
    assert main(["info"]) == 0
    assert "pip install 'otpr[metaworld]'" in capsys.readouterr().out
    assert main(["collect", TASK, "--out", "x"]) == 2
    assert "pip install 'otpr[metaworld]'" in capsys.readouterr().err


# ---------------------------------------------------------------------------- faults


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error; nothing else was said and nothing was written."""
    before = files(Path())
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert files(Path()) == before
    assert said.err.startswith("otpr: ")
    return said.err.removeprefix("otpr: ").rstrip("\n")


NEAREST = [
    # arguments, kind of name, given, first suggestion
    (["finetun"], "command", "finetun", "finetune"),
    (["collect", TASK[:-4], "--out", "x"], "task", TASK[:-4], TASK),
    (["collect", "peg-insert-side", "--out", "x"], "task", "peg-insert-side", TASK),
    (["quickstart", "--task", "metaworld/reech-v3"], "task", "metaworld/reech-v3", "metaworld/reach-v3"),
    (["evaluate", "base", "--task", "reach-v3"], "task", "reach-v3", "metaworld/reach-v3"),
    ([*FINETUNE, "--run-dir", "x", "--preset", "defalt"], "preset of otpr", "defalt", "default"),
    (["quickstart", "--run-dir", "x", "--preset", "defalt"], "preset of otpr", "defalt", "default"),
    ([*FINETUNE, "--run-dir", "x", "--algorithm", "fqll"], "algorithm", "fqll", "fql"),
    ([*FINETUNE, "gama=0.9", "--run-dir", "x"], "field", "gama", "gamma"),
    (["finetune", "--polcy", "base"], "option of `otpr finetune otpr`:", "--polcy", "--policy"),
    (["finetune", "--env-step=5"], "option of `otpr finetune otpr`:", "--env-step", "--env-steps"),
    (["pretrain", "--batchsize", "3"], "option of `otpr pretrain`:", "--batchsize", "--batch-size"),
    (["evaluate", "base", "--episode", "3"], "option of `otpr evaluate`:", "--episode", "--episodes"),
    (["quickstart", "--demo", "3"], "option of `otpr quickstart`:", "--demo", "--demos"),
    (["info", "--jason"], "option of `otpr info`:", "--jason", "--json"),
]


@pytest.mark.parametrize(
    ("arguments", "kind", "given", "nearest"), NEAREST, ids=[f"{case[0][0]} {case[2]}" for case in NEAREST]
)
def test_misspelt_name_is_answered_with_the_nearest_right_one(
    place: Path, arguments: list[str], kind: str, given: str, nearest: str, capsys: pytest.CaptureFixture[str]
):
    line = refusal(arguments, capsys)
    assert line.startswith(f"Unknown {kind} {given!r}. Did you mean {nearest!r}")
    assert "\n" not in line


COLLECT_X = ["collect", TASK, "--out", "x"]
NUMBERS = [
    ([*COLLECT_X, "--episodes", "0"], "episodes must be at least 1, given 0."),
    ([*COLLECT_X, "--noise", "-1"], "noise must be at least 0, given -1.0."),
    ([*COLLECT_X, "--seed", "-1"], "The seed must be in [0, 2**31), given -1."),
    ([*PRETRAIN, "--run-dir", "x", "--width", "-4"], "width must be at least 1, given -4."),
    ([*PRETRAIN, "--run-dir", "x", "--updates", "0"], "updates must be at least 1, given 0."),
    ([*PRETRAIN, "--run-dir", "x", "--seed", "-1"], "The seed must be in [0, 2**31), given -1."),
    ([*FINETUNE, "--run-dir", "x", "--num-envs", "0"], "num_envs must be at least 1, given 0."),
    ([*FINETUNE, "--run-dir", "x", "--env-steps", "-5"], "env_steps must be at least 1, given -5."),
    ([*FINETUNE, "--run-dir", "x", "--seed", f"{2**31}"], f"The seed must be in [0, 2**31), given {2**31}."),
    (["evaluate", "base", "--episodes", "0"], "episodes must be at least 1, given 0."),
    (["evaluate", "base", "--num-envs", "-1"], "num_envs must be at least 1, given -1."),
    (
        ["evaluate", "base", "--execute", "9"],
        "execute (9) must not exceed horizon (8), the actions of a plan.",
    ),
    (["evaluate", "base", "--episode-limit", "0"], "The episode limit must be at least 1, given 0."),
    ([*FINETUNE, "--run-dir", "x", "--episode-limit", "0"], "The episode limit must be at least 1, given 0."),
    (["quickstart", "--episode-limit", "0"], "The episode limit must be at least 1, given 0."),
    (
        [*PRETRAIN, "--run-dir", "x", "--execute", "9"],
        "execute (9) must not exceed horizon (8), the actions of a plan.",
    ),
    ([*PRETRAIN, "--run-dir", "x", "--log", "wandbb"], "Unknown logger 'wandbb'. Did you mean 'wandb'?"),
    (
        ["evaluate", "base", "--sampler-steps", "5"],
        "sampler_steps must lie in 1..4 (the policy's noise levels), given 5.",
    ),
    (
        ["evaluate", "base", "--rule", "central"],
        "--rule central: none of the policies chooses among several plans.",
    ),
    (
        ["evaluate"],
        "There is no policy in runs/pretrain: expected policy.json there or in its folder 'policy'.",
    ),
    (["quickstart", "--run-dir", "x", "--demos", "0"], "demos must be at least 1, given 0."),
    (["quickstart", "--run-dir", "x", "--env-steps", "0"], "env_steps must be at least 1, given 0."),
    (["quickstart", "--run-dir", "x", "--seed", "-3"], "The seed must be in [0, 2**31), given -3."),
]


@pytest.mark.parametrize(
    ("arguments", "message"), NUMBERS, ids=[" ".join([case[0][0], *case[0][-2:]]) for case in NUMBERS]
)
def test_number_out_of_range_is_refused(
    place: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert refusal(arguments, capsys) == message


def test_what_is_no_number_or_missing_is_said_by_name(place: Path, capsys: pytest.CaptureFixture[str]):
    before = files(Path())
    for arguments, name in (
        ([*PRETRAIN, "--run-dir", "x", "--width", "wide"], "--width"),
        (["collect", "--out", "x"], "TASK"),
        ([], "usage: otpr COMMAND"),
    ):
        assert main(arguments) == 2
        assert name in capsys.readouterr().err
    assert files(Path()) == before


def test_what_is_there_already_is_not_touched(place: Path, capsys: pytest.CaptureFixture[str]):
    tuned = Path("tuned").resolve()
    assert refusal([*FINETUNE, "--run-dir", "tuned"], capsys) == (
        f"The run directory {tuned} already exists. Use --resume to go on with its run, --overwrite to "
        "delete it and start anew, or another directory."
    )
    assert "already exists" in refusal([*PRETRAIN, "--run-dir", "base"], capsys)
    assert refusal(["collect", TASK, "--out", "demos"], capsys) == (
        "demos already holds a data set; give another folder, or --overwrite to replace it."
    )
    assert "exclude each other" in refusal(
        [*FINETUNE, "--run-dir", "tuned", "--resume", "--overwrite"], capsys
    )
    # --overwrite is for what the same command made
    assert "holds a run of `pretrain`" in refusal([*FINETUNE, "--run-dir", "base", "--overwrite"], capsys)
    assert "is not a data set" in refusal(["collect", TASK, "--out", "base", "--overwrite"], capsys)


def test_overwriting_starts_anew(place: Path):
    few = [*PRETRAIN, "--run-dir", "again", "--updates", "20"]
    assert main(few) == 0
    Path("again/note.txt").write_text("of the first run")
    assert main([*few, "--overwrite"]) == 0
    assert not Path("again/note.txt").exists()
    assert len(read_rows("again")) == 1


def test_resuming_what_is_not_there_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    assert refusal([*FINETUNE, "--run-dir", "nowhere", "--resume"], capsys) == (
        f"There is no run to resume in {Path('nowhere').resolve()}. Leave out --resume to start one."
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (["--num-envs", "3"], "config.loop.num_envs: given 3, stored 2"),
        (["--seed", "5"], "config.seed: given 5, stored 0"),
        (["--set", *AGENT, "gamma=0.5"], "config.agent.gamma: given 0.5, stored 0.99"),
    ],
)
def test_resuming_with_a_changed_setting_is_refused(
    place: Path, change: list[str], difference: str, capsys: pytest.CaptureFixture[str]
):
    arguments = [*FINETUNE, "--run-dir", "tuned", "--resume", *change]
    message = refusal(arguments, capsys)
    assert "was configured otherwise, so --resume would not continue it" in message
    assert f"\n  {difference}\n" in message


def test_resuming_on_other_demonstrations_under_the_same_name_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    shutil.copytree("demos", tmp_path / "demos")
    try:
        write_dataset(
            demonstrations()[:1], "demos", task_id=TASK, expert="other", noise=0.1, seed=0, overwrite=True
        )
        assert "config.data_sha256: given" in refusal([*FINETUNE, "--run-dir", "tuned", "--resume"], capsys)
    finally:
        shutil.rmtree("demos")
        shutil.copytree(tmp_path / "demos", "demos")


# ---------------------------------------------------------------------------- bad data


def edit(name: str, field: str, change: Any) -> None:
    """A copy of the demonstrations with one array changed inside its file."""
    shutil.copytree("demos", name)
    with h5py.File(f"{name}/data/main_data.hdf5", "r+") as file:
        array = file[f"episode_1/{field}"]
        assert isinstance(array, h5py.Dataset)
        values = change(array[:])
        del file[f"episode_1/{field}"]
        file[f"episode_1/{field}"] = values


def with_nan(values: np.ndarray) -> np.ndarray:
    values[7, 0] = np.nan
    return values


@pytest.mark.parametrize("command", [PRETRAIN, FINETUNE], ids=["pretrain", "finetune"])
def test_bad_data_is_refused_by_file_episode_and_field(
    place: Path, command: list[str], capsys: pytest.CaptureFixture[str]
):
    name = f"bad-{command[0]}"
    arguments = [name if argument == "demos" else argument for argument in command]
    for field, change, message in (
        ("observations", with_nan, "episode 1: observations hold NaN or infinity, first at step 7"),
        ("actions", lambda values: values[:, :3], "episode 1: actions have shape"),
        ("actions", lambda values: 2 * values, "episode 1: actions leave [-1, 1]"),
        ("observations", lambda values: values[:-5], "episode 1: observations have length"),
        ("actions", lambda values: values[:0], "episode 1: actions are empty"),
    ):
        edit(name, field, change)
        line = refusal([*arguments, "--run-dir", "x"], capsys)
        assert message in line
        assert f"{name}/data/main_data.hdf5" in line
        shutil.rmtree(name)


def test_truncated_data_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    shutil.copytree("demos", "cut")
    file = Path("cut/data/main_data.hdf5")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    arguments = ["cut" if argument == "demos" else argument for argument in PRETRAIN]
    assert "cut/data" in refusal([*arguments, "--run-dir", "x"], capsys)


def test_missing_data_and_missing_policy_are_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    nowhere = ["nowhere" if argument == "demos" else argument for argument in PRETRAIN]
    assert refusal([*nowhere, "--run-dir", "x"], capsys).startswith("No data set at nowhere")
    no_policy = ["nowhere" if argument == "base" else argument for argument in FINETUNE]
    assert refusal([*no_policy, "--run-dir", "x"], capsys).startswith("There is no policy in nowhere")
    assert refusal(["evaluate", "base", "nowhere"], capsys).startswith("There is no policy in nowhere")


def test_policy_of_other_dimensions_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    import tiny

    tiny.policy(observation_dim=20, action_dim=4).save("other", task=TASK)
    finetune = ["other" if argument == "base" else argument for argument in FINETUNE]
    for command in ([*finetune, "--run-dir", "x"], ["evaluate", "other"]):
        assert refusal(command, capsys) == (
            f"The policy in other and the task {TASK} do not fit together (in this order):\n"
            "  observation 'state': vector (20,) float32 against vector (39,) float32\n"
            "Give the policy's own task with --task, or another policy."
        )


def test_data_of_another_task_is_refused(place: Path, capsys: pytest.CaptureFixture[str]):
    write_dataset(demonstrations(), "reach", task_id="metaworld/reach-v3", expert="e", noise=0.1, seed=0)
    arguments = ["reach" if argument == "demos" else argument for argument in FINETUNE]
    assert refusal([*arguments, "--run-dir", "x"], capsys) == (
        f"The data set reach and the task {TASK} do not fit together (in this order):\n"
        f"  task: metaworld/reach-v3 against {TASK}\n    Give the right task with --task.\n"
        "To use it all the same, as if there were no difference (docs/data-agreement.md): --accept task"
    )


# ---------------------------------------------------------------------------- Ctrl-C


def start(
    arguments: list[str], script: str = "from otpr.cli.main import entry; entry()"
) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_rows(run: Path, n: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    metrics = run / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= n):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.long
def test_ctrl_c_saves_and_says_how_to_go_on(place: Path):
    """In a process of its own, by a real signal."""
    long = [*PRETRAIN, "--updates", "60000", "--run-dir", "long"]
    process = start(long)
    wait_for_rows(Path("long"), 2, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    assert "Stopping: saving first" in out
    done = checkpoints.latest("long/checkpoints")
    assert done is not None
    assert f"pretraining stopped at {done:,} updates. Go on with:\n" in out
    assert out.rstrip().split("\n")[-1].strip().endswith(" ".join([*long, "--resume"]))
    assert [row["updates"] for row in read_rows("long")] == list(range(250, done + 1, 250))


@pytest.mark.slow
def test_second_ctrl_c_stops_at_once(place: Path):
    """While it saves, which takes a minute here."""
    script = """if True:
        import sys, time
        from otpr.training import checkpoints

        def save(*_):
            print("saving", flush=True)
            time.sleep(60)

        checkpoints.save = save
        from otpr.cli.main import main
        sys.exit(main())
    """
    process = start([*PRETRAIN, "--updates", "60000", "--run-dir", "twice"], script)
    wait_for_rows(Path("twice"), 1, process)
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while process.stdout.readline() != "saving\n":
        assert process.poll() is None
    signalled = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - signalled < 30
    assert (process.returncode, err) == (-signal.SIGINT, "")


@pytest.mark.slow
def test_fine_tuning_stopped_by_a_real_signal_and_resumed_in_another_process_is_the_uninterrupted_run(
    place: Path,
):
    arguments = [*FINETUNE, "--run-dir", "real"]
    process = start(arguments)
    wait_for_rows(Path("real"), 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (0, "")
    assert 3 <= len(read_rows("real")) < len(read_rows("tuned"))
    process = start([*arguments, "--resume"])
    _, err = process.communicate(timeout=400)
    assert (process.returncode, err) == (0, "")
    assert [timeless(row) for row in read_rows("real")] == [timeless(row) for row in read_rows("tuned")]
    assert_same_arrays(weights(Path("real/policy")), weights(Path("tuned/policy")))
    assert_same_arrays(checkpoint_files("real"), checkpoint_files("tuned"))
