"""Policies that see: from images of an environment through imitation and fine-tuning to a policy that acts.

In an environment that costs nothing: a picture of 32 x 40 pixels shows a point and, alone, its goal.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pixels import CONFIG, LOOP, TASK, demonstrations, imitated, settings

from otpr.data.experience import Collected
from otpr.data.experience_files import read_experience
from otpr.data.frames import DecisionObservations
from otpr.envs import ChunkedVectorEnv, task_spec
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder
from otpr.training import checkpoints
from otpr.training.evaluate import evaluate
from otpr.training.finetune import FineTuning
from otpr.training.imitation import Imitation
from otpr.training.run_directory import read_rows
from otpr.training.workers import Lockstep
from tiny import arrays, assert_same_arrays, dying_after, sitting, weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return imitated(tmp_path_factory.mktemp("base") / "run", CONFIG, demonstrations())


def sit(
    path: Path, base: Policy, algorithm: str, *, resume: bool = False, processes: bool = False
) -> FineTuning:
    config = settings(algorithm)
    acting = config.acting_spec(base.spec)
    with ChunkedVectorEnv(
        TASK, LOOP.num_envs, acting.execute, processes=processes, history=acting.history
    ) as env:
        return sitting(path, base, demonstrations(), env, agent=config, loop=LOOP, resume=resume)


@pytest.mark.long
def test_imitation_from_images_finds_what_the_vector_does_not_tell(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, width=64, depth=2, updates=600, batch_size=64, ema_rate=0.02)
    policy = imitated(tmp_path / "run", config, demonstrations(40, noise=0.3))
    with ChunkedVectorEnv(TASK, 20, policy.spec.execute, processes=False) as env:
        seeing = evaluate(policy, Lockstep(env), 40).success_rate
        blind = evaluate(blindfolded(policy), Lockstep(env), 40).success_rate
    assert seeing > 0.7
    assert blind < 0.5


def blindfolded(policy: Policy) -> Policy:
    """The same, its networks' weights zero, so that all images look alike."""
    encoder = policy.encoder
    assert isinstance(encoder, VisionEncoder)
    networks = jax.tree.map(lambda leaf: 0 * leaf if hasattr(leaf, "dtype") else leaf, encoder.networks)
    return dataclasses.replace(policy, encoder=dataclasses.replace(encoder, networks=networks))


def test_a_policy_that_sees_comes_back_from_disk(base: Policy, tmp_path: Path) -> None:
    base.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert_same_arrays(arrays(loaded), arrays(base))
    episode = demonstrations()[0]
    seen = {name: episode.observations[name][0] for name in base.spec.observation}
    np.testing.assert_array_equal(loaded.act(seen, 0), base.act(seen, 0))
    with pytest.raises(ValueError, match=r"'eyes/top' is float64, the policy expects uint8"):
        loaded.act({**seen, "eyes/top": seen["eyes/top"] / 255}, 0)
    with pytest.raises(
        ValueError, match=r"'eyes/top' has shape \(3, 32, 40\), the policy expects \(32, 40, 3\)"
    ):
        loaded.act({**seen, "eyes/top": np.moveaxis(seen["eyes/top"], -1, 0)}, 0)


def test_features_do_not_depend_on_what_is_encoded_beside_them(base: Policy) -> None:
    observations = max(demonstrations(), key=len).observations
    whole = encode(base.encoder, observations)
    alone = [
        encode(base.encoder, {name: rows[i : i + 1] for name, rows in observations.items()}) for i in (0, 2)
    ]
    np.testing.assert_array_equal(whole[[0, 2]], np.concatenate(alone))


@pytest.mark.parametrize("history", [1, 2])
def test_decisions_see_what_their_rows_say(history: int) -> None:
    episodes = demonstrations()[:3]
    spec = dataclasses.replace(task_spec(TASK).spec, history=history)
    rows = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode) + 1)]
    drawn = np.array([len(rows) - 1, 0, 4, 1])
    seen = DecisionObservations(episodes, spec).of(drawn)
    for i, row in enumerate(drawn):
        e, t = rows[row]
        for name, array in episodes[e].observations.items():
            expected = [array[max(t - k, 0)] for k in reversed(range(history))]
            np.testing.assert_array_equal(seen[name][i], np.stack(expected))


def test_training_is_of_the_encoder_too_and_its_average_is_kept(base: Policy) -> None:
    spec = task_spec(TASK).spec
    state = Imitation.create(demonstrations(), spec, CONFIG, jax.random.key(0))
    rows = DecisionObservations(demonstrations(), state.policy.spec).of(np.arange(8))
    seen = {name: jnp.asarray(array) for name, array in rows.items()}
    after, _ = eqx.filter_jit(Imitation.update)(state, seen, jnp.zeros((8, 3, 2)))
    assert state.encoder is not None and after.encoder is not None
    before, trained, kept = (arrays(e) for e in (state.encoder, after.encoder, after.policy.encoder))
    for name, array in before.items():
        if ".vectors" in name:  # the statistics are not trained
            np.testing.assert_array_equal(trained[name], array)
        else:
            assert (trained[name] != array).any()
        # as 0.995 of the old and 0.005 of the new
        np.testing.assert_allclose(kept[name], array + 0.005 * (trained[name] - array), atol=1e-6)


def test_imitation_is_resumed_where_it_was(
    base: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("otpr.training.pretrain._BLOCK", 10)
    whole = imitated(tmp_path / "whole", CONFIG, demonstrations())
    save = checkpoints.save

    def stop(*args: Any) -> None:
        save(*args)
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("otpr.training.pretrain.StopRequest.requested", property(lambda self: True))
        patch.setattr(checkpoints, "save", stop)
        with pytest.raises(SystemExit):
            imitated(tmp_path / "part", CONFIG, demonstrations())
    resumed = imitated(tmp_path / "part", CONFIG, demonstrations(), resume=True)
    assert_same_arrays(arrays(resumed), arrays(whole))


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["otpr", "dppo", "idql", "dql", "qc"])
def test_algorithms_learn_from_images(base: Policy, tmp_path: Path, algorithm: str) -> None:
    job = sit(tmp_path / "run", base, algorithm)
    for row in read_rows(tmp_path / "run"):
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float)), row
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["encoder"] == "frozen"
    assert summary["observation"] == {
        "eyes/top": {"shape": [32, 40, 3], "dtype": "uint8", "kind": "image"},
        "state": {"shape": [2], "dtype": "float32", "kind": "vector"},
    }
    # the encoder is frozen: the features that are stored stay right
    assert_same_arrays(arrays(job.agent.deployed().encoder), arrays(base.encoder))


@pytest.mark.long
def test_collected_frames_are_those_of_the_decisions(base: Policy, tmp_path: Path) -> None:
    job = sit(tmp_path / "run", base, "idql")
    own = list(read_experience(tmp_path / "run" / "experience"))
    store, replay = job.experience.store, job.experience.replay
    first = sum(len(episode) + 1 for episode in demonstrations())
    rows = []
    for episode in own:
        decisions = [*range(0, len(episode), 3), len(episode)]
        assert (decisions if episode.looked is None else episode.looked.tolist()) == decisions
        assert len(episode.observations["eyes/top"]) == len(decisions)
        assert len(episode.observations["state"]) == len(episode) + 1
        features = Collected.of(episode, functools.partial(encode, base.encoder)).features
        stored = np.asarray(store.features[first : first + len(episode) + 1])
        np.testing.assert_array_equal(stored[decisions], features[decisions])
        rows += [first + t for t in decisions[:-1]]
        first += len(episode) + 1
    assert np.asarray(replay.rows[: int(replay.size)]).tolist() == rows
    transitions = store.transitions(np.asarray(rows))
    np.testing.assert_array_equal(transitions.state, store.features[np.asarray(rows)])


@pytest.mark.long
def test_killed_run_from_images_is_resumed_bit_for_bit(base: Policy, tmp_path: Path) -> None:
    whole = sit(tmp_path / "whole", base, "otpr")
    rows = read_rows(tmp_path / "whole")
    with dying_after("row", len(rows) * 3 // 4):
        sit(tmp_path / "part", base, "otpr")
    resumed = sit(tmp_path / "part", base, "otpr", resume=True)
    assert_same_arrays(arrays(resumed.agent), arrays(whole.agent))
    assert_same_arrays(arrays(resumed.experience), arrays(whole.experience))
    assert_same_arrays(weights(tmp_path / "part" / "policy"), weights(tmp_path / "whole" / "policy"))


def test_processes_see_what_this_one_sees(base: Policy, tmp_path: Path) -> None:
    here = sit(tmp_path / "here", base, "bc", processes=False)
    there = sit(tmp_path / "there", base, "bc", processes=True)
    assert here.at.success == there.at.success
    with (
        ChunkedVectorEnv(TASK, 2, 3, processes=False, history=2) as one,
        ChunkedVectorEnv(TASK, 2, 3, processes=True, history=2) as other,
    ):
        for env in (one, other):
            env.reset([1, 2])
        actions = np.full((2, 3, 2), 0.3, np.float32)
        mine, theirs = one.step(actions), other.step(actions)
    np.testing.assert_array_equal(mine.images["eyes/top"], theirs.images["eyes/top"])
    np.testing.assert_array_equal(mine.looked, theirs.looked)
    assert mine.images["eyes/top"].shape == (2, 2, 32, 40, 3)
