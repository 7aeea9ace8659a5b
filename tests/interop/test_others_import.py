"""Policies of diffusion_policy and DPPO: the same actions from the same noise, and what is refused.

The fixtures are files and actions of the two projects' own code (`others_theirs.py`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decisions import WIDE
from others_cases import DIFFUSION_POLICY, DPPO, FIXTURES, Case
from others_ours import actions, content_of, converted, imported
from torch_zip import save

from otpr.cli.main import main
from otpr.errors import OtprError
from otpr.npz import read_npz
from otpr.policies.convert.dppo_files import Files
from otpr.policies.convert.formats import import_policy
from otpr.policies.convert.torch_file import read_torch
from otpr.policies.encoder import VectorEncoder
from otpr.policies.loading import load_policy, policy_meaning

BY_NAME = {case.name: case for case in (*DIFFUSION_POLICY, *DPPO)}
SLOW = {"hybrid": pytest.mark.slow}


def theirs(case: Case) -> np.ndarray:
    return read_npz(FIXTURES / case.name / "expected.npz")["actions"]


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in BY_NAME])
def test_actions_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    policy = imported(case, tmp_path).policy
    expected = theirs(case)
    assert np.abs(expected).max() < 19 and expected.std() > 0.1
    np.testing.assert_allclose(actions(policy, case), expected, atol=1e-4)
    assert (policy.spec.history, policy.spec.horizon, policy.spec.execute) == (
        case.history,
        case.horizon,
        case.execute,
    )

    # stored and read, it is the same
    policy.save(tmp_path / "policy", task="")
    np.testing.assert_array_equal(actions(load_policy(tmp_path / "policy"), case), actions(policy, case))


def test_the_file_that_the_script_wrote_is_the_one_of_the_formulas() -> None:
    found, expected = read_torch(FIXTURES / "low-dim" / "policy.pt"), content_of(BY_NAME["low-dim"])
    assert json.loads(found["settings"]) == json.loads(expected["settings"])
    assert found["weights"].keys() == expected["weights"].keys()
    for name, array in expected["weights"].items():
        np.testing.assert_array_equal(found["weights"][name], array)


def test_what_is_executed_begins_where_they_say(tmp_path: Path) -> None:
    low_dim = [case for case in DIFFUSION_POLICY if not case.images]
    offsets = {case.name: imported(case, tmp_path / case.name).policy.spec.offset for case in low_dim}
    assert offsets == {"low-dim": 1, "low-dim-ddim": 0, "low-dim-late": 2}


@pytest.mark.long
def test_what_a_hybrid_policy_sees_is_named(tmp_path: Path) -> None:
    found = imported(BY_NAME["hybrid"], tmp_path)
    assert dict(found.parts) == {"robot0_eef_pos": 3, "robot0_gripper_qpos": 2}
    assert list(found.policy.spec.observation) == ["agentview", "state", "wrist"]


# ------------------------------------------------------------------------------------- bad: diffusion_policy

UNSEEN: Any = object()


def with_settings(*path: str, to: Any = UNSEEN) -> Callable[[dict[str, Any]], None]:
    """One setting of the policy changed, or left out."""

    def change(content: dict[str, Any]) -> None:
        settings = json.loads(content["settings"])
        inner = settings
        for name in path[:-1]:
            inner = inner[name]
        if to is UNSEEN:
            del inner[path[-1]]
        else:
            inner[path[-1]] = to
        content["settings"] = json.dumps(settings)

    return change


def with_weight(name: str, array: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        if array is None:
            del content["weights"][name]
        else:
            content["weights"][name] = array

    return change


FINAL, SCALE = "model.final_conv.1.bias", "normalizer.params_dict.obs.scale"
TRANSFORMER = "diffusion_policy.policy.diffusion_transformer_lowdim_policy.DiffusionTransformerLowdimPolicy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_settings("policy", "_target_", to=TRANSFORMER), r"policy\._target_ is .*Transformer"),
        (with_settings("policy", "obs_as_global_cond", to=False), "obs_as_global_cond is false"),
        (
            with_settings("policy", "obs_as_local_cond", to=True),
            "conditioned by inpainting, or locally",
        ),
        (with_settings("policy", "eta", to=0.5), r"policy\.eta is '0\.5', which is not supported"),
        (with_settings("n_latency_steps", to=2), r"n_latency_steps is '2'; 0 is supported"),
        (with_settings("policy", "horizon"), r"policy\.horizon is missing"),
        (with_settings("policy", "horizon", to=7), "the horizon must be a multiple of 2, given 7"),
        (with_settings("policy", "n_action_steps", to=8), r"execute \(8\) must not exceed horizon"),
        (with_settings("policy", "num_inference_steps", to=11), "num_inference_steps is 11"),
        (
            with_settings("policy", "action_dim", to=3),
            r"action\.input_stats\.min has the shape \(2,\)",
        ),
        (with_settings("policy", "model", "down_dims", to=[8]), r"down_modules\.0\.2\.bias is not expected"),
        (
            with_settings("policy", "model", "local_cond_dim", to=5),
            "local_cond_dim is '5'; None is",
        ),
        (with_settings("policy", "model", "wide", to=True), r"policy\.model\.wide is 'True', which is not"),
        (with_settings("policy", "model", to=3), r"policy\.model is '3', expected an object"),
        (
            with_settings("policy", "noise_scheduler", "variance_type", to="learned"),
            r"noise_scheduler\.variance_type is 'learned'; 'fixed_small' is supported",
        ),
        (
            with_settings("policy", "noise_scheduler", "thresholding", to=True),
            r"noise_scheduler\.thresholding is 'True', which is not supported",
        ),
        (
            with_settings("policy", "noise_scheduler", "prediction_type", to="v_prediction"),
            r"prediction_type is 'v_prediction'; one of 'epsilon', 'sample'",
        ),
        (
            with_settings("policy", "noise_scheduler", "_target_", to="diffusers.EDMEulerScheduler"),
            r"noise_scheduler\._target_ is 'diffusers\.EDM",
        ),
        (with_weight(FINAL, None), r"final_conv\.1\.bias is missing"),
        (with_weight(FINAL, np.zeros(3, np.float32)), r"final_conv\.1\.bias have the shape \(3,\)"),
        (with_weight(FINAL, np.full(2, np.nan, np.float32)), r"final_conv\.1\.bias is not finite"),
        (with_weight("head.weight", np.zeros(2, np.float32)), r"'head\.weight', which is not expected"),
        (with_weight(SCALE, None), r"obs\.scale is missing, and the policy is not whole without its normal"),
        (with_weight(SCALE, np.zeros(5, np.float32)), r"obs\.scale has numbers that are not above 0"),
        (with_weight(SCALE, np.ones(4, np.float32)), r"obs\.scale has the shape \(4,\), expected \(5,\)"),
        (lambda content: content.update(settings="{"), "settings is no JSON"),
        (lambda content: content.update(weights=3), "weights is no dictionary"),
        (lambda content: content.update(format="otpr/diffusion-policy/9"), "no policy that is known here"),
    ],
)
def test_what_is_not_supported_in_a_policy_of_diffusion_policy_is_named(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    content = content_of(BY_NAME["low-dim"])
    change(content)
    with pytest.raises(OtprError, match=message):
        import_policy(save(content, tmp_path / "policy.pt"), bounds=WIDE)


HYBRID = ("policy", "shape_meta", "obs")


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_settings("policy", "eval_fixed_crop", to=False), "eval_fixed_crop is false"),
        (
            with_settings("policy", "crop_shape", to=[48, 48]),
            r"wrist_image: crop_shape is \(48, 48\)",
        ),
        (with_settings(*HYBRID, "wrist_image", "type", to="depth"), "wrist_image.type is 'depth'"),
        (
            with_settings(*HYBRID, "wrist_image", "shape", to=[3]),
            r"wrist_image\.shape is \(3,\); of type",
        ),
        (
            with_settings(*HYBRID, "wrist", to={"shape": [3, 40, 36], "type": "rgb"}),
            "do not have names of",
        ),
        (
            with_weight("obs_encoder.obs_nets.wrist_image.pool.temperature", np.full(1, 2, np.float32)),
            "pool.temperature of wrist_image is",
        ),
        (
            with_weight("obs_encoder.obs_nets.wrist_image.nets.3.bias", None),
            r"obs_nets\.wrist_image: .* out\.bias is missing",
        ),
    ],
)
def test_what_is_not_supported_in_a_hybrid_policy_is_named(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    content = content_of(BY_NAME["hybrid"])
    change(content)
    with pytest.raises(OtprError, match=message):
        import_policy(save(content, tmp_path / "policy.pt"), bounds=WIDE)


def test_a_checkpoint_is_refused_with_what_converts_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for format in ("auto", "diffusion-policy"):
        arguments = ["policy", "import", str(FIXTURES / "latest.ckpt"), "--out", str(tmp_path / "ours")]
        assert main([*arguments, "--format", format]) == 2
        told = capsys.readouterr().err
        assert "uses omegaconf.dictconfig.DictConfig, which could run code" in told
        assert "diffusion_policy_to_otpr.py CHECKPOINT.ckpt policy.pt" in " ".join(told.split())
        assert not (tmp_path / "ours").exists()


# ------------------------------------------------------------------------------------------------- bad: DPPO


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of DPPO's pre-training, with the policy "residual"."""
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    given = FIXTURES / "residual"
    shutil.copy(given / "state_3.pt", folder / "checkpoint")
    shutil.copy(given / "normalization.npz", folder / "checkpoint")
    shutil.copy(given / "config.yaml", folder / ".hydra")
    return folder


def of_run(run: Path, **files: Any) -> Any:
    return import_policy(run / "checkpoint" / "state_3.pt", bounds=WIDE, files=Files(**files))


def test_a_run_has_its_configuration_beside_it(run: Path) -> None:
    case = BY_NAME["residual"]
    found = of_run(run)
    np.testing.assert_allclose(actions(found.policy, case), theirs(case), atol=1e-4)
    assert found.notes == ("The weights are those of the moving average (ema).",)
    assert isinstance(found.policy.encoder, VectorEncoder)
    assert of_run(run, execute=2).policy.spec.execute == 2
    other = of_run(run, weights="model")
    assert other.notes == ("The weights are those of the last step (model).",)
    assert np.abs(actions(other.policy, case) - theirs(case)).max() > 0.01


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """A part of the configuration's text replaced."""

    def change(run: Path) -> None:
        file = run / ".hydra" / "config.yaml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def with_arrays(**arrays: Any) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = run / "checkpoint" / "normalization.npz"
        kept = {**read_npz(file), **arrays}
        np.savez(file, **{name: x for name, x in kept.items() if x is not None})

    return change


def with_content(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def changed(run: Path) -> None:
        file = run / "checkpoint" / "state_3.pt"
        content = read_torch(file)
        change(content)
        save(content, file)

    return changed


def without(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def truncated(run: Path) -> None:
    file = run / "checkpoint" / "state_3.pt"
    file.write_bytes(file.read_bytes()[:-100])


BIAS = "network.mlp_mean.layers.0.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replaced("act_steps: 3\n", ""), r"act_steps is missing, .* Give --execute N"),
        (replaced("act_steps: 3", "act_steps: 5"), r"act_steps: execute \(5\) must not exceed horizon \(4\)"),
        (replaced("obs_dim: 3", "obs_dim: three"), "obs_dim is 'three'; a whole number"),
        (replaced("obs_dim: 3", "obs_dim: 4"), r"obs_min has the shape \(3,\), .* expected \(4,\)"),
        (
            replaced("${obs_dim} * ${cond_steps}", "${obs_dim} + ${cond_steps}"),
            "cond_dim is .*eval",
        ),
        (replaced("${obs_dim} * ${cond_steps}", 'open("executed", "w")'), "cond_dim is"),
        (replaced("${horizon_steps}\n  obs_dim", "${steps}\n  obs_dim"), "horizon_steps refers to 'steps'"),
        (replaced("denoising_steps: 20", "denoising_steps: ${denoising_steps}"), "refers to itself"),
        (
            replaced("denoising_steps: 20", "denoising_steps: 30000"),
            "is 30000: DPPO raises the noise",
        ),
        (
            replaced("ft_denoising_steps: 0", "ft_denoising_steps: 10"),
            "ft_denoising_steps is '10'; 0 is",
        ),
        (replaced("diffusion_eval_ft.DiffusionEval", "diffusion_ppo.PPODiffusion"), r"model\._target_ is"),
        (
            replaced("DiffusionMLP", "VisionDiffusionMLP"),
            r"network\._target_ is '.*Vision",
        ),
        (
            replaced("time_dim: 8", "time_dim: 8\n    dropout: 0.1"),
            r"network\.dropout is '0\.1', which",
        ),
        (replaced("time_dim: 8", "time_dim: 8\n    activation_type: GELU"), "activation_type is 'GELU'"),
        (
            replaced("predict_epsilon: true", "predict_epsilon: true\n  eta: 1"),
            r"model\.eta is '1', which",
        ),
        (
            replaced("- 16\n    cond_mlp", "cond_mlp"),
            "widths of a residual network are equal, and an odd number",
        ),
        (
            replaced("time_dim: 8", "time_dim: 6"),
            r"1\.weight have the shape \(16, 8\), expected",
        ),
        (
            replaced("denoised_clip_value: 1.0", "denoised_clip_value: 1.0\n  final_action_clip_value: 0.5"),
            "below",
        ),
        (replaced("_target_: agent", "_target_: [agent"), r"config\.yaml is damaged"),
        (
            replaced("_target_: agent", "_target_: !!python/object/apply:os.system [x] #"),
            r"config\.yaml is damag",
        ),
        (without(".hydra/config.yaml"), "there is no configuration at .* --config FILE"),
        (without("checkpoint/normalization.npz"), "not whole without its normalisation, normalization.npz"),
        (with_arrays(obs_max=None), "obs_max is missing"),
        (with_arrays(action_min=np.full(2, np.nan)), "action_min has the shape .* or is not finite"),
        (with_arrays(action_min=np.full(2, 9.0)), "action_min is above action_max"),
        (truncated, r"state_3\.pt is damaged"),
        (with_content(lambda c: c["ema"].pop(BIAS)), r"mlp_mean\.layers\.0\.bias is missing"),
        (with_content(lambda c: c["ema"].update({BIAS: np.zeros(3, np.float32)})), r"have the shape \(3,\)"),
        (with_content(lambda c: c["ema"].update({BIAS: np.full(16, np.inf, np.float32)})), "is not finite"),
        (
            with_content(lambda c: c["ema"].update({"critic.bias": np.zeros(3, np.float32)})),
            "'critic.bias'",
        ),
        (
            with_content(lambda c: c["ema"].update({"actor_ft.x": np.zeros(3, np.float32)})),
            "two networks",
        ),
        (with_content(lambda c: c.update(model=3)), "no policy that is known here"),
    ],
)
def test_what_is_not_supported_in_a_policy_of_dppo_is_named(
    change: Callable[[Path], None], message: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    change(run)
    with pytest.raises(OtprError, match=message):
        of_run(run)
    assert not (run / "executed").exists()


def test_the_weights_asked_for_must_be_there(tmp_path: Path) -> None:
    given = FIXTURES / "u-net"
    files = Files(config=given / "config.yaml", weights="ema")
    with pytest.raises(OtprError, match="has no weights 'ema'; it has epoch, model"):
        import_policy(given / "state_3.pt", bounds=WIDE, files=files)


# --------------------------------------------------------------------------------------------------- commands


def command(*arguments: object) -> int:
    return main([str(argument) for argument in ("policy", "import", *arguments)])


BOUNDS = ("--action-low", "-20", "--action-high", "20")


def test_the_command_writes_a_policy(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        command(run / "checkpoint" / "state_3.pt", "--out", tmp_path / "dppo", *BOUNDS, "--execute", 2) == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "- The weights are those of the moving average (ema).",
        "observation   state: vector (3,) float64",
        "action        2 dimensions, bounds [-20, 20]",
        "control rate  unknown",
        "history       2",
        "horizon       4",
        "execute       2",
        f"Policy: {tmp_path / 'dppo'}",
    ]
    file = converted(BY_NAME["low-dim"], tmp_path)
    assert command(file, "--out", tmp_path / "theirs", *BOUNDS) == 0
    case = BY_NAME["low-dim"]
    np.testing.assert_allclose(actions(load_policy(tmp_path / "theirs"), case), theirs(case), atol=1e-4)
    assert policy_meaning(tmp_path / "theirs")["parts"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--execute", 2], "--weights and --execute are for DPPO's policies"),
        (["--format", "lerobot"], "is no folder, as a policy of LeRobot is"),
        (["--format", "dppo"], "holds no weights of DPPO, which are named 'model'"),
        ([], r"its actions leave \[-1, 1\]: from"),
        (["--task", "tests.envs.user_envs:make_reach"], "observation 'state': vector (5,) float32"),
    ],
)
def test_commands_that_do_not_fit_leave_nothing(
    arguments: list[Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = converted(BY_NAME["low-dim"], tmp_path)
    bounds = BOUNDS if arguments and "--task" not in arguments else ()
    assert command(file, "--out", tmp_path / "ours", *bounds, *arguments) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert message.replace("\\", "") in told
    assert not (tmp_path / "ours").exists()


def test_what_is_no_policy_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    save({"loss": 3.0}, tmp_path / "other.pt")
    for name, message in (
        ("", "holds no config.json, as a policy of LeRobot does"),
        ("notes.txt", "is no policy that is known here"),
        ("missing.pt", "is no policy that is known here"),
        ("other.pt", "is a file of PyTorch, and no policy that is known here"),
    ):
        assert command(tmp_path / name, "--out", tmp_path / "ours") == 2
        assert message in " ".join(capsys.readouterr().err.split())
