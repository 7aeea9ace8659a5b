"""Execution of whole episodes: environments in lockstep, or workers that contain the policy."""

from __future__ import annotations

import abc
import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Protocol, Self

from otpr.data.episodes import Episode
from otpr.envs import BrokenEnvironmentError, ChunkedVectorEnv, Setup, task_spec
from otpr.envs.breakages import Breakages
from otpr.policies.packed import PackedPolicy, pack
from otpr.policies.policy import Policy
from otpr.training.rollout import Delay, Rollout, compile_acting, run_episodes

_LOOK = 0.1
"""Seconds between two checks for a stop while workers run."""

OnWave = Callable[[int], None]
OnWait = Callable[[], None]


class Pending(Protocol):
    """Requested episodes."""

    def result(self, *, on_wave: OnWave | None = None, on_wait: OnWait | None = None) -> Rollout:
        """Wait for the episodes.

        Args:
            on_wave: called with the number of episodes finished since the last call.
            on_wait: called repeatedly while they run; an exception stops the wait but not the episodes.

        Raises:
            NotFiniteError, BrokenEnvironmentError: see `run_episodes`.
        """
        ...


class Workers(abc.ABC):
    """Runs episodes of one task. Close it when done, or use it in a `with` statement.

    Attributes:
        setup: the task's setup.
        spec: the task's spec.
        episode_limit: steps after which an episode is truncated.
        ahead: whether episodes run in parallel to this process.
    """

    ahead: bool

    def __init__(self, task: str | Setup):
        known = task_spec(task)
        self.setup, self.spec = known.setup, known.spec
        self.episode_limit = known.required_limit()

    @property
    def task_id(self) -> str:
        """The task's name."""
        return self.setup.task

    def prepare(self, policy: Policy) -> None:  # noqa: B027 - most have nothing to do
        """Compile the programs that this process needs for a policy."""

    @abc.abstractmethod
    def start(
        self, policy: Policy, seeds: Sequence[int], *, action_seed: int, delay: Delay | None = None
    ) -> Pending:
        """Request one whole episode for each seed; see `run_episodes`.

        They run immediately or when they are waited for.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """End all workers; may be called repeatedly."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Lockstep(Workers):
    """Makes the decisions of all environments at once in this process; environments run in lockstep.

    Used for external policies, for policies on an accelerator, and on one core.

    Args:
        env: the environments.
    """

    ahead = False

    def __init__(self, env: ChunkedVectorEnv):
        super().__init__(env.setup)
        self._env = env

    def prepare(self, policy: Policy) -> None:
        """See `Workers.prepare`."""
        compile_acting(policy, self._env)

    def start(
        self, policy: Policy, seeds: Sequence[int], *, action_seed: int, delay: Delay | None = None
    ) -> Pending:
        """See `Workers.start`; they run when they are waited for."""
        return _WhenWaitedFor(self._env, policy, seeds, action_seed, delay)

    def close(self) -> None:
        """Close the environments."""
        self._env.close()


class _WhenWaitedFor(NamedTuple):
    env: ChunkedVectorEnv
    policy: Policy
    seeds: Sequence[int]
    action_seed: int
    delay: Delay | None

    def result(self, *, on_wave: OnWave | None = None, on_wait: OnWait | None = None) -> Rollout:
        return run_episodes(
            self.env,
            self.policy,
            self.seeds,
            action_seed=self.action_seed,
            on_wave=on_wave,
            on_chunk=on_wait,
            delay=self.delay,
        )


# ------------------------------------------------------------------------------------------------- the pool


class Wave(NamedTuple):
    """Episodes that a worker runs in parallel."""

    seeds: tuple[int, ...]
    action_seed: int
    delay: Delay | None


class Worker(Protocol):
    """A worker of a pool: an `EpisodeRunner` in another process."""

    def run(self, policy: Any, wave: Wave) -> Rollout:
        """Run the episodes; the policy as `Crew.share` gave it.

        Raises:
            BrokenEnvironmentError: the worker died, and its episodes with it.
            OtprError: what `EpisodeRunner.run` raises.
        """
        ...

    def kill(self) -> None:
        """Kill the worker; a pending `run` raises."""
        ...

    def close(self) -> None:
        """End an idle worker."""
        ...


class Crew(Protocol):
    """Makes workers of one kind, and passes policies to them."""

    def hire(self) -> Worker:
        """Start a worker, which may not be ready before its first `run`."""
        ...

    def share(self, policy: PackedPolicy) -> Any:
        """The form in which workers receive a policy."""
        ...

    def close(self) -> None:
        """Release shared resources."""
        ...


class WorkerPool(Workers):
    """Workers that contain the policy and run whole episodes independently.

    The seeds are divided in order into waves, one seed for each environment of a worker, and each wave goes
    to the next free worker. The randomness of an episode only depends on its seed, and a worker decides for
    all its environments in one call, so episodes are bitwise equal for any assignment and number of workers.
    The number of environments of a worker may affect rounding.

    If a worker dies, the episodes of its wave are lost and another worker replaces it. Too many failures
    (`Breakages`), or one of every worker before any success, end the run.

    Args:
        task: the task.
        crew: makes the workers.
        num_workers: number of workers, >= 1.
        num_envs: number of environments of each, >= 1.
    """

    ahead = True

    def __init__(self, task: str | Setup, crew: Crew, num_workers: int, num_envs: int):
        super().__init__(task)
        self._crew, self._num_envs = crew, num_envs
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="worker")
        self._workers = [crew.hire() for _ in range(num_workers)]
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(num_workers):
            self._idle.put(number)
        self._lock, self._closed = threading.Lock(), False
        self._breakages, self._started = Breakages(self.task_id), 0
        self._has_worked, self._broke_first = False, 0
        self.replaced = 0
        """Number of workers that died and were replaced."""

    def start(
        self, policy: Policy, seeds: Sequence[int], *, action_seed: int, delay: Delay | None = None
    ) -> Pending:
        """See `Workers.start`; they run at once, after those that were asked for before."""
        shared = self._crew.share(pack(policy))
        n = self._num_envs
        waves = [Wave(tuple(seeds[i : i + n]), action_seed, delay) for i in range(0, len(seeds), n)]
        return _Waves([self._threads.submit(self._run, shared, wave) for wave in waves])

    def _run(self, shared: Any, wave: Wave) -> Rollout:
        """Let a worker run a wave; if it fails, its episodes are lost."""
        number = self._idle.get()
        try:
            with self._lock:
                self._started += len(wave.seeds)
            try:
                rollout = self._workers[number].run(shared, wave)
            except BrokenEnvironmentError as error:
                rollout = Rollout([], {}, 0, dict.fromkeys(wave.seeds, str(error)))
                self._replace(number)
            self._count(rollout)
            return rollout
        finally:
            self._idle.put(number)

    def _replace(self, number: int) -> None:
        self._workers[number].kill()
        with self._lock:
            if not self._closed:
                self._workers[number] = self._crew.hire()
                self.replaced += 1

    def _count(self, rollout: Rollout) -> None:
        """Give up if environments fail too often or never worked."""
        with self._lock:
            if rollout.episodes:
                self._has_worked = True
            if not rollout.broken or self._closed:
                return
            cause = next(iter(rollout.broken.values()))
            self._broke_first += 1
            if not self._has_worked and self._broke_first >= len(self._workers):
                raise BrokenEnvironmentError(cause)
            self._breakages.add(self._started, cause)

    def close(self) -> None:
        """End the workers, whatever they are doing; may be called repeatedly."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        busy = set(range(len(self._workers)))
        with contextlib.suppress(queue.Empty):
            while True:
                busy.discard(number := self._idle.get_nowait())
                self._workers[number].close()
        for number in busy:
            self._workers[number].kill()
        self._threads.shutdown(wait=True)
        self._crew.close()


class _Waves:
    def __init__(self, futures: list[Future[Rollout]]):
        self._futures = futures

    def result(self, *, on_wave: OnWave | None = None, on_wait: OnWait | None = None) -> Rollout:
        episodes: list[Episode] = []
        broken: dict[int, str] = {}
        sums: Counter[str] = Counter()
        decisions = 0
        try:
            for future in self._futures:
                while not wait([future], timeout=_LOOK).done:
                    if on_wait is not None:
                        on_wait()
                wave = future.result()
                episodes += wave.episodes
                broken |= wave.broken
                # in the order of the seeds, because sums of floats depend on the order
                sums.update(wave.sums)
                decisions += wave.decisions
                if on_wave is not None:
                    on_wave(len(wave.episodes))
        except BaseException:
            for future in self._futures:
                future.cancel()
            raise
        return Rollout(episodes, sums, decisions, broken)
