"""Result versions: integers, raised by hand, that decide which runs of a benchmark share a table.

Raise the version of an algorithm when its numbers may change, and that of a simulator when its tasks may. The
fingerprints of `benchmarks.golden` fail a test when an algorithm's numbers change without a raised version.
"""

from __future__ import annotations

from importlib import metadata

from otpr.envs.catalog import SUITES as SIMULATORS

ALGORITHM_VERSIONS = {
    "bc": 1,
    "dawr": 1,
    "dppo": 1,
    "dql": 1,
    "fql": 1,
    "idql": 1,
    "otpr": 1,
    "qc": 1,
    "qsm": 1,
    "rlpd": 1,
}
"""The result version of each algorithm; an algorithm that is not listed has version 1."""

SIMULATOR_VERSIONS = dict.fromkeys(SIMULATORS, 1)
"""The result version of the tasks of each simulator, by the part of a task's name before the slash."""

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "gymnasium", "mujoco")
"""Packages, beside the simulator's own, whose version can change a number. Rows record them."""


def result_version(algorithm: str, task: str) -> str:
    """The result version of a run as `ALGORITHM.TASK`, for example `"2.1"`.

    Args:
        algorithm: name of the algorithm.
        task: name of one of our tasks, `SIMULATOR/TASK`. Benchmarks take no others, because a task of a
            user's own has no scripted expert to make a base policy with.
    """
    simulator = task.partition("/")[0]
    return f"{ALGORITHM_VERSIONS.get(algorithm, 1)}.{SIMULATOR_VERSIONS[simulator]}"


def package_versions(task: str) -> str:
    """The installed packages that can change the numbers of a run, as `"jax 0.7.0, ..., metaworld 3.0.0"`."""
    names = (*PACKAGES, SIMULATORS[task.partition("/")[0]].package)
    return ", ".join(f"{name} {metadata.version(name)}" for name in dict.fromkeys(names))
