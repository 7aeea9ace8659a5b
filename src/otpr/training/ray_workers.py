"""Workers that are actors of Ray, on any machine of a cluster."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

from otpr.cluster import import_path
from otpr.envs import BrokenEnvironmentError, Setup
from otpr.errors import OtprError
from otpr.policies.packed import PackedPolicy
from otpr.training.episode_runner import EpisodeRunner, worker_env
from otpr.training.rollout import Rollout
from otpr.training.workers import Wave


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
        return RayWorker(self._ray, self._actor.remote(*self._arguments), self._setup.task)

    def share(self, policy: PackedPolicy) -> Shared:
        """Put the policy into the object store, from which each machine fetches it once."""
        return Shared(next(self._numbers), self._ray.put(policy))

    def close(self) -> None:
        """Nothing is left: the connection is the caller's."""


class RayWorker:
    """An `EpisodeRunner` that is an actor of Ray."""

    def __init__(self, ray: Any, actor: Any, task_id: str):
        self._ray, self._actor, self._task_id = ray, actor, task_id

    def run(self, policy: Shared, wave: Wave) -> Rollout:
        """See `Worker.run`."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(self._actor.run.remote(policy.number, policy.reference, wave))
        except errors.RayTaskError as error:
            if isinstance(error.cause, OtprError):
                raise error.cause from None
            raise
        except errors.RayActorError as error:
            raise BrokenEnvironmentError(f"{self._task_id}: the worker died. {error}") from error

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._ray.kill(self._actor)

    close = kill
