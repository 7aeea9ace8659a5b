"""Ray, where one machine is not enough: the extra `cluster`, imported only where it is asked for."""

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
    """Refuse to go on without Ray, which is not imported yet.

    Raises:
        OtprError: it is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise OtprError(
            "This needs Ray, which is not installed: pip install 'otpr[cluster]' (docs/scale.md)."
        )


def _ray(local: bool) -> Any:
    """The module, imported only now."""
    check_ray()
    # Ray reports how it is used to its makers unless it is told not to
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:  # nobody but this user may send work to it; read when Ray is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    return ray


def import_path() -> dict[str, str]:
    """The environment variable by which Ray's processes find the modules that this one finds.

    Folders that another machine lacks mean nothing there.
    """
    return {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class Head:
    """A Ray cluster of this machine alone, which ends with the process.

    It is a process of its own because Ray forks as it starts, which a process with JAX's threads must not.

    Args:
        num_cpus: how many processors it may give away; None: as many as there are.
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
        """Where it is reached on this machine."""
        return self._ray.get_runtime_context().gcs_address


_STARTS = 3
"""How often Ray is started before that counts as impossible: on a busy machine it gives up too soon."""

_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}


@contextlib.contextmanager
def connected(address: str, num_cpus: int | None = None) -> Generator[Any]:
    """The module `ray`, connected to a cluster as long as this is entered.

    A process that is connected already stays so.

    Args:
        address: "local" starts Ray on this machine and ends it; "auto" is the cluster of which this machine
            is a part; or `ray://HOST:PORT`, or `HOST:PORT` of a cluster.
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
