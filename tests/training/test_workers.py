from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest

from otpr.data.seeds import training_seed
from otpr.envs import BrokenEnvironmentError, ChunkedVectorEnv, Setup
from otpr.errors import OtprError
from otpr.policies.policy import Policy
from otpr.training import ray_workers
from otpr.training.episode_runner import worker_env
from otpr.training.evaluate import evaluate
from otpr.training.faults import NotFiniteError
from otpr.training.local_workers import LocalCrew
from otpr.training.loop import LoopConfig
from otpr.training.placement import Placement
from otpr.training.ray_workers import STARTS, RayCrew, RayWorker, Shared
from otpr.training.rollout import Rollout
from otpr.training.stopping import Abandoned
from otpr.training.workers import Lockstep, Wave, Worker, WorkerPool, Workers
from tests.faults import small
from tests.faults.small import TASK, inject, rows
from tiny import arrays, assert_same_arrays, chooser, policy

CHUNK = 2  # three decisions an episode
ACTING = policy(observation_dim=3, action_dim=2, execute=CHUNK, chooser=chooser(3, 4))
SEEDS = list(range(40, 51))


def pool(count: int, *, each: int = 2, timeout: float = 60.0, execute: int = CHUNK) -> WorkerPool:
    return WorkerPool(TASK, LocalCrew(Setup(TASK), each, execute, 1, timeout), count, each)


def run(workers: Workers, seeds: list[int], acting: Policy = ACTING, **options: Any) -> Rollout:
    return workers.start(acting, seeds, action_seed=5).result(**options)


def assert_same(given: Rollout, expected: Rollout, tolerance: float = 0.0) -> None:
    assert [episode.seed for episode in given.episodes] == [episode.seed for episode in expected.episodes]
    for one, other in zip(given.episodes, expected.episodes, strict=True):
        np.testing.assert_allclose(one.actions, other.actions, atol=tolerance, rtol=0)
        seen = one.observations["state"], other.observations["state"]
        np.testing.assert_allclose(*seen, atol=tolerance, rtol=0)
        assert one.success == other.success
    assert (given.decisions, given.broken) == (expected.decisions, expected.broken)
    if not tolerance:
        assert dict(given.sums) == dict(expected.sums)


@pytest.fixture(scope="module")
def one() -> Iterator[WorkerPool]:
    with pool(1) as workers:
        yield workers


@pytest.fixture(scope="module")
def expected(one: WorkerPool) -> Rollout:
    waves: list[int] = []
    rollout = run(one, SEEDS, on_wave=waves.append)
    assert waves == [2, 2, 2, 2, 2, 1]
    return rollout


@pytest.mark.long
def test_episodes_are_those_of_environments_in_lockstep(expected: Rollout):
    assert [episode.seed for episode in expected.episodes] == SEEDS
    assert expected.decisions == 3 * len(SEEDS)
    assert 0 < sum(episode.success for episode in expected.episodes) < len(SEEDS)
    with Lockstep(ChunkedVectorEnv(TASK, 3, CHUNK, processes=False)) as lockstep:
        assert_same(run(lockstep, SEEDS), expected, tolerance=1e-5)


@pytest.mark.long
def test_four_workers_give_the_same_episodes_bit_for_bit_as_one(expected: Rollout):
    with pool(4) as workers:
        assert_same(run(workers, SEEDS), expected)


@pytest.mark.long
def test_four_actors_of_ray_give_the_same_episodes_bit_for_bit_as_one_worker(
    expected: Rollout, ray_here: None
):
    with ray_pool(4) as workers:
        assert_same(run(workers, SEEDS), expected)


def ray_pool(count: int) -> WorkerPool:
    import ray

    return WorkerPool(TASK, RayCrew(ray, Setup(TASK), 2, CHUNK, 1, 60.0), count, 2)


@pytest.mark.long
def test_a_policy_that_has_learnt_is_taken_over_by_workers_that_know_the_one_before(one: WorkerPool):
    other = policy(observation_dim=3, action_dim=2, execute=CHUNK, chooser=chooser(3, 4, seed=1), seed=1)
    with pool(1) as fresh:
        afresh = run(fresh, SEEDS[:3], other)
    assert_same(run(one, SEEDS[:3], other), afresh)
    assert np.abs(afresh.episodes[0].actions - run(one, SEEDS[:1]).episodes[0].actions).max() > 0.01
    # two lots under way, the later of another policy
    pending = [one.start(acting, SEEDS[:3], action_seed=5) for acting in (ACTING, other)]
    assert_same(pending[1].result(), afresh)
    assert [episode.seed for episode in pending[0].result().episodes] == SEEDS[:3]


@pytest.mark.long
def test_an_evaluation_is_the_same_with_any_number_of_workers(one: WorkerPool):
    with pool(3) as workers:
        assert evaluate(ACTING, workers, 7) == evaluate(ACTING, one, 7)


# ----------------------------------------------------------------------------------------------------- faults

CAUSES = {
    "raise": "step() raised ConnectionError: robot unplugged",
    "shape": "an observation has shape (4,), expected (3,)",
    "exit": "the worker died in run() (exit status 3)",
    "hang": "the environment hung: no chunk of actions within 4 seconds",
}


@pytest.mark.long
@pytest.mark.parametrize("kind", CAUSES)
def test_what_breaks_costs_the_episodes_of_its_wave_and_the_others_are_what_they_were(
    kind: str, expected: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inject(monkeypatch, tmp_path, {"kind": kind, "seed": SEEDS[3], "step": 3})
    with pool(2, timeout=4.0 if kind == "hang" else 60.0) as workers:
        rollout = run(workers, SEEDS)
        # an exception leaves the process whole
        assert workers.replaced == (kind in ("exit", "hang"))
        again = run(workers, SEEDS[2:4])
    assert list(rollout.broken) == SEEDS[2:4]
    assert CAUSES[kind] in rollout.broken[SEEDS[3]]
    others = [episode for episode in expected.episodes if episode.seed not in rollout.broken]
    assert_same(rollout._replace(broken={}), expected._replace(episodes=others, decisions=27), tolerance=1e-9)
    assert [episode.seed for episode in again.episodes] == SEEDS[2:4]


@pytest.mark.long
def test_an_actor_that_dies_costs_its_episodes_and_is_replaced(
    expected: Rollout, ray_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inject(monkeypatch, tmp_path, {"kind": "exit", "seed": SEEDS[3], "step": 3})
    faults = {**worker_env(), "OTPR_TEST_FAULTS": os.environ["OTPR_TEST_FAULTS"]}
    monkeypatch.setattr(ray_workers, "worker_env", lambda: faults)
    with ray_pool(2) as workers:
        rollout = run(workers, SEEDS)
        assert workers.replaced == 1
        again = run(workers, SEEDS[2:4])
    assert list(rollout.broken) == SEEDS[2:4]
    assert "the worker died" in rollout.broken[SEEDS[3]]
    both = [*again.episodes, *rollout.episodes]
    assert_same(
        Rollout(sorted(both, key=lambda episode: episode.seed), {}, 0, {}),
        expected._replace(decisions=0, sums={}),
    )


@pytest.mark.long
def test_an_actor_that_dies_before_it_has_started_costs_nothing(expected: Rollout, ray_here: None):
    import ray

    with ray_pool(2) as workers:
        # as on a machine that is gone, which Ray notices seconds later
        ray.kill(cast(RayWorker, workers._workers[0])._actor)
        assert_same(run(workers, SEEDS), expected)
        assert workers.replaced == 0


@pytest.mark.long
def test_an_actor_that_never_starts_is_given_up(ray_here: None):
    import ray

    class Gone:
        def __init__(self) -> None:
            os._exit(1)

    starts = 0

    def start() -> Any:
        nonlocal starts
        starts += 1
        return ray.remote(num_cpus=1, max_restarts=0)(Gone).remote()

    worker = RayWorker(ray, start, "point")
    with pytest.raises(BrokenEnvironmentError, match="point: the worker died"):
        worker.run(Shared(0, ray.put(None)), Wave((1,), 0, None))
    assert starts == STARTS


@pytest.mark.long
def test_environments_that_have_never_worked_end_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inject(monkeypatch, tmp_path, *({"kind": "raise", "seed": seed, "step": 1} for seed in SEEDS))
    with pool(2) as workers, pytest.raises(BrokenEnvironmentError, match="robot unplugged"):
        run(workers, SEEDS)


@pytest.mark.long
def test_environments_that_keep_breaking_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inject(monkeypatch, tmp_path, *({"kind": "raise", "seed": seed, "step": 1} for seed in SEEDS[4:]))
    monkeypatch.setattr("otpr.envs.breakages.RESTARTS", 2)
    with pool(1) as workers, pytest.raises(BrokenEnvironmentError, match="broke 3 times within 100 episodes"):
        run(workers, SEEDS)


@pytest.mark.long
def test_a_number_that_is_none_is_told_with_what_replays_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    inject(monkeypatch, tmp_path, {"kind": "nan_observation", "seed": SEEDS[1], "step": 3})
    with pool(2) as workers, pytest.raises(NotFiniteError, match="observation not finite at step 3") as told:
        run(workers, SEEDS)
    assert told.value.name == f"episode-{SEEDS[1]}"
    assert told.value.arrays["actions"].shape == (4, 2)


def test_a_task_that_does_not_exist_is_said_before_any_worker_is_there():
    with pytest.raises(OtprError, match="Unknown task"):
        WorkerPool("metaworld/push", LocalCrew(Setup("metaworld/push"), 1, 1, 1, 60.0), 1, 1)


@pytest.mark.long
def test_what_is_under_way_is_left_when_asked_and_closing_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inject(monkeypatch, tmp_path, {"kind": "hang", "seed": SEEDS[0], "step": 1})
    looks: list[float] = []

    def stop() -> None:
        looks.append(time.monotonic())
        if (tmp_path / "fault-0" / "0").exists():  # it hangs
            raise Abandoned

    with pool(2) as workers:
        with pytest.raises(Abandoned):
            run(workers, SEEDS, on_wait=stop)
        left = time.monotonic()
    assert time.monotonic() - left < 5.0
    assert len(looks) > 1
    workers.close()


# ------------------------------------------------------------------------------------------------ whole runs


def fine_tune(path: Path, workers: Workers, **settings: Any) -> Any:
    return small.fine_tune(path, workers, **settings)


LEARNING = {"env_steps": 144, "warmup_steps": 24, "warmup_updates": 250, "update_ratio": 6.0, "num_envs": 4}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("whole") / "run"
    with pool(1, execute=small.CHUNK) as workers:
        return path, fine_tune(path, workers, **LEARNING)


@pytest.mark.long
def test_a_run_that_learns_is_the_same_with_one_and_with_two_workers(whole: Any, tmp_path: Path):
    with pool(2, execute=small.CHUNK) as workers:
        job = fine_tune(tmp_path / "run", workers, **LEARNING)
    assert job.at.updates > 500
    assert rows(tmp_path / "run") == rows(whole[0])
    assert_same_arrays(arrays(job.agent), arrays(whole[1].agent))
    assert_same_arrays(arrays(job.experience), arrays(whole[1].experience))


def late(path: Path) -> list[tuple[int, int]]:
    found = [row for row in rows(path) if "rollout/rounds_late" in row]
    return [(row["rollout/rounds_late"], row["rollout/updates_late"]) for row in found]


@pytest.mark.long
@pytest.mark.parametrize("most", [1, 2])
def test_asynchronous_rounds_are_late_by_so_many_and_say_so(most: int, whole: Any, tmp_path: Path):
    path = tmp_path / "run"
    with pool(2, execute=small.CHUNK) as workers:
        job = fine_tune(path, workers, **LEARNING, asynchronous=True, most_rounds_late=most)
    assert (job.at.env_steps, job.at.episodes) == (144, 24)
    found = late(path)
    assert [rounds for rounds, _ in found] == [min(number, most) for number in range(6)]
    updates = [row["updates"] for row in rows(path) if "updates" in row]
    assert max(of for _, of in found) > 0
    assert max(updates) == job.at.updates
    # round `number` was asked for by the policy of `most` rounds before
    collected = [row for row in rows(path) if "rollout/rounds_late" in row]
    assert [row["env_steps"] for row in collected] == [24, 48, 72, 96, 120, 144]
    assert late(whole[0]) == []


@pytest.mark.long
def test_an_asynchronous_run_acts_by_the_policy_of_the_round_before(tmp_path: Path):
    """Two rounds: the second is by the first policy, whatever was learnt from the first round."""
    settings = {**LEARNING, "env_steps": 48, "warmup_steps": 24}
    jobs = {}
    for name, more in (
        ("late", {"asynchronous": True}),
        ("still", {"update_ratio": 0.0, "warmup_updates": 0}),
    ):
        with pool(2, execute=small.CHUNK) as workers:
            jobs[name] = fine_tune(tmp_path / name, workers, **{**settings, **more})
    assert jobs["late"].at.updates > jobs["still"].at.updates == 0
    assert_same_arrays(arrays(jobs["late"].experience), arrays(jobs["still"].experience))


@pytest.mark.long
@pytest.mark.parametrize(
    ("algorithm", "workers", "message"),
    [
        ("dppo", pool, "learns from any policy's experience, and dppo does not"),
        ("bc", pool, "learns from any policy's experience, and bc does not"),
        ("idql", None, "--async needs workers"),
    ],
)
def test_asynchrony_is_refused_where_it_cannot_be(
    algorithm: str, workers: Callable[..., Worker] | None, message: str, tmp_path: Path
):
    from otpr.agents import agent_config
    from tiny import sitting

    loop = LoopConfig(env_steps=24, warmup_steps=0, num_envs=4, asynchronous=True)
    env: Any
    if workers is None:
        env = Lockstep(ChunkedVectorEnv(TASK, 4, small.CHUNK, processes=False))
    else:
        env = pool(1, execute=small.CHUNK)
    with env, pytest.raises(OtprError, match=message):
        sitting(
            tmp_path / "run",
            small.BASE,
            small.demonstrations(),
            env,
            agent=agent_config(algorithm),
            loop=loop,
        )


# ------------------------------------------------------------------------------------------------- placement


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Placement(num_workers=0), "num_workers must be at least 1, given 0"),
        (lambda: Placement(rollout="lockstep", num_workers=2), "--num-workers is of --rollout local and ray"),
        (lambda: Placement(address="auto"), "--address is of --rollout ray"),
        (lambda: placed(Placement(num_workers=9)), "--num-workers 9: a round has --num-envs 8 episodes"),
        (lambda: LoopConfig(envs_per_worker=0), "envs_per_worker must be at least 1"),
        (lambda: LoopConfig(most_rounds_late=0), "most_rounds_late must be at least 1"),
    ],
)
def test_bad_placement(make: Callable[[], Any], message: str):
    with pytest.raises(OtprError, match=message):
        make()


def placed(placement: Placement) -> tuple[type, int, int]:
    with placement.workers(Setup(TASK), ACTING.spec, LoopConfig(), ACTING) as workers:
        assert isinstance(workers, WorkerPool)
        return type(workers), len(workers._workers), workers._num_envs


@pytest.mark.long
def test_a_round_is_divided_by_the_workers_there_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("otpr.training.placement.available_cores", lambda: 3)
    assert placed(Placement(rollout="local"))[1:] == (3, 3)
    assert placed(Placement(num_workers=2))[1:] == (2, 4)


@pytest.mark.long
def test_runs_that_nobody_placed_act_where_it_is_faster(monkeypatch: pytest.MonkeyPatch):
    def chosen(**loop: bool) -> type:
        with Placement().workers(Setup(TASK), ACTING.spec, LoopConfig(**loop), ACTING) as workers:
            return type(workers)

    assert chosen() is Lockstep  # on one core, as `one_core` has it
    assert chosen(asynchronous=True) is WorkerPool
    monkeypatch.setattr("otpr.training.placement.available_cores", lambda: 2)
    assert chosen() is WorkerPool
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert chosen() is Lockstep


@pytest.mark.long
def test_weights_that_are_no_numbers_never_reach_an_environment(one: WorkerPool):
    import equinox as eqx

    bad = eqx.tree_at(
        lambda p: p.generator.network.body.mlp.layers[-1].bias, ACTING, replace_fn=lambda b: b * jnp.nan
    )
    with pool(1) as workers, pytest.raises(NotFiniteError, match="the policy's actions are not finite"):
        run(workers, SEEDS[:2], bad)
    assert training_seed(0, 0) >= 0
