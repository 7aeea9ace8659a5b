"""Policies of LeRobot: the same actions from the same noise, as they come in and as they go back.

The fixtures are files and actions of LeRobot 0.4.4 (`theirs.py`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from decisions import WIDE
from lerobot_cases import CASES, FIXTURES, Case
from lerobot_ours import actions, folder_with_weights

import tiny
from otpr.errors import OtprError
from otpr.networks.unet import UNet
from otpr.policies.convert.exported import write_files
from otpr.policies.convert.lerobot import import_lerobot
from otpr.policies.convert.lerobot_export import export_lerobot
from otpr.policies.encoder import VectorEncoder
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.trees import read_arrays, to_bytes

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a case; none may change it."""
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = folder_with_weights(BY_NAME[name], tmp_path_factory.mktemp(name) / "policy")
        return made[name]

    return of


def theirs(case: Case) -> np.ndarray:
    return read_arrays(FIXTURES / case.name / "expected.safetensors")["actions"]


SLOW = {"cameras": pytest.mark.slow}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in BY_NAME])
def test_actions_are_those_of_lerobot_coming_in_and_going_back(
    name: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    case = BY_NAME[name]
    imported = import_lerobot(folder(name), WIDE)
    policy = imported.policy
    expected = theirs(case)
    assert np.abs(expected).max() < 19 and expected.std() > 0.1
    np.testing.assert_allclose(actions(policy, case), expected, atol=1e-4)
    assert (policy.spec.history, policy.spec.offset) == (
        case.config["n_obs_steps"],
        case.config["n_obs_steps"] - 1,
    )
    assert dict(imported.parts) == case.vectors

    # stored and read, it is the same
    policy.save(tmp_path / "policy", task="toy/task")
    np.testing.assert_array_equal(actions(load_policy(tmp_path / "policy"), case), actions(policy, case))

    # what is exported is what was imported
    length = case.vectors["observation.state"]
    keys = tuple(sorted(case.images, key=lambda key: key.split(".")[-1]))
    exported = export_lerobot(policy, state_length=length, image_keys=keys)
    assert exported.notes == []
    write_files(exported, tmp_path / "back")
    again = import_lerobot(tmp_path / "back", WIDE).policy
    np.testing.assert_allclose(actions(again, case), expected, atol=1e-4)
    assert again.spec == policy.spec


def test_exported_weights_and_settings_are_those_of_lerobots_file(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    exported = export_lerobot(import_lerobot(folder("ddpm"), WIDE).policy, state_length=3)
    (tmp_path / "model.safetensors").write_bytes(exported.files["model.safetensors"])
    ours = read_arrays(tmp_path / "model.safetensors")
    theirs = read_arrays(FIXTURES / "ddpm" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)
    config, given = (
        json.loads(text)
        for text in (exported.files["config.json"], (FIXTURES / "ddpm" / "config.json").read_text())
    )
    for name, value in config.items():
        if name not in ("normalization_mapping", "device"):
            assert given[name] == value, name
    for side in ("pre", "post"):
        ours_steps, their_steps = (
            [(step["registry_name"], step.get("state_file")) for step in json.loads(text)["steps"]]
            for text in (
                exported.files[f"policy_{side}processor.json"],
                (FIXTURES / "ddpm" / f"policy_{side}processor.json").read_text(),
            )
        )
        assert ours_steps == their_steps


def test_bounds_that_are_those_of_the_statistics_leave_the_plans_as_they_are(
    folder: Callable[[str], Path],
) -> None:
    case = BY_NAME["ddpm"]
    statistics = case.statistics()["action"]
    bounds = tuple(tuple(statistics[end].astype(float).tolist()) for end in ("min", "max"))
    policy = import_lerobot(folder("ddpm"), bounds).policy  # pyright: ignore[reportArgumentType]
    assert policy.diffusion.low is None
    np.testing.assert_allclose(actions(policy, case), theirs(case), atol=1e-4)


# ---------------------------------------------------------------------------------------------- older layouts


def rewritten(folder: Path, out: Path, **changes: Any) -> Path:
    """A copy of a policy's folder with other files: a document, arrays, or None for none."""
    out.mkdir()
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "weights.json"}
    for name, content in changes.items():
        files[name] = content
    for name, content in files.items():
        if content is not None:
            (out / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return out


def with_statistics_among_the_weights(case: Case, folder: Path) -> bytes:
    weights = read_arrays(folder / "model.safetensors")
    for name, of in case.statistics().items():
        groups = ("unnormalize_outputs", "normalize_targets") if name == "action" else ("normalize_inputs",)
        kinds = {"action": "ACTION", "observation.state": "STATE"}
        mode = case.modes.get(kinds.get(name, "ENV"))
        kept = {"MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std"), None: ()}[mode]
        weights |= {f"{g}.buffer_{name.replace('.', '_')}.{key}": of[key] for g in groups for key in kept}
    return to_bytes(weights)


NO_PROCESSORS: dict[str, None] = {
    "policy_preprocessor.json": None,
    "policy_postprocessor.json": None,
}


def test_layouts_with_statistics_among_the_weights(folder: Callable[[str], Path], tmp_path: Path) -> None:
    case, given = BY_NAME["ddpm"], folder("ddpm")
    weights = with_statistics_among_the_weights(case, given)
    second = rewritten(given, tmp_path / "second", **{**NO_PROCESSORS, "model.safetensors": weights})
    np.testing.assert_allclose(actions(import_lerobot(second, WIDE).policy, case), theirs(case), atol=1e-4)

    config = json.loads((given / "config.json").read_text())
    for name in ("type", "input_features", "output_features", "normalization_mapping"):
        del config[name]
    config["input_shapes"] = {name: [size] for name, size in case.vectors.items()}
    config["input_normalization_modes"] = {"observation.state": "min_max"}
    config["output_shapes"] = {"action": [2]}
    config["output_normalization_modes"] = {"action": "min_max"}
    changes = {**NO_PROCESSORS, "model.safetensors": weights, "config.json": config}
    first = rewritten(given, tmp_path / "first", **changes)
    np.testing.assert_allclose(actions(import_lerobot(first, WIDE).policy, case), theirs(case), atol=1e-4)


# ------------------------------------------------------------------------------------------------- bad files


def config_with(**changes: Any) -> Callable[[Path], dict[str, Any]]:
    def change(folder: Path) -> dict[str, Any]:
        config = json.loads((folder / "config.json").read_text())
        config |= changes
        return {"config.json": {name: value for name, value in config.items() if value != "left out"}}

    return change


def weights_with(**changes: Any) -> Callable[[Path], dict[str, Any]]:
    def change(folder: Path) -> dict[str, Any]:
        arrays = read_arrays(folder / "model.safetensors") | changes
        kept = {name: x for name, x in arrays.items() if x is not None}
        return {"model.safetensors": to_bytes(kept)}

    return change


def processor_with(step: int, **changes: Any) -> Callable[[Path], dict[str, Any]]:
    def change(folder: Path) -> dict[str, Any]:
        document = json.loads((folder / "policy_preprocessor.json").read_text())
        document["steps"][step]["config"] |= changes
        return {"policy_preprocessor.json": document}

    return change


def another_step(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "policy_preprocessor.json").read_text())
    document["steps"].insert(0, {"registry_name": "delta_action_processor", "config": {}})
    return {"policy_preprocessor.json": document}


def a_state_file_elsewhere(folder: Path) -> dict[str, Any]:
    document = json.loads((folder / "policy_preprocessor.json").read_text())
    document["steps"][3]["state_file"] = "../weights.safetensors"
    return {"policy_preprocessor.json": document}


STATE_FILE = "policy_preprocessor_step_3_normalizer_processor.safetensors"


def without_a_statistic(folder: Path) -> dict[str, Any]:
    arrays = read_arrays(folder / STATE_FILE)
    del arrays["observation.state.max"]
    return {STATE_FILE: to_bytes(arrays)}


def truncated(folder: Path) -> dict[str, Any]:
    return {"model.safetensors": (folder / "model.safetensors").read_bytes()[:-100]}


FINAL = "diffusion.unet.final_conv.1.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config_with(type="act"), r"config\.json: type is 'act'"),
        (config_with(future_setting=1), "config.json: has the entry 'future_setting', which is not known"),
        (config_with(use_peft=True), "use_peft is true"),
        (config_with(horizon="left out"), "has no entry 'horizon'"),
        (config_with(horizon=0), "horizon is 0; a whole number of at least 1 is supported"),
        (config_with(n_action_steps=8), r"n_action_steps: execute \(8\) must not exceed horizon \(8\) less"),
        (config_with(horizon=7), r"the horizon must be a multiple of 2, given 7"),
        (config_with(vision_backbone="resnet34"), "vision_backbone is 'resnet34'; one of 'resnet18'"),
        (config_with(use_group_norm="no"), "use_group_norm is 'no'; true or false"),
        (config_with(resize_shape=[32, 32]), "resize_shape is .*32, 32"),
        (config_with(noise_scheduler_type="EDM"), "noise_scheduler_type is 'EDM'"),
        (config_with(beta_schedule="exp"), "beta_schedule is 'exp'"),
        (config_with(prediction_type="v_prediction"), "prediction_type is 'v_prediction'"),
        (config_with(num_inference_steps=11), "num_inference_steps is 11"),
        (config_with(n_groups=3), r"multiple of groups \(3\)"),
        (
            config_with(down_dims=[8, 16, 32]),
            r"such a U-Net: down_modules\.1\.2\.bias is missing",
        ),
        (config_with(normalization_mapping="left out"), "has no normalization_mapping"),
        (config_with(output_features={}), "has no output_features"),
        (truncated, r"model\.safetensors is damaged"),
        (weights_with(**{FINAL: None}), r"final_conv\.1\.bias is missing"),
        (weights_with(**{FINAL: np.zeros(3, np.float32)}), r"final_conv\.1\.bias have the shape \(3,\)"),
        (weights_with(**{FINAL: np.full(2, np.nan, np.float32)}), r"final_conv\.1\.bias is not finite"),
        (
            weights_with(**{"model.extra": np.zeros(3, np.float32)}),
            "has 'model.extra', which is not expected",
        ),
        (
            weights_with(**{"normalize_inputs.buffer_observation_state.min": np.zeros(3, np.float32)}),
            "statistics in policy_preprocessor.json and among the weights",
        ),
        (lambda _: NO_PROCESSORS, r"buffer_observation_state\.min is missing"),
        (lambda _: {"policy_postprocessor.json": None}, "has policy_preprocessor.json, but no policy_post"),
        (lambda _: {STATE_FILE: None}, f"{STATE_FILE} is damaged"),
        (without_a_statistic, r"observation\.state\.max is missing: .*MIN_MAX"),
        (processor_with(0, rename_map={"a": "b"}), "renames {'a': 'b'}"),
        (processor_with(2, float_dtype="float16"), "float_dtype is 'float16'"),
        (processor_with(3, norm_map={"STATE": "QUANTILES"}), r"norm_map\.STATE is 'QUANTILES'"),
        (processor_with(3, eps=1e-3), "eps is 0.001"),
        (processor_with(3, normalize_observation_keys=["a"]), "normalize_observation_keys is not supported"),
        (
            a_state_file_elsewhere,
            "state_file is '../weights.safetensors', which is no name of",
        ),
        (config_with(down_dims=[8, 10**6]), r"have the shape \(16, 8, 3\), expected \(1000000, 8, 3\)"),
        (another_step, "step 0, 'delta_action_processor' is not supported"),
        (lambda _: {"config.json": b"[1]"}, r"config\.json is damaged \(it is no object"),
        (lambda _: {"config.json": b"{"}, r"config\.json is damaged"),
        (lambda _: {"config.json": None}, "is no policy of LeRobot: it has no config.json"),
    ],
)
def test_what_is_not_supported_is_named(
    change: Callable[[Path], dict[str, Any]], message: str, folder: Callable[[str], Path], tmp_path: Path
) -> None:
    given = folder("ddpm")
    with pytest.raises(OtprError, match=message):
        import_lerobot(rewritten(given, tmp_path / "changed", **change(given)), WIDE)


def test_a_checkpoint_of_lerobots_training_is_its_policy(
    folder: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "pretrained_model").symlink_to(folder("ddpm"))
    found = import_lerobot(tmp_path / "last", WIDE)
    assert found.policy.spec == import_lerobot(folder("ddpm"), WIDE).policy.spec


def test_actions_beyond_the_unit_need_bounds(folder: Callable[[str], Path]) -> None:
    with pytest.raises(OtprError, match=r"actions leave \[-1, 1\]: from .* --action-low"):
        import_lerobot(folder("ddpm"))
    with pytest.raises(OtprError, match="have 2 dimensions, and the bounds given 3 and 3"):
        import_lerobot(folder("ddpm"), ((-1.0,) * 3, (1.0,) * 3))


# ------------------------------------------------------------------------------------ what cannot be exported


def changed(policy: Policy, **fields: Any) -> Policy:
    return policy.with_generator(dataclasses.replace(policy.diffusion, **fields))


def of_dppo(policy: Policy) -> UNet:
    network = policy.diffusion.network
    sizes = {name: x for name, x in network.about().items() if name != "kind"} | {"deep_condition": True}
    return UNet(policy.state_dim, network.plan_shape, **sizes, key=jax.random.key(0))


def planned(policy: Policy, **plan: int) -> Policy:
    return dataclasses.replace(policy, spec=dataclasses.replace(policy.spec, **plan))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: changed(p, sampler="dpm++"), r"sampled by 'dpm\+\+'; LeRobot has ddpm and ddim"),
        (lambda p: changed(p, prediction="velocity"), "predicts the velocity; LeRobot's the noise or"),
        (lambda p: changed(p, sampler_steps=5, spacing="linspace"), "visits 5 of 10 noise levels"),
        (lambda p: changed(p, sampler="ddim", clipped_noise=True), "goes on from clipped plans"),
        (lambda p: changed(p, noise_limit=3.0), "policy's noise is clipped to 3"),
        (lambda p: changed(p, network=of_dppo(p)), "The policy's U-Net is DPPO's"),
        (lambda p: planned(p, offset=0), r"begin 0 steps before .* --history 2 --offset 1"),
        (lambda _: tiny.policy(), "network is of kind 'mlp', and LeRobot's is a U-Net"),
    ],
)
def test_policies_that_lerobot_cannot_have_are_refused(
    change: Callable[[Policy], Policy], message: str, folder: Callable[[str], Path]
) -> None:
    with pytest.raises(OtprError, match=message):
        export_lerobot(change(import_lerobot(folder("ddpm"), WIDE).policy), state_length=3)


def test_what_is_left_to_say_is_asked_for(folder: Callable[[str], Path]) -> None:
    vectors, images = (import_lerobot(folder(name), WIDE).policy for name in ("ddpm", "images"))
    with pytest.raises(OtprError, match=r"needs observation.environment_state .* --state-length N"):
        export_lerobot(vectors)
    with pytest.raises(OtprError, match=r"--state-length must lie in 1\.\.5, .* given 6"):
        export_lerobot(vectors, state_length=6)
    with pytest.raises(OtprError, match=r"LeRobot's names of top, in this order, are expected"):
        export_lerobot(images, image_keys=("observation.images.wrist",))


def test_what_is_lost_is_said(folder: Callable[[str], Path]) -> None:
    policy = import_lerobot(folder("ddpm"), WIDE).policy
    choosing = policy.choosing(tiny.chooser(policy.state_dim, policy.spec.chunk_dim), 8)
    encoder = policy.encoder
    assert isinstance(encoder, VectorEncoder)
    limited = VectorEncoder({"state": dataclasses.replace(encoder.normalizers["state"], limit=10.0)})
    notes = export_lerobot(dataclasses.replace(choosing, encoder=limited), state_length=3).notes
    assert "otpr clips numbers of 'state' that are 10 deviations away" in notes[0]
    assert "chooses among 8 plans, which needs otpr" in notes[1]


def test_nothing_is_written_over(folder: Callable[[str], Path], tmp_path: Path) -> None:
    exported = export_lerobot(import_lerobot(folder("ddpm"), WIDE).policy, state_length=3)
    with pytest.raises(OtprError, match="exists; give the name of a new folder with --out"):
        write_files(exported, tmp_path)
