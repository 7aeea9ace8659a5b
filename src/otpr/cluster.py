"""Ray, where one machine is not enough: the extra `cluster`, imported only where it is asked for."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import Any

from otpr.errors import OtprError


def load_ray() -> Any:
    """The module `ray`.

    Raises:
        OtprError: it is not installed.
    """
    # Ray reports how it is used to its makers unless it is told not to
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise OtprError("This needs Ray, which is not installed: pip install 'otpr[cluster]'.") from error
    return ray


def import_path() -> dict[str, str]:
    """The environment variable by which Ray's processes find the modules that this one finds.

    Folders that another machine lacks mean nothing there.
    """
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextlib.contextmanager
def connected(address: str, num_cpus: int | None = None) -> Generator[Any]:
    """The module `ray`, connected to a cluster as long as this is entered.

    A process that is connected already stays so.

    Args:
        address: "local" starts Ray on this machine and ends it; "auto" is the cluster of which this machine
            is a part; or `ray://HOST:PORT`, or `HOST:PORT` of a cluster.
        num_cpus: of "local": how many processors it may give away; None: as many as there are.

    Raises:
        OtprError: Ray is not installed, or there is no such cluster.
    """
    ray = load_ray()
    if ray.is_initialized():
        yield ray
        return
    # its one warning at every start is that only this user may send work to it, as it should be
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
    if address == "local":
        settings |= {"include_dashboard": False, "num_cpus": num_cpus}
    try:
        ray.init(**settings)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise OtprError(
            f"There is no Ray cluster at --address {address} ({error}). Start one with `ray start --head`, "
            "or give local."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
