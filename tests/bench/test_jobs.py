from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from otpr.errors import OtprError
from otpr_bench.bases import Base
from otpr_bench.jobs import Job, Variant, make_jobs, parse_seeds, parse_variants
from otpr_bench.suites import BenchTask, Budget, Recipe, named_suite, open_suite

PEG = "metaworld/peg-insert-side-v3"
BASE = Base(PEG, Path("/data"), Path("/policy"), 0.3, 100, 4, 0.3, "b" * 12)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0..4", (0, 1, 2, 3, 4)), ("3", (3,)), ("7..7", (7,)), ("5,0..1, 5", (0, 1, 5))],
)
def test_seeds(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4..0", "the range 4..0 is empty"),
        ("", "takes 0..4, or 0,2,5; given ''"),
        ("0..", "given '0..'"),
        ("0-4", "given '0-4'"),
        ("-1", "given '-1'"),
        ("1,,2", "given '1,,2'"),
        ("a", "given 'a'"),
        ("0..99999", "given '0..99999'"),
    ],
)
def test_bad_seeds(text, message):
    with pytest.raises(OtprError, match=message):
        parse_seeds(text)


def test_methods():
    methods = parse_variants("otpr, otpr:paper,otpr:default:epsilon=0.1:candidates=1")
    assert methods == (
        Variant("otpr"),
        Variant("otpr", "paper"),
        Variant("otpr", "default", ("epsilon=0.1", "candidates=1")),
    )
    assert [str(method) for method in methods] == [
        "otpr",
        "otpr:paper",
        "otpr:default:epsilon=0.1:candidates=1",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names none"),
        ("otpt", "algorithm 'otpt'.*'otpr'"),
        ("otpr:papr", "'papr'.*'paper'"),
        ("otpr,otpr", "names 'otpr' twice"),
        ("otpr,otpr:default", "names 'otpr:default' twice"),
        ("otpr:default:epsilom=1", "'epsilom'.*'epsilon'"),
        ("otpr:default:epsilon", "field=value"),
        ("otpr:default:epsilon=lots", "float"),
    ],
)
def test_bad_methods(text, message):
    with pytest.raises(OtprError, match=message):
        parse_variants(text)


def job(**changes: object) -> Job:
    suite = open_suite([PEG], Recipe(), Budget())
    (plain,) = make_jobs(suite, [Variant("otpr")], [0])
    return dataclasses.replace(plain, **changes)


def test_runs_that_differ_in_anything_have_keys_and_folders_of_their_own():
    budget = dataclasses.replace(job().task, budget=Budget(env_steps=60_000))
    jobs = [
        job(),
        job(seed=1),
        job(result_version="2"),
        job(variant=Variant("otpr", "paper")),
        job(variant=Variant("otpr", "default", ("epsilon=0.1",))),
        job(task=budget),
    ]
    others = [dataclasses.replace(BASE, hash="a" * 12)] + [BASE] * len(jobs)
    pairs = list(zip([job(), *jobs], others, strict=True))
    assert len({each.key(base) for each, base in pairs}) == len(pairs)
    assert len({each.directory(Path("bench"), base) for each, base in pairs}) == len(pairs)


def test_the_command_of_a_run():
    command = job(seed=3, variant=Variant("otpr", "paper", ("epsilon=0.1",))).arguments(Path("run"), BASE)
    assert " ".join(command) == (
        "finetune --policy /policy --data /data --run-dir run --seed 3 --preset paper --algorithm otpr "
        f"--task {PEG} --env-steps 50000 --warmup-steps 2000 --num-envs 8 --eval-every 10000 "
        "--eval-episodes 30 --final-eval-episodes 100 --checkpoint-every 10000 --single end "
        "--no-video --no-base-evaluation --set epsilon=0.1"
    )


def test_an_episode_limit_is_that_of_the_runs_too():
    limited = BenchTask(PEG, Recipe(10, noise=0.7, episode_limit=150), Budget())
    assert "--episode-limit 150" in " ".join(job(task=limited).arguments(Path("run"), BASE))


def test_a_method_that_does_not_learn_is_the_evaluation_of_its_base():
    assert "--no-base-evaluation" not in job(variant=Variant("bc")).arguments(Path("run"), BASE)


def test_few_steps_have_a_shorter_warm_up():
    assert Budget(env_steps=1000).warmup_steps == 200


# ----------------------------------------------------------------------------------------------------- suites


def test_the_arena():
    arena = named_suite("arena-6")
    assert [task.id for task in arena.tasks] == [
        "metaworld/assembly-v3",
        "metaworld/peg-insert-side-v3",
        "metaworld/box-close-v3",
        "ogbench/cube-double-task2",
        "robosuite/can",
        "robosuite/square",
    ]
    for task in arena.tasks:
        budget = task.budget
        slow = task.id.startswith("robosuite")
        assert (budget.env_steps, budget.final_eval_episodes) == ((20_000, 50) if slow else (50_000, 100))
        assert budget.steps_between_evaluations * 5 == budget.env_steps
        assert task.recipe.base_episodes == 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: named_suite("arena-7"), "suite 'arena-7'.*'arena-6'"),
        (lambda: open_suite([], Recipe(), Budget()), "needs tasks: --tasks"),
        (lambda: open_suite(["metaworld/reech-v3"], Recipe(), Budget()), "'metaworld/reach-v3'"),
        (lambda: open_suite([PEG, PEG], Recipe(), Budget()), "given twice"),
        (lambda: open_suite(["adroit/pen"], Recipe(), Budget()), "no scripted expert"),
        (lambda: Recipe(demonstrations=0), "demonstrations must be at least 1"),
        (lambda: Recipe(noise=float("nan")), "noise must be at least 0"),
        (lambda: Budget(env_steps=0), "env_steps must be at least 1"),
    ],
)
def test_bad_suites(make, message):
    with pytest.raises(OtprError, match=message):
        make()
