"""Workers that are actors of Ray, on any machine of a cluster."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from otpr.cluster import import_path
from otpr.envs import BrokenEnvironmentError, Setup
from otpr.errors import OtprError
from otpr.policies.packed import PackedPolicy
from otpr.training.episode_runner import EpisodeRunner, worker_env
from otpr.training.rollout import Rollout
from otpr.training.workers import Wave

STARTS = 4
"""How often a worker is started that dies before it has started.

Ray notices that a machine is gone seconds later, and until then it may place new actors there.
"""


class Shared(NamedTuple):
    """The number that a policy is known by, and the reference to it in Ray's object store."""

    number: int
    reference: Any


class RayCrew:
    """Makes workers that are Ray actors, each of which asks for one processor.

    Args:
        ray: the module, connected to a cluster.
        setup, num_envs, execute, history, timeout: see `EpisodeRunner`.
    """

    def __init__(self, ray: Any, setup: Setup, num_envs: int, execute: int, history: int, timeout: float):
        self._ray, self._setup = ray, setup
        self._arguments = (setup, num_envs, execute, history, timeout)
        # not restarted by Ray, which would have calls fail for as long as that takes: the pool starts another
        env = {**worker_env(), **import_path()}
        options = {"num_cpus": 1, "max_restarts": 0, "runtime_env": {"env_vars": env}}
        self._actor = ray.remote(**options)(EpisodeRunner)
        self._numbers = itertools.count()

    def hire(self) -> RayWorker:
        """See `Crew.hire`."""
        return RayWorker(self._ray, lambda: self._actor.remote(*self._arguments), self._setup.task)

    def share(self, policy: PackedPolicy) -> Shared:
        """Put the policy into the object store, from which each machine fetches it once."""
        return Shared(next(self._numbers), self._ray.put(policy))

    def close(self) -> None:
        """Nothing is left: the connection is the caller's."""


class RayWorker:
    """An `EpisodeRunner` that is an actor of Ray."""

    def __init__(self, ray: Any, start: Callable[[], Any], task_id: str):
        self._ray, self._start, self._task_id = ray, start, task_id
        self._actor, self._has_started = start(), False
        self._lock, self._killed = threading.Lock(), False

    def run(self, policy: Shared, wave: Wave) -> Rollout:
        """See `Worker.run`."""
        errors = self._ray.exceptions
        try:
            self._wait_for_start()
            return self._ray.get(self._actor.run.remote(policy.number, policy.reference, wave))
        except errors.RayTaskError as error:
            if isinstance(error.cause, OtprError):
                raise error.cause from None
            raise
        except errors.RayActorError as error:
            raise BrokenEnvironmentError(f"{self._task_id}: the worker died. {error}") from error

    def _wait_for_start(self) -> None:
        """Wait until the actor has started; an actor that dies before, without an error, is started again."""
        for left in reversed(range(0 if self._has_started else STARTS)):
            try:
                self._ray.get(self._actor.__ray_ready__.remote())
                self._has_started = True
                return
            except self._ray.exceptions.RayActorError as error:
                with self._lock:
                    if self._killed or error.actor_init_failed or not left:
                        raise
                    self._actor = self._start()

    def kill(self) -> None:
        """See `Worker.kill`."""
        with self._lock:
            self._killed = True
            self._ray.kill(self._actor)

    close = kill
