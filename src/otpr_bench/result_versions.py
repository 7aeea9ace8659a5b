"""Result versions: integers, raised by hand, that decide which runs of a benchmark share a table.

Raise the version of an algorithm when its numbers may change, and that of a simulator when its tasks may. The
fingerprints of `benchmarks.golden` fail a test when an algorithm's numbers change without a raised version.
"""

from __future__ import annotations

from importlib import metadata

from otpr.envs.catalog import SUITES as SIMULATORS

_ALGORITHMS: tuple[str, ...] = ("bc", "dawr", "dppo", "dql", "fql", "idql", "otpr", "qc", "qsm", "rlpd")
ALGORITHM_VERSIONS: dict[str, int] = dict.fromkeys(_ALGORITHMS, 1) | {"otpr": 2}
"""The result version of each algorithm. One that is not listed has version 1.

Version 2 of OTPR deploys the most central candidate of the better half, version 1 that of the highest H.
"""

SIMULATOR_VERSIONS = dict.fromkeys(SIMULATORS, 1)
"""The result version of the tasks of each simulator, by the part of a task's name before the slash."""

PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "gymnasium", "mujoco")
"""Packages, beside the simulator's own, whose version can change a number. Rows record them."""


def result_version(algorithm: str, task: str) -> str:
    """The result version of a run as `ALGORITHM.SIMULATOR`, for example `"2.1"`.

    The task is one of ours, `SIMULATOR/TASK`; a user's own has no scripted expert to make a base policy with.
    """
    simulator = task.partition("/")[0]
    return f"{ALGORITHM_VERSIONS.get(algorithm, 1)}.{SIMULATOR_VERSIONS[simulator]}"


def package_versions(task: str) -> str:
    """The installed packages that can change the numbers of a run, as `"jax 0.7.0, ..., metaworld 3.0.0"`."""
    names = (*PACKAGES, SIMULATORS[task.partition("/")[0]].package)
    return ", ".join(f"{name} {metadata.version(name)}" for name in dict.fromkeys(names))
