"""The numbers of every algorithm are those of its result version, as `benchmarks.golden` compares them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import golden
from otpr.agents import algorithm_names
from otpr.envs import list_tasks
from otpr_bench.result_versions import ALGORITHM_VERSIONS, package_versions, result_version

pytestmark = pytest.mark.long

NUMBERS = {"actions": [0.5, -0.25], "policy": [0.1], "critics": []}


@pytest.mark.long
@pytest.mark.parametrize("algorithm", algorithm_names())
def test_an_algorithm_has_the_numbers_of_its_result_version(algorithm: str):
    file = golden.FOLDER / f"{algorithm}.json"
    wrong = golden.check(file, golden.fingerprint(algorithm), ALGORITHM_VERSIONS[algorithm])
    assert not wrong, wrong


def test_a_changed_weight_of_one_loss_moves_the_numbers():
    stored = json.loads((golden.FOLDER / "dql.json").read_text())["numbers"]
    assert "policy" in golden.moved(stored, golden.fingerprint("dql", ["eta=0.9"]))


def test_every_algorithm_and_every_task_has_a_result_version():
    assert set(ALGORITHM_VERSIONS) == set(algorithm_names())
    assert {result_version("otpr", spec.id) for spec in list_tasks() if "/" in spec.id} == {"2.1"}
    assert result_version("an algorithm of your own", "robosuite/can") == "1.1"


def test_packages_are_named_with_their_versions():
    found = dict(part.split() for part in package_versions("metaworld/reach-v3").split(", "))
    assert {"jax", "numpy", "mujoco", "metaworld"} <= set(found)
    assert "metaworld" not in package_versions("fetch/push")


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({}, []),
        ({"actions": [0.5001, -0.25]}, []),
        ({"actions": [0.51, -0.25]}, ["actions"]),
        ({"policy": [0.1, 0.2], "critics": [0.0]}, ["critics", "policy"]),
        ({"actions": [float("nan"), -0.25]}, ["actions"]),
    ],
)
def test_numbers_are_compared_to_a_tolerance(changed: dict, names: list[str]):
    assert golden.moved(NUMBERS, NUMBERS | changed) == names


def test_changed_numbers_are_written_only_under_a_raised_version(tmp_path: Path):
    file, changed = tmp_path / "golden" / "dql.json", NUMBERS | {"policy": [0.3]}
    assert "There is no fingerprint of dql: write it with" in golden.check(file, NUMBERS, 1)
    assert golden.renew(file, NUMBERS, 1) == ""
    assert golden.check(file, NUMBERS, 1) == ""
    before = file.read_text()
    refused = golden.renew(file, changed, 1)
    assert "The numbers of dql moved (policy), and its result version is still 1" in refused
    assert "raise it in otpr_bench/result_versions.py" in refused
    assert file.read_text() == before
    assert "is of result version 1, and the present version is 2" in golden.check(file, changed, 2)
    assert golden.renew(file, changed, 2) == ""
    assert golden.check(file, changed, 2) == ""
    # a version that was lowered again writes nothing either
    assert golden.renew(file, NUMBERS, 1) != ""
    assert golden.check(file, changed, 2) == ""
