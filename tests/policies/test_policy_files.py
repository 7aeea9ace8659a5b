"""Policies on disk: damage and forgery are named, and the files of every format load."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from test_policy import OBSERVATIONS, SMALL

from otpr.errors import OtprError
from otpr.policies import files as policy_files
from otpr.policies.earlier_formats import modernized
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.loading import load_policy, policy_task
from otpr.policies.policy import Policy
from otpr.policies.readme import readme
from otpr.spec import Entry
from otpr.trees import read_arrays, to_bytes
from tiny import TASK, arrays, assert_same_arrays, reseal

FIXTURES = Path(__file__).parents[1] / "fixtures"


@functools.cache
def stored() -> Policy:
    """What all files of the fixtures hold: `SMALL`, as the compiler of their time rounded what it draws."""
    return load_policy(FIXTURES / f"policy-{policy_files.FORMAT}")


def test_stored_policy_is_the_one_that_the_fixtures_are_made_of():
    expected = arrays(SMALL)
    for name, array in arrays(stored()).items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-7)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    SMALL.save(tmp_path / "policy", task=TASK)
    return tmp_path / "policy"


def weights_of(folder: Path) -> Path:
    """The file with the arrays."""
    (file,) = folder.glob("weights.*")
    return file


def forge_weights(folder: Path, other: Policy) -> None:
    """Put another policy's arrays beside the document."""
    document = (folder / "policy.json").read_text()
    other.save(folder, task=TASK)
    (folder / "policy.json").write_text(document)


def refusal(folder: Path) -> str:
    """The message, where somebody changed the files of a policy without changing the checksums."""
    with pytest.raises(OtprError) as caught:
        load_policy(folder)
    return str(caught.value)


def refusal_of_forged(folder: Path) -> str:
    """The message, where the checksums were made to fit."""
    reseal(folder)
    return refusal(folder)


def test_missing_policy_is_said_to_be_missing(tmp_path: Path):
    assert refusal(tmp_path / "nowhere") == (
        f"There is no policy in {tmp_path / 'nowhere'}: expected policy.json there or in its folder 'policy'."
    )


def test_missing_weights_are_named(saved: Path):
    (file := weights_of(saved)).unlink()
    assert refusal(saved).startswith(f"{file} is damaged (FileNotFoundError")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_truncated_weights_are_refused(saved: Path, share: float):
    file = weights_of(saved)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert refusal(saved).startswith(f"{file} is damaged (")


@pytest.mark.parametrize("name", ["weights.*", "policy.json", "SHA256SUMS"])
def test_flipped_bit_anywhere_is_seen(saved: Path, name: str):
    (file,) = saved.glob(name)
    content = file.read_bytes()
    generator = np.random.default_rng(0)
    for position in [0, 1, len(content) - 1, *generator.integers(0, len(content), 40)]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        assert re.match(rf"{saved}/\S+ is damaged \(.*\)\. Copy or save the policy again\.$", refusal(saved))
        with pytest.raises(OtprError, match="is damaged"):
            policy_task(saved)


def test_missing_checksums_are_missed(saved: Path):
    (saved / "SHA256SUMS").unlink()
    assert refusal(saved) == (
        f"{saved / 'SHA256SUMS'} is damaged (expected the sums of policy.json and {weights_of(saved).name}). "
        "Copy or save the policy again."
    )


@pytest.mark.long
def test_flipped_bit_in_a_policy_without_checksums_is_refused_or_harmless(saved: Path):
    """Format 1 had none but the archive's own."""
    shutil.rmtree(saved)
    shutil.copytree(FIXTURES / "policy-1", saved)
    content = (saved / "weights.npz").read_bytes()
    generator = np.random.default_rng(0)
    refusals = []
    for position in [
        *range(0, 60, 2),
        *generator.integers(0, len(content), 50),
        *range(len(content) - 80, len(content), 2),
    ]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(generator.integers(8))
        (saved / "weights.npz").write_bytes(damaged)
        try:
            loaded = load_policy(saved)
        except OtprError as error:
            refusals.append(str(error))
        else:  # a time stamp, or the like
            assert_same_arrays(arrays(loaded), arrays(stored()))
    assert len(refusals) > 50
    assert {refusal.split(" (")[0] for refusal in refusals} == {f"{saved / 'weights.npz'} is damaged"}


def test_pickle_among_the_weights_is_not_opened(saved: Path, tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    shutil.rmtree(saved)
    shutil.copytree(FIXTURES / "policy-3", saved)  # an archive of NumPy, which may hold pickled objects
    with np.load(saved / "weights.npz") as stored:
        content = dict(stored)
    content[next(iter(content))] = np.array([Trap()], dtype=object)
    np.savez(saved / "weights.npz", **content)  # pyright: ignore[reportArgumentType]
    assert re.search(r"no plain array of numbers; pickle\w* .*are not loaded", refusal_of_forged(saved))
    assert not (tmp_path / "sprung").exists()


def small_with(**normalizers: Normalizer) -> Policy:
    """`SMALL` with other normalizers, so that its arrays no longer fit its document."""
    assert isinstance(SMALL.encoder, VectorEncoder)
    encoder = VectorEncoder({**SMALL.encoder.normalizers, **normalizers})
    return dataclasses.replace(SMALL, encoder=encoder)


MEAN = ".encoder.normalizers['state'].mean"


@pytest.mark.parametrize(
    ("mean", "found"),
    [(np.zeros(4, np.float32), "float32[4]"), (np.zeros(3, np.float64), "float64[3]")],
)
def test_array_of_another_shape_or_type_is_named(saved: Path, mean: np.ndarray, found: str):
    forge_weights(saved, small_with(state=Normalizer(mean, jnp.ones(3))))  # pyright: ignore[reportArgumentType]
    message = refusal_of_forged(saved)
    assert message.startswith(f"{weights_of(saved)} is damaged (")
    assert "policy.json" in message
    assert re.search(rf"{re.escape(f'{MEAN} is {found}')}, [^,]*float32\[3\]\)", message)
    assert message.endswith(". Copy or save the policy again.")


def test_surplus_array_is_named(saved: Path):
    forge_weights(saved, small_with(more=Normalizer(jnp.zeros(1), jnp.ones(1))))
    message = refusal_of_forged(saved)
    assert message.startswith(f"{weights_of(saved)} is damaged (")
    assert f"there is {MEAN.replace('state', 'more')!r}" in message


def test_missing_array_is_named(saved: Path):
    kept = read_arrays(weights_of(saved))
    del kept[MEAN]
    weights_of(saved).write_bytes(to_bytes(kept))
    message = refusal_of_forged(saved)
    assert message.startswith(f"{weights_of(saved)} is damaged (")
    assert f"there is no {MEAN!r}" in message


def test_every_key_of_the_document_is_needed(saved: Path):
    document = json.loads((saved / "policy.json").read_text())
    for name in document:
        (saved / "policy.json").write_text(json.dumps({k: v for k, v in document.items() if k != name}))
        assert refusal_of_forged(saved) == (
            f"{saved / 'policy.json'} is damaged (KeyError: '{name}'). Copy or save the policy again."
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("candidates", "many"),
        ("candidates", -8),
        ("candidates", True),
        ("candidates", 2.0),
        ("task", 3),
        ("candidates", 10**30),
    ],
)
def test_impossible_number_in_the_document_is_named(saved: Path, name: str, value: object):
    document = json.loads((saved / "policy.json").read_text())
    (saved / "policy.json").write_text(json.dumps({**document, name: value}))
    assert f"{saved / 'policy.json'} is damaged (ValueError: {name} is {value!r})" in refusal_of_forged(saved)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("horizon", -8, "the spec cannot be read: horizon must be a whole number of at least 1, given -8."),
        ("execute", 9, r"the spec cannot be read: execute \(9\) must not exceed horizon \(8\)"),
        ("history", 2.0, "the spec cannot be read: history must be a whole number"),
        ("horizon", 10**9, "horizon is 1000000000"),
        ("action_low", [0.0], "the spec cannot be read: A spec needs a lower and an upper bound"),
        ("action_high", ["1", None], "the spec cannot be read"),
        ("observation", {}, "the spec cannot be read: A spec needs at least one observation entry"),
        ("observation", [3], "the spec cannot be read"),
        ("control_rate", -1, "the spec cannot be read: control_rate must be a positive number"),
        ("observation", {"state": {"shape": [10**9], "dtype": "float32", "kind": "vector"}},
         r"observation\.state\[0\] is 1000000000"),
    ],
)  # fmt: skip
def test_impossible_spec_in_the_document_is_named(saved: Path, name: str, value: object, message: str):
    document = json.loads((saved / "policy.json").read_text())
    document["spec"][name] = value
    (saved / "policy.json").write_text(json.dumps(document))
    assert re.search(rf"policy\.json is damaged \(ValueError: {message}", refusal_of_forged(saved))


@pytest.mark.parametrize("name", ["observation_dim", "action_dim", "chunk_length"])
@pytest.mark.parametrize("value", [-8, 2.0, True, 10**9, "many", None])
def test_impossible_length_in_an_older_document_is_named(saved: Path, name: str, value: object):
    shutil.rmtree(saved)
    shutil.copytree(FIXTURES / "policy-3", saved)
    document = json.loads((saved / "policy.json").read_text())
    (saved / "policy.json").write_text(json.dumps({**document, name: value}))
    assert f"{saved / 'policy.json'} is damaged (ValueError: {name} is {value!r})" in refusal_of_forged(saved)


def test_image_entries_are_refused_by_an_encoder_of_vectors(saved: Path):
    document = json.loads((saved / "policy.json").read_text())
    document["spec"]["observation"]["camera"] = {"shape": [8, 8, 3], "dtype": "uint8", "kind": "image"}
    (saved / "policy.json").write_text(json.dumps(document))
    assert "entry 'camera' is an image; only vectors can be encoded" in refusal_of_forged(saved)


def test_policy_of_an_earlier_version_samples_as_it_did(tmp_path: Path):
    """The first files of format 1 did not say how."""
    folder = shutil.copytree(FIXTURES / "policy-1", tmp_path / "policy")
    document = json.loads((folder / "policy.json").read_text())
    rest = {name: value for name, value in document.items() if not name.startswith("sampler")}
    assert len(rest) == len(document) - 2
    (folder / "policy.json").write_text(json.dumps(rest))
    loaded = load_policy(folder)
    assert (loaded.diffusion.sampler, loaded.diffusion.sampler_steps) == ("ddpm", None)
    for seed in range(3):
        observation = OBSERVATIONS[seed, :3]
        np.testing.assert_array_equal(loaded.act(observation, seed), stored().act(observation, seed))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "heun"}, "Unknown sampler 'heun'. Known: ddim, ddpm, dpm++, sde-dpm++."),
        ({"sampler_steps": 5}, "sampler_steps must lie in 1..4 (the policy's noise levels), given 5."),
        ({"prediction": "score"}, "Unknown prediction 'score'. Known: noise, sample, velocity."),
        ({"bound": 0}, "bound must be a positive number, or None for no bound; given 0."),
        ({"bound": -1.5}, "bound must be a positive number, or None for no bound; given -1.5."),
    ],
)
def test_sampler_in_the_document_that_can_not_be_is_named(saved: Path, change: dict, message: str):
    document = json.loads((saved / "policy.json").read_text())
    document["generator"] |= change
    (saved / "policy.json").write_text(json.dumps(document))
    assert refusal_of_forged(saved) == f"{saved / 'policy.json'}: {message}"


@pytest.mark.parametrize("kind", ["difusion", "otpr/other", "os/path", "../otpr", 3, None])
def test_kind_that_there_is_not_is_refused(saved: Path, kind: object):
    document = json.loads((saved / "policy.json").read_text())
    for part in ("encoder", "generator", "chooser"):
        changed = {**document, part: {**document[part], "kind": kind}}
        (saved / "policy.json").write_text(json.dumps(changed))
        assert f"is damaged (ValueError: kind is {kind!r})" in refusal_of_forged(saved)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("generator", "denoising_steps", 0),
        ("generator", "denoising_steps", 10**9),
        ("generator", "sampler_steps", 2.0),
        ("generator", "sampler", ["ddpm"]),
        ("generator", "prediction", 3),
        ("generator", "bound", "1"),
        ("generator.network", "depth", 10**9),
        ("generator.network", "width", 10**12),
        ("chooser", "chunk_dim", 0),
        ("chooser", "keypoints", -1),
        ("chooser", "alpha", "0"),
        ("chooser", "epsilon", 10**400),
        ("chooser.critic", "depth", 10**9),
        ("chooser.critic", "size", 0),
        ("chooser.value", "width_size", None),
        ("chooser.potentials", "activation", "os.system"),
    ],
)
def test_impossible_part_of_the_document_is_named(saved: Path, part: str, name: str, value: object):
    document = json.loads((saved / "policy.json").read_text())
    inner = document
    for step in part.split("."):
        inner = inner[step]
    inner[name] = value
    (saved / "policy.json").write_text(json.dumps(document))
    assert f"{saved / 'policy.json'} is damaged (ValueError: {part}.{name} is " in refusal_of_forged(saved)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"', '{"format": []}', '{"format": 4, "task": "t"}'])
def test_document_that_is_no_such_object_is_refused(saved: Path, text: str):
    (saved / "policy.json").write_text(text)
    assert refusal_of_forged(saved).startswith(f"{saved / 'policy.json'} is damaged (")


@pytest.mark.parametrize("part", ["spec", "encoder", "generator", "chooser"])
def test_part_of_the_document_that_is_no_object_is_refused(saved: Path, part: str):
    document = json.loads((saved / "policy.json").read_text())
    for wrong in ([], "width", 7):
        (saved / "policy.json").write_text(json.dumps({**document, part: wrong}))
        assert refusal_of_forged(saved).startswith(f"{saved / 'policy.json'} is damaged (")


def test_rule_of_the_choice_that_does_not_exist_is_refused(saved: Path):
    document = json.loads((saved / "policy.json").read_text())
    document["chooser"]["rule"] = "highst"
    (saved / "policy.json").write_text(json.dumps(document))
    assert refusal_of_forged(saved).startswith(f"{saved / 'policy.json'} is damaged (")


@pytest.mark.parametrize(("greedy", "rule"), [(True, "highest"), (False, "draw"), (None, "draw"), (1, "")])
def test_format_9_says_whether_the_choice_is_greedy(greedy: bool | None, rule: str):
    chooser = {"kind": "otpr/compatibility", "epsilon": 0.1} | ({} if greedy is None else {"greedy": greedy})
    document = {"format": 9, "chooser": chooser}
    if not rule:
        with pytest.raises(TypeError, match="greedy is 1"):
            modernized(document)
        return
    assert modernized(document)["chooser"] == {"kind": "otpr/compatibility", "epsilon": 0.1, "rule": rule}
    assert modernized({"format": 9, "chooser": None})["chooser"] is None


def test_in_format_10_a_choice_by_q_took_the_highest():
    chooser = {"kind": "highest-q", "reduction": "mean", "critic": {"size": 2}}
    assert modernized({"format": 10, "chooser": chooser})["chooser"] == {
        "kind": "q",
        "reduction": "mean",
        "critic": {"size": 2},
        "rule": "highest",
    }
    other = {"kind": "expectile-weights", "expectile": 0.7}
    assert modernized({"format": 10, "chooser": other})["chooser"] == other


@pytest.mark.parametrize("number", range(1, policy_files.FORMAT + 1))
def test_policy_of_every_format_loads_and_acts_as_it_did(number: int):
    """See tests/fixtures/README.md."""
    folder = FIXTURES / f"policy-{number}"
    loaded = load_policy(folder)
    assert_same_arrays(arrays(loaded), arrays(stored()))
    assert loaded.spec == SMALL.spec
    assert json.loads((folder / "policy.json").read_text())["format"] == number
    assert policy_task(folder) == TASK
    # what the code of formats 1 to 3 drew; on other processors the last bits may differ
    expected = np.load(FIXTURES / "policy_actions.npy")
    for seed in range(3):
        actions = loaded.act(OBSERVATIONS[seed, :3], seed)
        np.testing.assert_array_equal(actions, stored().act(OBSERVATIONS[seed, :3], seed))
        np.testing.assert_allclose(actions, expected[seed], atol=1e-5)


def test_torn_document_is_refused(saved: Path):
    text = (saved / "policy.json").read_text()
    (saved / "policy.json").write_text(text[: len(text) // 2])
    assert refusal_of_forged(saved).startswith(f"{saved / 'policy.json'} is damaged (JSONDecodeError")
    with pytest.raises(OtprError, match=r"policy\.json is damaged"):
        policy_task(saved)


def test_later_format_asks_for_an_upgrade_whatever_else_it_holds(saved: Path):
    (saved / "policy.json").write_text('{"format": 99}')
    assert refusal_of_forged(saved) == (
        f"{saved / 'policy.json'} is of format 99; this otpr reads up to {policy_files.FORMAT}. Upgrade otpr."
    )


def test_in_format_4_entries_of_float64_were_taken_as_float32(tmp_path: Path):
    state = {"state": Entry((3,))}
    narrow = dataclasses.replace(SMALL, spec=dataclasses.replace(SMALL.spec, observation=state))
    narrow.save(tmp_path / "policy", task=TASK)
    file = tmp_path / "policy" / "policy.json"
    document = json.loads(file.read_text())
    document["format"] = 4
    document["spec"]["observation"]["state"]["dtype"] = "float64"
    file.write_text(json.dumps(document))
    reseal(tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    assert loaded.spec == narrow.spec
    assert_same_arrays(arrays(loaded), arrays(narrow))
    seen = np.array([1 / 3, 1e7 + 0.1, -2 / 3])
    assert loaded.act(seen, 0).tobytes() == narrow.act(seen.astype(np.float32), 0).tobytes()


def test_a_policy_with_an_entry_of_float64_comes_back_with_all_digits(tmp_path: Path):
    rows = 1e7 + np.random.default_rng(0).normal(size=(50, 3))
    spec = dataclasses.replace(SMALL.spec, observation={"state": Entry((3,), "float64")})
    acting = dataclasses.replace(SMALL, spec=spec, encoder=VectorEncoder.fit(spec, {"state": rows}))
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert loaded.spec == spec
    assert_same_arrays(arrays(loaded), arrays(acting))
    # the same policy without the offset, in float32
    plain = VectorEncoder.fit(SMALL.spec, {"state": (rows - 1e7).astype(np.float32)})
    beside = dataclasses.replace(SMALL, encoder=plain)
    for seed, row in enumerate(rows[:5]):
        np.testing.assert_allclose(loaded.act(row, seed), beside.act(row - 1e7, seed), atol=1e-4)


# ------------------------------------------------------------------------------------------------ the README


def test_the_readme_is_for_people_and_not_among_the_checksums(saved: Path):
    file = saved / "README.md"
    told = file.read_text()
    assert told.startswith(f"# Policy for {TASK}\n")
    assert "It chooses among 6 plans by `otpr/compatibility`." in told
    assert "observation   state: vector (3,) float32" in told
    assert max(map(len, told.splitlines())) <= 120
    file.write_text("Mine.")
    seen = np.ones(3, np.float32)
    np.testing.assert_array_equal(load_policy(saved).act(seen, 0), SMALL.act(seen, 0))
    file.unlink()
    load_policy(saved)


def test_what_the_readme_says_is_run(saved: Path):
    code = re.findall(r"```python\n(.*?)```", (saved / "README.md").read_text(), re.DOTALL)
    found: dict[str, Any] = {"observation": np.ones(3, np.float32)}
    exec(code[0].replace("this/folder", str(saved)), found)
    np.testing.assert_array_equal(found["actions"], SMALL.act(np.ones(3, np.float32), 0))
    assert found["commands"].shape == found["actions"].shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "`observation` is an array of shape (3,), `state`."),
        ({"history": 2}, "of shape (2, 3), `state`. It has the last 2 observations, oldest first."),
        (
            {"observation": {"state": Entry((3,)), "top": Entry((32, 32, 3), "uint8", "image")}},
            "`observation` is a dictionary of arrays: `state`, `top`.",
        ),
    ],
)
def test_the_readme_says_what_an_observation_is(change: dict[str, Any], message: str):
    spec = dataclasses.replace(SMALL.spec, **change)
    document = {"spec": spec.to_json(), "candidates": 1, "generator": {"kind": "flow"}, "chooser": None}
    told = readme("", document)
    assert message in told
    assert "a task that it does not name" in told and "chooses" not in told
