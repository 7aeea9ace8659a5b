"""What a worker is, wherever it runs: environments, the policy beside them, and whole episodes."""

from __future__ import annotations

import contextlib
import os
import signal
import traceback
from collections.abc import Generator

from otpr.envs import ChunkedVectorEnv, Setup
from otpr.envs.env_process import ONE_THREAD, SLOWER_START
from otpr.envs.worker import what_raised
from otpr.errors import OtprError
from otpr.policies.packed import PackedPolicy, unpack
from otpr.policies.policy import Policy
from otpr.training.compilation import use_compilation_cache
from otpr.training.faults import NotFiniteError
from otpr.training.rollout import Rollout, compile_acting, run_episodes
from otpr.training.workers import Wave


def worker_env() -> dict[str, str]:
    """Environment variables of a worker's process: one thread, and an accelerator is left to the learner."""
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_multi_thread_eigen=false"]
    flags.append("intra_op_parallelism_threads=1")
    return {**ONE_THREAD, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags).strip()}


class EpisodeRunner:
    """Runs whole episodes of a task with the policies that it is given.

    A chunk of actions or a reset that takes too long ends the process, by the signal SIGALRM: whoever waits
    for it sees that it died. So the process must be its own.

    Args:
        setup: the task.
        num_envs: episodes that run side by side, and are decided for in one call.
        execute: actions executed for each decision.
        history: observations that a decision sees.
        timeout: seconds that `execute` actions in all environments may take, and the decision before them;
            `SLOWER_START` times as many to make and reset the environments.
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
        """One whole episode for each seed of the wave; see `run_episodes`.

        What an environment raises costs all of them, and the environments are made anew.

        Args:
            number: of the policy; each is given once, and then known by its number.
            policy: None where it has that number already.
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
        """Nothing of a wave; the environments, which may be in any state, are made anew for the next."""
        self._give_up()
        return Rollout([], {}, 0, dict.fromkeys(wave.seeds, cause))

    def _give_up(self) -> None:
        env, self._env = self._env, None
        if env is not None:
            with self._watched(), contextlib.suppress(Exception):
                env.close()

    @contextlib.contextmanager
    def _watched(self) -> Generator[None]:
        """End the process if this takes longer than environments may take to be made or reset."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout * SLOWER_START)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _go_on(self) -> None:
        """Give the next chunk its time."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout)
