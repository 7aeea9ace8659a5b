"""The implementation of a worker: environments with a policy, running whole episodes."""

from __future__ import annotations

import contextlib
import signal
import traceback
from collections.abc import Generator

from otpr.envs import ChunkedVectorEnv, Setup
from otpr.envs.env_process import SLOWER_START, threads
from otpr.envs.worker import what_raised
from otpr.errors import OtprError
from otpr.policies.packed import PackedPolicy, unpack
from otpr.policies.policy import Policy
from otpr.training.compilation import use_compilation_cache
from otpr.training.faults import NotFiniteError
from otpr.training.rollout import Rollout, compile_acting, run_episodes
from otpr.training.workers import Wave


def worker_env() -> dict[str, str]:
    """Environment variables of a worker's process: one thread, and no accelerator, which the learner uses."""
    return {**threads(1), "JAX_PLATFORMS": "cpu"}


class EpisodeRunner:
    """Runs whole episodes of a task with given policies.

    A chunk of actions or a reset that takes too long ends the process by the signal SIGALRM, which the
    waiting process notices. The runner must therefore have its own process.

    Args:
        setup: the task.
        num_envs: number of parallel episodes, whose decisions are made in one call.
        execute: number of actions executed for each decision.
        history: number of observations that a decision sees.
        timeout: seconds that a decision and its `execute` actions in all environments may take;
            `SLOWER_START` times as many to create and reset the environments.
    """

    def __init__(self, setup: Setup, num_envs: int, execute: int, history: int, timeout: float):
        use_compilation_cache()
        self._arguments, self._timeout = (setup, num_envs, execute), timeout
        self._history = history
        self._env: ChunkedVectorEnv | None = None
        self._policy: tuple[int, Policy] | None = None
        with self._watched():
            self._make()

    def _make(self) -> ChunkedVectorEnv:
        if self._env is None:
            self._env = ChunkedVectorEnv(*self._arguments, processes=False, history=self._history)
        return self._env

    def run(self, number: int, policy: PackedPolicy | None, wave: Wave) -> Rollout:
        """Run one whole episode for each seed of the wave; see `run_episodes`.

        An exception of an environment loses all of them, and the environments are recreated.

        Args:
            number: number of the policy. A policy is sent once and afterwards identified by its number.
            policy: the policy; None if it was sent before.
            wave: the episodes.

        Raises:
            NotFiniteError: see `run_episodes`.
        """
        if policy is not None and (self._policy is None or self._policy[0] != number):
            self._policy = number, unpack(policy)
        assert self._policy is not None and self._policy[0] == number
        acting = self._policy[1]
        try:
            with self._watched():
                env = self._make()
            compile_acting(acting, env)
            with self._watched():
                return run_episodes(
                    env,
                    acting,
                    wave.seeds,
                    action_seed=wave.action_seed,
                    on_chunk=self._go_on,
                    delay=wave.delay,
                )
        except NotFiniteError:
            raise
        except OtprError as error:
            return self._lost(wave, str(error))
        except Exception as error:  # noqa: BLE001 - a simulator may raise anything
            traceback.print_exc()
            return self._lost(wave, f"{self._arguments[0].task}: the simulator {what_raised(error)}")

    def _lost(self, wave: Wave, cause: str) -> Rollout:
        """The empty result of a lost wave. The environments, which may be in any state, are recreated."""
        self._give_up()
        return Rollout([], {}, 0, dict.fromkeys(wave.seeds, cause))

    def _give_up(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            with self._watched(), contextlib.suppress(Exception):
                env.close()

    @contextlib.contextmanager
    def _watched(self) -> Generator[None]:
        """A context that ends the process if creation or reset of environments takes too long."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout * SLOWER_START)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _go_on(self) -> None:
        """Restart the timer for the next chunk."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout)
