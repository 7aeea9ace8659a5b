"""The safeguard: its arithmetic against independent references, and runs whose outcomes are dictated."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from scipy import integrate, stats

from otpr.agents import agent_config
from otpr.envs import ChunkedVectorEnv, Setup
from otpr.errors import OtprError
from otpr.policies.policy import Policy
from otpr.training import finetune, workers
from otpr.training.evaluate import ACTION_SEED
from otpr.training.loop import LoopConfig, Progression
from otpr.training.rollout import Rollout, run_episodes
from otpr.training.run_directory import read_rows
from otpr.training.safeguard import Arm, Evidence, Outcomes
from tiny import (
    AGENT,
    LOOP,
    POLICY,
    TASK,
    assert_same_arrays,
    demonstrations,
    dying_after,
    policy,
    sitting,
    weights,
)

BASE = policy()
SHORT = Setup(TASK, episode_limit=24)


# ---------------------------------------------------------------------------- the evidence


ARMS: list[Arm] = ["learnt", "single"]


@pytest.mark.parametrize("arm", ["learnt", "single"])
@pytest.mark.parametrize(("base", "learnt"), [((3, 7), (8, 2)), ((20, 30), (2, 6)), ((0, 24), (0.7, 4.9))])
def test_better_is_the_integral_over_both_distributions(
    base: tuple[float, float], learnt: tuple[float, float], arm: Arm
):
    a, b = base[0] + 1, base[1] + 1
    c, d = learnt[0] + 2 * a / (a + b), learnt[1] + 2 * b / (a + b)

    def below(x: float) -> float:
        return stats.beta.pdf(x, c, d) * stats.beta.cdf(x, a, b)

    # the density may have a pole at 0, which quadrature must be told of
    expected, _ = integrate.quad(below, 0, 1, points=[1e-9, 1e-6, 1e-3, 0.1], limit=500)
    evidence = dataclasses.replace(Evidence(Outcomes(*base)), **{arm: Outcomes(*learnt)})
    assert evidence.better(arm) == pytest.approx(expected, abs=2e-3)
    assert evidence.better("base", than=arm) == pytest.approx(1 - expected, abs=2e-3)


def test_rounds_are_given_as_likely_as_an_arm_is_the_best():
    evidence = Evidence(Outcomes(8, 12), Outcomes(3, 7))
    share = sum(evidence.drawn(["learnt"], [0, i]) == "learnt" for i in range(4000)) / 4000

    def below(x: float) -> float:
        return stats.beta.pdf(x, 1 + 2 + 3, 1 + 7) * stats.beta.cdf(x, 9, 13)

    expected, _ = integrate.quad(below, 0, 1)
    assert share == pytest.approx(expected, abs=0.025)
    assert share > evidence.better("learnt")  # the benefit of the doubt
    assert evidence.drawn(ARMS, [3, 8]) == evidence.drawn(ARMS, [3, 8])

    # of three, by many draws of the distributions themselves
    evidence = Evidence(Outcomes(8, 12), Outcomes(5, 5), Outcomes(6, 4))
    rate = 9 / 22
    rng = np.random.default_rng(0)
    rates = [
        rng.beta(9, 13, 100_000),
        rng.beta(5 + 3, 5 + 1, 100_000),
        rng.beta(6 + 2 * rate, 4 + 2 * (1 - rate), 100_000),
    ]
    shares = np.bincount(np.argmax(rates, axis=0)) / 100_000
    drawn = [evidence.drawn(ARMS, [0, i]) for i in range(4000)]
    for arm, share in zip(["base", *ARMS], shares, strict=True):
        assert drawn.count(arm) / 4000 == pytest.approx(share, abs=0.025)


def test_an_arm_is_deployed_if_it_is_likely_enough_to_be_better():
    evidence = Evidence(Outcomes(10, 20), Outcomes(6, 2), Outcomes(8, 0))
    assert evidence.better("single") > evidence.better("learnt") > 0.9
    assert evidence.deployed(["learnt"], 0.9, "base") == "learnt"
    assert dataclasses.replace(evidence, single=Outcomes(0, 8)).deployed(ARMS, 0.9, "base") == "learnt"
    assert dataclasses.replace(evidence, learnt=Outcomes(0, 8)).deployed(ARMS, 0.9, "learnt") == "single"
    assert evidence.deployed(ARMS, 0.9999999, "base") == "base"


@pytest.mark.parametrize("now", ["base", "learnt", "single"])
def test_one_sample_takes_the_place_of_the_choice_only_if_it_is_likely_enough_to_be_better_still(now: Arm):
    evidence = Evidence(Outcomes(10, 20), Outcomes(6, 2), Outcomes(8, 0))
    assert 0.85 < evidence.better("single", than="learnt") < 0.9
    assert evidence.deployed(ARMS, 0.85, now) == "single"
    assert evidence.deployed(ARMS, 0.9, now) == "learnt"


def test_what_is_deployed_stays_while_it_is_more_probably_better_than_not():
    doubtful = Evidence(Outcomes(10, 20), Outcomes(5, 5), Outcomes(3, 4))
    assert 0.9 > doubtful.better("learnt") > doubtful.better("single") > 0.5
    assert [doubtful.deployed(ARMS, 0.9, now) for now in ("base", "learnt", "single")] == ["base", *ARMS]
    failed = Evidence(Outcomes(10, 20), Outcomes(1, 6), Outcomes(1, 6))
    assert failed.better("learnt") < 0.5
    assert {failed.deployed(ARMS, 0.9, now) for now in ("base", "learnt", "single")} == {"base"}


def test_what_was_learnt_collects_the_first_rounds_and_leaves_them_where_it_fails():
    def share(evidence: Evidence) -> float:
        return sum(evidence.drawn(ARMS, [0, i]) == "learnt" for i in range(2000)) / 2000

    at_first = Evidence(Outcomes(6, 10))
    assert share(at_first) > 0.7
    failing = at_first
    for _ in range(4):
        failing = failing.after("learnt", [False] * 8)
    assert share(failing) < 0.1


def test_nothing_known_of_what_was_learnt_speaks_neither_for_nor_against_it():
    for base in (Outcomes(1, 30), Outcomes(15, 15), Outcomes(30, 1)):
        assert 0.2 < Evidence(base).better("learnt") < 0.8


def test_outcomes_of_what_was_learnt_fade_and_those_of_the_base_do_not():
    evidence = Evidence().after("base", [True, False]).after("learnt", [True] * 8)
    assert evidence == Evidence(Outcomes(1, 1), Outcomes(8, 0))
    evidence = evidence.after("base", [False]).after("single", [False] * 3).after("learnt", [False])
    assert evidence.base == Outcomes(1, 2)
    assert evidence.learnt == pytest.approx(Outcomes(8 * 0.343, 1))
    assert evidence.single == pytest.approx(Outcomes(0, 3 * 0.7))


# ---------------------------------------------------------------------------- the run


@pytest.fixture(scope="module")
def env() -> Iterator[ChunkedVectorEnv]:
    with ChunkedVectorEnv(SHORT, 4, POLICY["horizon"], processes=False) as env:
        yield env


def dictated(learnt_succeeds: bool) -> Any:
    """Episodes as they are, but with a chooser always a success, or never one, and without half the time."""

    def run(env: ChunkedVectorEnv, acting: Policy, seeds: Sequence[int], **more: Any) -> Rollout:
        rollout = run_episodes(env, acting, seeds, **more)
        if more["action_seed"] == ACTION_SEED:  # an evaluation
            return rollout
        success = [learnt_succeeds if acting.chooser else seed % 2 == 0 for seed in seeds]
        episodes = [
            dataclasses.replace(episode, success=won)
            for episode, won in zip(rollout.episodes, success, strict=True)
        ]
        return rollout._replace(episodes=episodes)

    return mock.patch.object(workers, "run_episodes", run)


def run_guarded(
    path: Path, env: ChunkedVectorEnv, learnt_succeeds: bool, env_steps: int = 2_400, resume: bool = False
) -> finetune.FineTuning:
    loop = LoopConfig(
        **{**LOOP, "env_steps": env_steps, "num_envs": 4, "eval_every": 100_000, "safeguard": 0.9}
    )
    agent = agent_config("otpr", "default", AGENT)
    with dictated(learnt_succeeds):
        return sitting(path, BASE, demonstrations(), env, agent=agent, loop=loop, resume=resume)


@pytest.mark.long
def test_a_policy_that_fails_where_the_base_does_not_is_not_deployed(tmp_path: Path, env: ChunkedVectorEnv):
    job = run_guarded(tmp_path / "run", env, learnt_succeeds=False)
    assert_same_arrays(weights(tmp_path / "run" / "policy"), weights_of(BASE, tmp_path / "base"))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["deployed"] == "pre-trained"
    assert summary["final_success"] == summary["base_success"]
    acts = [
        row["safeguard/learnt_acts"]
        for row in read_rows(tmp_path / "run")
        if "safeguard/learnt_better" in row
    ]
    # it is tried, and then hardly ever again
    assert 0 < sum(acts) < 0.5 * len(acts)
    assert job.at.evidence.better("learnt") < 0.5
    # what was learnt is kept for going on, whatever is deployed
    assert job.at.updates > 1_000


@pytest.mark.long
def test_a_policy_that_succeeds_is_deployed_and_collects(tmp_path: Path, env: ChunkedVectorEnv):
    job = run_guarded(tmp_path / "run", env, learnt_succeeds=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["deployed"] == "fine-tuned"
    assert job.at.evidence.better("learnt") > 0.9
    acts = [
        row["safeguard/learnt_acts"]
        for row in read_rows(tmp_path / "run")
        if "safeguard/learnt_better" in row
    ]
    assert sum(acts[len(acts) // 2 :]) >= 0.7 * len(acts[len(acts) // 2 :])


def weights_of(base: Policy, folder: Path) -> dict[str, Any]:
    base.save(folder, task=TASK)
    return weights(folder)


@pytest.mark.long
def test_a_guarded_run_resumes_bit_for_bit(tmp_path: Path, env: ChunkedVectorEnv):
    whole = run_guarded(tmp_path / "whole", env, learnt_succeeds=True, env_steps=1_000)
    with dying_after("row", 9):
        run_guarded(tmp_path / "run", env, learnt_succeeds=True, env_steps=1_000)
    job = run_guarded(tmp_path / "run", env, learnt_succeeds=True, env_steps=1_000, resume=True)
    assert (job.at.evidence, job.at.guarded) == (whole.at.evidence, whole.at.guarded)
    assert_same_arrays(weights(tmp_path / "run" / "policy"), weights(tmp_path / "whole" / "policy"))


# ---------------------------------------------------------------------------- settings and refusals


def test_a_run_without_it_is_configured_as_before_there_was_one():
    assert "safeguard" not in LoopConfig().record()
    assert LoopConfig(safeguard=0.9).record()["safeguard"] == 0.9
    assert Progression.of({"env_steps": 3}).evidence == Evidence()


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_what_is_no_probability_is_refused(value: float):
    with pytest.raises(OtprError, match="safeguard is a probability"):
        LoopConfig(safeguard=value)


@pytest.mark.parametrize("algorithm", ["dppo", "rlpd"])
def test_algorithms_that_cannot_learn_from_the_base_refuse(
    algorithm: str, tmp_path: Path, env: ChunkedVectorEnv
):
    loop = LoopConfig(**{**LOOP, "num_envs": 4, "safeguard": 0.9})
    with pytest.raises(OtprError, match=f"{algorithm} cannot learn from them"):
        sitting(tmp_path / "run", BASE, demonstrations(), env, agent=agent_config(algorithm), loop=loop)
