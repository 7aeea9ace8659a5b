"""Runs whose encoder of images goes on learning, in an environment that costs nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from pixels import CONFIG, LOOP, TASK, demonstrations, imitated, settings

from otpr.agents.parts.seeing import EncoderConfig, Seeing
from otpr.data.experience_files import read_experience
from otpr.envs import ChunkedVectorEnv
from otpr.errors import OtprError
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.training.faults import load_update
from otpr.training.finetune import FineTuning
from otpr.training.run_directory import read_rows
from otpr.training.workers import Lockstep
from tiny import arrays, assert_same_arrays, dying_after, sitting, weights

pytestmark = pytest.mark.long

BOTH = EncoderConfig("both", encoder_learning_rate=1e-2, encoder_ema_rate=0.2, random_shift=2)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return imitated(tmp_path_factory.mktemp("base") / "run", CONFIG, demonstrations())


def sit(
    path: Path, base: Policy, algorithm: str, encoder: EncoderConfig = BOTH, *, resume: bool = False
) -> FineTuning:
    config = settings(algorithm)
    execute = config.acting_spec(base.spec).execute
    with ChunkedVectorEnv(TASK, LOOP.num_envs, execute, processes=False) as env:
        return sitting(
            path, base, demonstrations(), env, agent=config, encoder=encoder, loop=LOOP, resume=resume
        )


@pytest.fixture(scope="module")
def whole(base: Policy, tmp_path_factory: pytest.TempPathFactory) -> tuple[FineTuning, Path]:
    path = tmp_path_factory.mktemp("whole") / "run"
    return sit(path, base, "otpr"), path


def stored_features(job: FineTuning, encoder: Any) -> np.ndarray:
    """The features of all observations that were looked at, by the encoder, in the order of the store."""
    assert job.gathered.frames is not None
    rows = []
    for episode in job.gathered.frames.episodes:
        steps = np.arange(len(episode) + 1)
        seen = {
            name: array[episode.frames(steps)] if array.ndim == 4 else array
            for name, array in episode.observations.items()
        }
        looked = encode(encoder, {name: array[episode.looks] for name, array in seen.items()})
        rows.append(looked[episode.frames(steps)])
    return np.concatenate(rows)


def test_the_policy_is_saved_with_the_encoder_that_acted(whole: Any, base: Policy) -> None:
    job, path = whole
    assert json.loads((path / "summary.json").read_text())["encoder"] == "trained"
    saved = load_policy(path)
    assert isinstance(job.agent, Seeing)
    assert_same_arrays(arrays(saved.encoder), arrays(job.agent.average))
    assert_same_arrays(arrays(saved), arrays(job.agent.deployed()))
    before, after = arrays(base.encoder), arrays(saved.encoder)
    assert all((after[name] != array).any() for name, array in before.items() if ".networks" in name)
    for row in read_rows(path):
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float)), row


def test_all_states_are_those_of_the_encoder_that_acts(whole: Any) -> None:
    job, _ = whole
    store = job.experience.store
    features = stored_features(job, job.agent.encoder)
    np.testing.assert_allclose(store.features[: int(store.size)], features, atol=1e-6)
    assert job.at.encoded_at == job.at.updates > 0
    keypoints = job.agent.agent.keypoint_states
    guiding = job.agent.agent.keypoint_rows[
        np.linspace(0, len(job.agent.agent.keypoint_rows) - 1, len(keypoints)).round().astype(int)
    ]
    np.testing.assert_array_equal(keypoints, store.states(guiding))


def test_frames_are_kept_once_in_files_as_they_were_seen(whole: Any) -> None:
    job, path = whole
    own = list(read_experience(path / "experience"))
    kept = job.gathered.frames.episodes[len(demonstrations()) :]
    assert len(kept) == len(own) > 0
    for one, other in zip(kept, own, strict=True):
        frames = one.observations["eyes/top"]
        np.testing.assert_array_equal(frames, other.observations["eyes/top"])
        assert frames.dtype == np.uint8 and not frames.flags.writeable  # a file, mapped
    assert sum(len(e) + 1 for e in job.gathered.frames.episodes) == int(job.experience.store.size)


@pytest.mark.parametrize("part", [0.5, 0.75])
def test_killed_run_is_resumed_bit_for_bit(base: Policy, whole: Any, tmp_path: Path, part: float) -> None:
    """The states in between are those of the encoder as it was when they were encoded last."""
    job, path = whole
    with dying_after("row", int(len(read_rows(path)) * part)):
        sit(tmp_path / "part", base, "otpr")
    resumed = sit(tmp_path / "part", base, "otpr", resume=True)
    assert_same_arrays(arrays(resumed.agent), arrays(job.agent))
    assert_same_arrays(arrays(resumed.experience), arrays(job.experience))
    assert_same_arrays(weights(tmp_path / "part" / "policy"), weights(path / "policy"))


def test_states_come_back_where_the_encoder_has_learnt_since(base: Policy, tmp_path: Path) -> None:
    """A checkpoint right after gradient steps, before the states are encoded anew."""
    job = sit(tmp_path / "run", base, "idql", dataclasses.replace(BOTH, encoder="critics"))
    agent = job.agent
    assert isinstance(agent, Seeing)
    half = jax.tree.map(lambda x: 0.5 * x if eqx.is_inexact_array(x) else x, agent.average)
    job.agent = dataclasses.replace(agent, average=half)
    job.at.updates += 10
    job.at.rows += 1
    job.save()
    features = np.asarray(job.experience.store.features)
    config = settings("idql")
    with ChunkedVectorEnv(TASK, LOOP.num_envs, 3, processes=False) as env:
        other = FineTuning(
            base,
            [demonstrations()],
            preset="default",
            seed=0,
            agent=config,
            encoder=dataclasses.replace(BOTH, encoder="critics"),
            loop=LOOP,
            run=job.run,
            workers=Lockstep(env),
        )
        other.run.rewind = lambda *_: None  # pyright: ignore[reportAttributeAccessIssue]
        other.restore()
    np.testing.assert_array_equal(other.experience.store.features, features)
    assert_same_arrays(arrays(other.agent), arrays(job.agent))


@pytest.mark.parametrize("algorithm", ["idql", pytest.param("rlpd", marks=pytest.mark.long)])
def test_a_gradient_step_that_goes_wrong_is_taken_again(base: Policy, tmp_path: Path, algorithm: str) -> None:
    """Adam's second moment of the encoder made negative: its root is NaN."""
    broken = functools.partial(jax.tree.map, lambda nu: nu - 1.0 if eqx.is_inexact_array(nu) else nu)
    create = Seeing.create.__func__  # pyright: ignore[reportAttributeAccessIssue]

    def spoilt(cls: Any, *given: Any) -> Seeing:
        return eqx.tree_at(lambda a: a.trained.state[0].nu, create(cls, *given), replace_fn=broken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Seeing, "create", classmethod(spoilt))
        with pytest.raises(OtprError, match=r"trained after its gradient step not finite"):
            sit(tmp_path / "run", base, algorithm)
    (file,) = (tmp_path / "run" / "faults").iterdir()
    agent, batch, update_policy = load_update(file, base, settings(algorithm), BOTH)
    after, metrics = eqx.filter_jit(Seeing.update)(agent, batch, update_policy)  # pyright: ignore
    assert all(np.isfinite(value) for value in metrics.values())
    assert any(np.isnan(array).any() for array in arrays(after.trained.model).values())
