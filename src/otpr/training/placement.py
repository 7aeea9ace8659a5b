"""The placement of a run's episodes: workers on this machine, Ray actors, or lockstep in this process."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from typing import Literal

import jax

from otpr.cluster import connected
from otpr.envs import ChunkedVectorEnv, Setup
from otpr.envs.chunked import available_cores
from otpr.errors import OtprError, check_at_least
from otpr.policies.policy import Policy
from otpr.spec import Spec
from otpr.training.local_workers import LocalCrew
from otpr.training.loop import LoopConfig
from otpr.training.ray_workers import RayCrew
from otpr.training.workers import Lockstep, WorkerPool, Workers


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where episodes run. Their results do not depend on it, except for rounding."""

    # lockstep: simulators in processes, decisions here for all of them at once; local: processes of this
    # machine with the policy within; ray: actors of a Ray cluster (the extra `cluster`). Left out, local, but
    # lockstep on one core, with a GPU that decides, and for a policy that only answers
    rollout: Literal["local", "ray", "lockstep"] | None = None
    # workers that run episodes; left out, one a core of this machine, at most one an episode of a round
    num_workers: int | None = None
    # with --rollout ray: local starts Ray on this machine; auto, ray://HOST:PORT or HOST:PORT is a cluster
    address: str = "local"

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.num_workers is not None:
            check_at_least(1, self, "num_workers")
        if self.rollout == "lockstep" and self.num_workers is not None:
            raise OtprError("--num-workers is of --rollout local and ray; lockstep has one process a core.")
        if self.rollout != "ray" and self.address != "local":
            raise OtprError("--address is of --rollout ray. Give both.")

    def _faster(self, loop: LoopConfig, base: Policy) -> Literal["local", "lockstep"]:
        """The default placement; docs/scale.md has the measurements."""
        if self.num_workers is not None or loop.asynchronous:
            return "local"  # lockstep has neither
        cores_decide = available_cores() > 1 and jax.default_backend() == "cpu"
        return "local" if cores_decide and not base.asks else "lockstep"

    @contextlib.contextmanager
    def workers(self, setup: Setup, spec: Spec, loop: LoopConfig, base: Policy) -> Generator[Workers]:
        """A context with the workers that run the episodes.

        Args:
            setup: the task.
            spec: of the policies that act.
            loop: the loop's settings.
            base: the pre-trained policy.

        Raises:
            OtprError: the policy has to be asked from one process, and workers were wanted; Ray is not
                installed, or cannot be reached; see `ChunkedVectorEnv` as well.
        """
        rollout = self.rollout or self._faster(loop, base)
        if rollout == "lockstep":
            env = ChunkedVectorEnv(
                setup,
                loop.num_envs,
                spec.execute,
                processes=True,
                timeout=loop.env_timeout,
                history=spec.history,
            )
            with Lockstep(env) as lockstep:
                yield lockstep
            return
        if base.asks:
            raise OtprError(
                "A policy that only answers is asked from one process, and workers cannot have it within. "
                "Leave out --num-workers and --async, and --rollout unless it is lockstep."
            )
        if (self.num_workers or 1) > loop.num_envs:
            raise OtprError(
                f"--num-workers {self.num_workers}: a round has --num-envs {loop.num_envs} episodes, too few "
                "for them all. Raise --num-envs, or give fewer workers."
            )
        number = self.num_workers or min(available_cores(), loop.num_envs)
        each = loop.envs_per_worker or -(-loop.num_envs // number)
        arguments = (setup, each, spec.execute, spec.history, loop.env_timeout)
        if rollout == "local":
            with WorkerPool(setup, LocalCrew(*arguments), number, each) as pool:
                yield pool
            return
        with (
            connected(self.address, max(number, available_cores())) as ray,
            WorkerPool(setup, RayCrew(ray, *arguments), number, each) as pool,
        ):
            yield pool
