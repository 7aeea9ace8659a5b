"""Ray clusters, for runs on more than one machine. The extra `cluster` is imported only when needed."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Generator
from typing import Any

from otpr.envs.served import ServedProcess
from otpr.errors import OtprError


def check_ray() -> None:
    """Check that Ray is installed, without importing it.

    Raises:
        OtprError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise OtprError(
            "This needs Ray, which is not installed: pip install 'otpr[cluster]' (docs/scale.md)."
        )


def _ray(local: bool) -> Any:
    """Import Ray and return the module."""
    check_ray()
    # Ray sends usage statistics to its developers unless this is set
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # nobody but this user may send work to it; read when Ray is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    return ray


def import_path() -> dict[str, str]:
    """The environment variable that gives Ray's processes the import path of this process.

    A machine ignores the folders that it does not have.
    """
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Head:
    """A Ray cluster on this machine alone. It ends with the process.

    It runs in a separate process, because Ray forks when it starts and a process with JAX's threads must not
    fork.

    Args:
        num_cpus: how many processors Ray may assign to tasks; None: all of the machine's.
    """

    def __init__(self, num_cpus: int | None):
        self._ray = _ray(local=True)
        for left in reversed(range(_STARTS)):
            try:
                self._ray.init("local", num_cpus=num_cpus, include_dashboard=False, **_QUIET)
                return
            except Exception:
                if not left:
                    raise
                self._ray.shutdown()

    def address(self) -> str:
        """The cluster's address on this machine."""
        return self._ray.get_runtime_context().gcs_address


_STARTS = 3
"""How often to try to start Ray: on a busy machine Ray itself gives up too soon."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}


@contextlib.contextmanager
def connected(address: str, num_cpus: int | None = None) -> Generator[Any]:
    """Connect to a cluster for the duration of the context, and give the module `ray`.

    A connection that exists already is kept.

    Args:
        address: "local" starts Ray on this machine and stops it at the end; "auto" connects to the cluster
            that this machine is part of; `ray://HOST:PORT` and `HOST:PORT` name a cluster.
        num_cpus: see `Head`.

    Raises:
        OtprError: Ray is not installed or does not start, or there is no such cluster.
    """
    ray = _ray(local=address == "local")
    if ray.is_initialized():
        yield ray
        return
    with contextlib.ExitStack() as stack:
        if address == "local":
            head = ServedProcess(
                "otpr.cluster:Head", (num_cpus,), task_id="--address local", who="Ray's head", env={}
            )
            stack.callback(head.close)
            head.send("address")
            address = head.receive()
        try:
            ray.init(address, **_QUIET)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise OtprError(
                f"There is no Ray cluster at --address {address} ({error}). Start one with `ray start "
                "--head`, or give local."
            ) from error
        stack.callback(ray.shutdown)
        yield ray
