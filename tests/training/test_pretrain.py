from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from otpr.data.episodes import Episode
from otpr.data.mixture import split
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training import checkpoints
from otpr.training.pretrain import PretrainConfig, pretrain
from otpr.training.run_directory import RunDirectory, read_rows
from otpr.training.stopping import Stopped
from tiny import arrays, assert_same_arrays, dying_after, weights

CONFIG = PretrainConfig(
    horizon=2, denoising_steps=5, width=32, depth=2, updates=1100, batch_size=64, learning_rate=3e-3
)
TASK, SPEC = "toy/follow", Spec.flat(3, 2, control_rate=20.0)


def expert(observation: np.ndarray) -> np.ndarray:
    """Two actions out of three observed numbers of very different scales; the third is a distraction."""
    return 0.8 * np.tanh(np.stack([observation[..., 0], -observation[..., 1] / 100], axis=-1))


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    generator = np.random.default_rng(0)
    episodes = []
    for seed in range(4):
        # a walk: within a chunk the observation, and with it the action, hardly changes
        walk = generator.normal(size=(1, 3)) + np.cumsum(0.02 * generator.normal(size=(201, 3)), axis=0)
        observations = np.float32(walk * [1.0, 100.0, 1.0])
        actions = np.float32(expert(observations[:-1]))
        episodes.append(
            Episode({"state": observations}, actions, np.zeros(200, np.float32), False, True, True, seed)
        )
    return episodes


def run(path: Path, episodes: list[Episode], config: PretrainConfig = CONFIG, **options: Any) -> Policy:
    resume, seed = options.get("resume", False), options.get("seed", 0)
    with RunDirectory.open(path, command="pretrain", config={"seed": seed}, resume=resume) as directory:
        return pretrain([episodes], config, directory, setup=Setup(TASK), spec=SPEC, seed=seed, resume=resume)


def statistics(policy: Policy) -> Normalizer:
    assert isinstance(policy.encoder, VectorEncoder)
    return policy.encoder.normalizers["state"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, episodes: list[Episode]) -> tuple[Path, Policy]:
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, run(path, episodes)


def test_policy_does_what_was_demonstrated(whole: tuple[Path, Policy], episodes: list[Episode]):
    _, policy = whole
    observations = np.concatenate([episode.observations["state"][:-1:20] for episode in episodes])
    keys = jax.random.split(jax.random.key(0), len(observations))
    chunks = np.asarray(policy.act_batch({"state": observations[:, None]}, keys)[0])
    error = np.sqrt(np.mean((chunks - expert(observations)[:, None]) ** 2))
    spread = np.std(expert(observations), axis=0).mean()
    assert spread > 0.2
    assert error < 0.35 * spread


def test_loss_falls_and_every_block_is_logged(whole: tuple[Path, Policy]):
    rows = read_rows(whole[0])
    assert [row["updates"] for row in rows] == [250, 500, 750, 1000, 1100]
    assert rows[-1]["pretrain/loss"] < 0.7 * rows[0]["pretrain/loss"]
    assert rows[-1]["pretrain/loss"] < 0.5  # that of predicting no noise at all is 1


def test_statistics_are_those_of_the_demonstrations(whole: tuple[Path, Policy], episodes: list[Episode]):
    everything = np.concatenate([episode.observations["state"] for episode in episodes]).astype(np.float64)
    np.testing.assert_allclose(statistics(whole[1]).mean, everything.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics(whole[1]).scale, everything.std(axis=0), rtol=1e-4)


def test_saved_policy_is_the_returned_one(whole: tuple[Path, Policy]):
    path, policy = whole
    saved = load_policy(path)
    assert_same_arrays(arrays(saved), arrays(policy))
    assert saved.spec == dataclasses.replace(SPEC, horizon=2, execute=2)
    assert saved.candidates == 1
    assert saved.chooser is None


def test_run_stopped_after_every_block_is_the_uninterrupted_run(
    whole: tuple[Path, Policy], episodes: list[Episode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "run"
    log = RunDirectory.log

    def log_and_interrupt(directory: RunDirectory, row: dict[str, Any]) -> None:
        log(directory, row)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunDirectory, "log", log_and_interrupt)
    expected = read_rows(whole[0])
    for sitting in range(5):
        updates = [250, 500, 750, 1000, 1100][sitting]
        with pytest.raises(Stopped, match=f"pretraining stopped at {updates:,} updates"):
            run(path, episodes, resume=sitting > 0)
        assert read_rows(path) == expected[: sitting + 1]
        assert not (path / "policy").exists()
    run(path, episodes, resume=True)
    assert read_rows(path) == expected
    assert_same_arrays(weights(path / "policy"), weights(whole[0] / "policy"))


@pytest.mark.long
def test_a_unet_is_trained_and_stored_like_an_mlp(episodes: list[Episode], tmp_path: Path):
    config = dataclasses.replace(
        CONFIG, network="unet", down_dims=(8, 16), kernel_size=3, history=2, offset=1, horizon=4, updates=250
    )
    policy = run(tmp_path / "run", episodes, config)
    assert policy.diffusion.network.about()["down_dims"] == [8, 16]
    assert (policy.spec.execute, policy.spec.offset) == (3, 1)
    saved, seen = load_policy(tmp_path / "run"), episodes[0].observations["state"][:2]
    np.testing.assert_array_equal(saved.act(seen, 0), policy.act(seen, 0))
    rows = read_rows(tmp_path / "run")
    assert rows[-1]["pretrain/loss"] < 0.9  # that of predicting no noise at all is 1
    recorded = config.record(SPEC)
    assert recorded["down_dims"] == (8, 16) and "width" not in recorded


def test_run_killed_before_its_first_checkpoint_starts_over(
    whole: tuple[Path, Policy], episodes: list[Episode], tmp_path: Path
):
    path = tmp_path / "run"
    with dying_after("updates", 500):
        run(path, episodes)
    assert checkpoints.latest(path / "checkpoints") is None
    assert len(read_rows(path)) == 2
    run(path, episodes, resume=True)
    assert read_rows(path) == read_rows(whole[0])
    assert_same_arrays(weights(path / "policy"), weights(whole[0] / "policy"))


def test_seed_decides_the_result(whole: tuple[Path, Policy], episodes: list[Episode], tmp_path: Path):
    other = arrays(run(tmp_path / "run", episodes, seed=1))
    same = arrays(whole[1])
    assert any(not np.array_equal(other[name], same[name]) for name in same)


def test_divergence_is_an_error_and_is_not_saved(episodes: list[Episode], tmp_path: Path):
    config = PretrainConfig(horizon=2, denoising_steps=5, width=32, depth=2, learning_rate=1e30)
    with pytest.raises(OtprError, match="Imitation diverged after 250 updates"):
        run(tmp_path / "run", episodes, config)
    assert read_rows(tmp_path / "run") == []
    assert sorted(file.name for file in (tmp_path / "run").iterdir() if not file.is_dir()) == [
        "config.json",
        "lock",
        "metrics.jsonl",
        "versions.json",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: value}, f"{name} must be at least 1, given {value}.")
            for name in ("history", "horizon", "denoising_steps", "width", "depth", "updates", "batch_size")
            for value in (0, -3)
        ),
        ({"learning_rate": -1e-3}, "learning_rate must be at least 0, given -0.001."),
        ({"learning_rate": float("nan")}, "learning_rate must be at least 0, given nan."),
        ({"ema_rate": -0.1}, "ema_rate must be at least 0, given -0.1."),
        ({"ema_rate": 1.5}, "ema_rate must be at most 1, given 1.5."),
    ],
)
def test_numbers_that_make_no_policy_are_refused(changes: dict[str, Any], message: str):
    with pytest.raises(OtprError) as caught:
        PretrainConfig(**changes)
    assert str(caught.value) == message


def test_held_out_episodes_are_not_trained_on_and_their_loss_is_logged(
    tmp_path: Path, episodes: list[Episode]
):
    config = dataclasses.replace(CONFIG, updates=250, held_out=0.25)
    policy = run(tmp_path / "run", episodes, config)
    kept, held = split(episodes, 0.25, seed=0)
    assert (len(kept), len(held)) == (3, 1)
    # the policy knows the kept episodes alone: so its statistics say
    observations = np.concatenate([episode.observations["state"] for episode in kept])
    np.testing.assert_allclose(statistics(policy).mean, observations.mean(axis=0), rtol=1e-5)
    assert [0 < row["pretrain/held_out_loss"] < 10 for row in read_rows(tmp_path / "run")] == [True]


def test_a_set_of_much_weight_is_imitated(tmp_path: Path, episodes: list[Episode]):
    still = [dataclasses.replace(episode, actions=np.zeros_like(episode.actions)) for episode in episodes]
    config = dataclasses.replace(CONFIG, updates=1500)
    observations = np.concatenate([episode.observations["state"][:-1:20] for episode in episodes])

    def size_of_actions(weights: tuple[float, float]) -> float:
        path = tmp_path / f"{weights[0]}"
        with RunDirectory.open(path, command="pretrain", config={}) as directory:
            policy = pretrain(
                [still, episodes],
                config,
                directory,
                setup=Setup(TASK),
                spec=SPEC,
                seed=0,
                resume=False,
                weights=weights,
            )
        keys = jax.random.split(jax.random.key(0), len(observations))
        return float(np.abs(policy.act_batch({"state": observations[:, None]}, keys)[0]).mean())

    assert size_of_actions((100.0, 1.0)) < 0.5 * size_of_actions((1.0, 100.0))


@pytest.mark.long
@pytest.mark.parametrize(("history", "knows"), [(1, False), (2, True)])
def test_a_history_shows_what_one_observation_does_not(tmp_path: Path, history: int, knows: bool):
    """The expert answers with the observation before the present one."""
    generator = np.random.default_rng(1)
    episodes = []
    for _ in range(4):
        seen = generator.uniform(-1, 1, (201, 1)).astype(np.float32)
        actions = 0.8 * np.concatenate([seen[:1], seen[:-2]])
        rewards = np.zeros(200, np.float32)
        episodes.append(Episode({"state": seen}, actions, rewards, False, True, True, None))
    config = dataclasses.replace(CONFIG, history=history, horizon=1, updates=1500)
    with RunDirectory.open(tmp_path / "run", command="pretrain", config={}) as directory:
        policy = pretrain(
            [episodes], config, directory, setup=Setup(TASK), spec=Spec.flat(1, 1), seed=0, resume=False
        )
    state, rows = episodes[0].observations["state"], np.arange(1, 200, 4)
    window = np.stack([state[rows - i] for i in reversed(range(history))], axis=1)
    chunks, _ = policy.act_batch({"state": window}, jax.random.split(jax.random.key(0), len(rows)))
    error = np.abs(np.asarray(chunks)[:, 0, 0] - episodes[0].actions[rows, 0]).mean()
    assert (error < 0.12) == knows
    assert load_policy(tmp_path / "run").spec.history == history


def test_more_actions_cannot_be_executed_than_a_plan_has():
    with pytest.raises(OtprError, match="execute \\(3\\) must not exceed horizon \\(2\\)"):
        PretrainConfig(horizon=2, execute=3).policy_spec(SPEC)
    assert PretrainConfig(horizon=4, execute=3, history=2).policy_spec(SPEC) == dataclasses.replace(
        SPEC, history=2, horizon=4, execute=3
    )


def test_what_does_not_vary_is_told_first(
    episodes: list[Episode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    still = [
        dataclasses.replace(each, observations={"state": each.observations["state"] * np.float32([1, 0, 1])})
        for each in episodes
    ]
    run(tmp_path / "run", still, dataclasses.replace(CONFIG, updates=1))
    assert capsys.readouterr().out.splitlines()[0] == (
        "Not varying in the demonstrations, and so left in their own unit: state[1]."
    )
