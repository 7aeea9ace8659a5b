from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import otpr
from otpr.diffusion import sample
from otpr.errors import OtprError
from otpr.policies import files as policy_files
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.policy import Policy, load_policy, policy_task
from tiny import TASK, arrays, assert_same_arrays, chooser, files, policy, reseal

OBSERVATIONS = np.random.default_rng(0).normal(size=(5, 39)).astype(np.float32)
KINDS = {
    "one sample": policy(),
    "resampled": policy(chooser=chooser(u=0.5)),
    "guided": policy(chooser=chooser(alpha=0.4, epsilon=0.3, u=0.5)),
    "untrained": policy(chooser=chooser(trained=False)),
    "few steps": policy(chooser=chooser(u=0.5)).with_sampler("dpm++", 3),
}
FIXTURES = Path(__file__).parents[1] / "fixtures"
SMALL = policy(observation_dim=3, action_dim=2, chooser=chooser(3, 16))


@pytest.mark.parametrize("kind", ["one sample", "resampled"])
def test_act_gives_a_chunk_of_actions_and_depends_on_the_seed_alone(kind: str):
    acting = KINDS[kind]
    chunk = acting.act(OBSERVATIONS[0], 3)
    assert chunk.shape == (8, 4)
    assert chunk.dtype == np.float32
    assert np.abs(chunk).max() <= 1.0
    np.testing.assert_array_equal(chunk, acting.act(OBSERVATIONS[0], 3))
    assert np.abs(chunk - acting.act(OBSERVATIONS[0], 4)).max() > 0.1
    assert np.abs(chunk - acting.act(OBSERVATIONS[1], 3)).max() > 1e-3


def test_observations_are_normalised_inside():
    """Raw observations of a policy with statistics are normalised observations of one without."""
    acting = KINDS["one sample"]
    normalizer = acting.encoder.normalizers["state"]
    unit = Normalizer(jnp.zeros(39), jnp.ones(39))
    plain = dataclasses.replace(acting, encoder=VectorEncoder({"state": unit}))
    normalised = (OBSERVATIONS[0] - np.asarray(normalizer.mean)) / np.asarray(normalizer.scale)
    np.testing.assert_allclose(acting.act(OBSERVATIONS[0], 3), plain.act(normalised, 3), atol=1e-5)
    assert np.abs(plain.act(OBSERVATIONS[0], 3) - plain.act(normalised, 3)).max() > 1e-2


def test_with_a_chooser_the_chunk_is_one_of_the_candidates_and_among_the_compatible():
    acting = KINDS["resampled"]
    assert acting.chooser is not None
    compatibility = []
    for observation in OBSERVATIONS:
        chunk = acting.act(observation, 7).reshape(-1)
        propose_key, _ = jax.random.split(jax.random.key(7))
        seen = {"state": observation[None]}
        state = acting.state(seen)
        plans = acting.propose({"state": seen["state"][None]}, propose_key[None], acting.candidates)
        candidates = np.asarray(plans).reshape(acting.candidates, -1)
        distances = np.abs(candidates - chunk).max(axis=1)
        assert distances.min() < 1e-5
        H = acting.chooser(jnp.broadcast_to(state, (len(candidates), 39)), jnp.asarray(candidates))
        compatibility.append(float(H[distances.argmin()]))
    assert min(compatibility) > 0


def test_single_draws_once_from_the_same_network():
    single = KINDS["resampled"].single()
    assert single.chooser is None
    assert_same_arrays(arrays(single), arrays(KINDS["one sample"]))
    np.testing.assert_array_equal(single.act(OBSERVATIONS[0], 3), KINDS["one sample"].act(OBSERVATIONS[0], 3))


@pytest.mark.parametrize(
    ("sampler", "steps"), [("ddpm", None), ("ddpm", 2), ("ddim", 2), ("dpm++", 3), ("sde-dpm++", 3)]
)
def test_proposes_by_its_sampler(sampler, steps: int | None):
    acting, key = KINDS["one sample"], jax.random.key(2)
    seen = {"state": OBSERVATIONS[:1]}
    state = acting.state(seen)

    def predict_noise(plans, k):
        return jax.vmap(lambda plan: acting.diffusion.network(state, plan, k))(plans)

    def proposed(acting: Policy) -> jax.Array:
        return acting.propose({"state": seen["state"][None]}, key[None], 5)[0]

    expected = sample(predict_noise, acting.diffusion.schedule, (5, 8, 4), key, method=sampler, steps=steps)
    plans = proposed(acting.with_sampler(sampler, steps))
    np.testing.assert_allclose(plans, expected, atol=1e-6)
    if (sampler, steps) != ("ddpm", None):  # what it does where nothing else is said
        assert np.abs(plans - proposed(acting)).max() > 0.01
    assert acting.with_sampler(sampler, steps).single().diffusion.sampler == sampler


def test_sampler_that_can_not_be_is_refused():
    with pytest.raises(OtprError, match=r"Unknown sampler 'ddmp'\. Did you mean 'ddpm'"):
        SMALL.with_sampler("ddmp")  # pyright: ignore[reportArgumentType]
    for steps in (0, -1, 5):
        with pytest.raises(OtprError, match=rf"sampler_steps must lie in 1\.\.4 .*given {steps}\."):
            SMALL.with_sampler("ddim", steps)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(38), r"observation has shape \(38,\), the policy expects \(39,\)"),
        (np.zeros((1, 39)), r"observation has shape \(1, 39\)"),
        (np.where(np.arange(39) == 5, np.nan, 0.0), r"not finite at indices \[5\]"),
    ],
)
def test_observation_that_does_not_fit_is_refused(observation: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        KINDS["one sample"].act(observation, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_policy_comes_back_bit_for_bit(kind: str, tmp_path: Path):
    saved = KINDS[kind]
    saved.save(tmp_path / "deep" / "policy", task=TASK)
    loaded = otpr.load_policy(tmp_path / "deep" / "policy")
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)  # also all that is not an array
    assert_same_arrays(arrays(loaded), arrays(saved))
    for seed, observation in enumerate(OBSERVATIONS):
        np.testing.assert_array_equal(loaded.act(observation, seed), saved.act(observation, seed))
    assert policy_task(tmp_path / "deep" / "policy") == TASK
    *rest, weights = sorted(files(tmp_path / "deep" / "policy"))
    assert rest == ["SHA256SUMS", "policy.json"]
    assert weights.startswith("weights.")


def test_run_directory_stands_for_the_policy_in_it(tmp_path: Path):
    SMALL.save(tmp_path / "policy", task=TASK)
    assert_same_arrays(arrays(load_policy(tmp_path)), arrays(SMALL))
    assert policy_task(str(tmp_path)) == TASK


def test_loading_needs_nothing_but_the_folder(tmp_path: Path):
    """No simulator, no data, no training code: in a process where importing any of them fails."""
    KINDS["resampled"].save(tmp_path / "policy", task=TASK)
    np.save(tmp_path / "observation.npy", OBSERVATIONS[0])
    script = """if True:
        import sys
        for name in ("otpr.training", "otpr.envs", "otpr.data", "otpr.cli", "otpr_bench",
                      "gymnasium", "metaworld", "mujoco", "minari", "tyro", "rich",
                     "tensorboard", "matplotlib"):
            sys.modules[name] = None
        import hashlib
        import numpy as np
        import otpr
        policy = otpr.load_policy("policy")
        chunk = policy.act(np.load("observation.npy"), 5)
        print(chunk.shape, hashlib.sha256(chunk.tobytes()).hexdigest())
    """
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    expected = hashlib.sha256(KINDS["resampled"].act(OBSERVATIONS[0], 5).tobytes()).hexdigest()
    assert done.stdout.split("\n")[0] == f"(8, 4) {expected}"


def test_saving_replaces_an_older_policy_whole(tmp_path: Path):
    KINDS["resampled"].save(tmp_path / "policy", task="old/task")
    SMALL.save(tmp_path / "policy", task=TASK)
    assert_same_arrays(arrays(load_policy(tmp_path / "policy")), arrays(SMALL))
    assert policy_task(tmp_path / "policy") == TASK
    assert len(files(tmp_path)) == 3


def test_failure_while_saving_leaves_the_older_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    SMALL.save(tmp_path / "policy", task=TASK)
    before = files(tmp_path)

    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    # one of them writes the arrays
    monkeypatch.setattr(np, "savez", disk_full)
    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OtprError, match=r"policy cannot be written \(No space left on device\)"):
        KINDS["resampled"].save(tmp_path / "policy", task=TASK)
    assert files(tmp_path) == before


def test_saving_does_not_delete_what_is_not_a_policy(tmp_path: Path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(OtprError, match="thesis exists and is not a policy"):
        SMALL.save(tmp_path / "thesis", task=TASK)
    assert files(tmp_path) == {"thesis/chapter1.tex": b"years of work"}


# ---------------------------------------------------------------------------------------------- damaged files


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
            assert_same_arrays(arrays(loaded), arrays(SMALL))
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


def small_with(**normalizers: Normalizer | None) -> Policy:
    """`SMALL` with other normalizers, so that its arrays no longer fit its document."""
    assert isinstance(SMALL.encoder, VectorEncoder)
    encoder = VectorEncoder({**SMALL.encoder.normalizers, **normalizers})  # pyright: ignore[reportArgumentType]
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


@pytest.mark.parametrize("name", ["state", "more"])
def test_missing_or_surplus_array_is_named(saved: Path, name: str):
    change = None if name == "state" else Normalizer(jnp.zeros(1), jnp.ones(1))
    forge_weights(saved, small_with(**{name: change}))
    message = refusal_of_forged(saved)
    assert message.startswith(f"{weights_of(saved)} is damaged (")
    assert f"there is {MEAN.replace('state', name)!r}" in message.replace("there is no ", "there is ")


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
        np.testing.assert_array_equal(loaded.act(observation, seed), SMALL.act(observation, seed))


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


@pytest.mark.parametrize("number", range(1, policy_files.FORMAT + 1))
def test_policy_of_every_format_loads_and_acts_as_it_did(number: int):
    """See tests/fixtures/README.md."""
    folder = FIXTURES / f"policy-{number}"
    loaded = load_policy(folder)
    assert_same_arrays(arrays(loaded), arrays(SMALL))
    assert loaded.spec == SMALL.spec
    assert json.loads((folder / "policy.json").read_text())["format"] == number
    assert policy_task(folder) == TASK
    # what the code of formats 1 to 3 drew; on other processors the last bits may differ
    expected = np.load(FIXTURES / "policy_actions.npy")
    for seed in range(3):
        actions = loaded.act(OBSERVATIONS[seed, :3], seed)
        np.testing.assert_array_equal(actions, SMALL.act(OBSERVATIONS[seed, :3], seed))
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


def test_policies_of_one_shape_are_one_compiled_program():
    """A deployed policy changes its numbers every round; that must not compile again."""
    other: Policy = policy(chooser=chooser(u=0.5, seed=1), seed=1)
    assert jax.tree.structure(other) == jax.tree.structure(KINDS["resampled"])
