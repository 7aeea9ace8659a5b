"""External base policies: a server, or a user's object."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from otpr.cli.serve import KEY
from otpr.data.episodes import Episode
from otpr.envs import Setup, task_spec
from otpr.envs.user_env import load_object
from otpr.errors import OtprError
from otpr.policies.asked import Asked, Desk, Source
from otpr.policies.encoder import VectorEncoder
from otpr.policies.policy import Policy
from otpr.spec import Spec, zeros
from otpr.training.imitation import vectors_of

TIMEOUT = 30.0
"""Default time limit of an answer, in seconds."""


def is_asked(policy: str) -> bool:
    """Whether a name is that of an external policy: `ws://HOST:PORT` or `module:factory`, and no folder."""
    return policy.startswith(("ws://", "wss://")) or (":" in policy and not Path(policy).exists())


class Offer(NamedTuple):
    """A source of plans and its metadata.

    Attributes:
        source: the source.
        name: the name given by the user.
        spec: its spec, if it states one.
        plan: its history, horizon and execute, if it states no spec; a horizon of None is determined by a
            request.
        task: the task that it was trained on, if known.
        view: its view of the task.
        checksum: checksum of the policy, if known.
    """

    source: Source
    name: str
    spec: Spec | None = None
    plan: tuple[int, int | None, int | None] = (1, None, None)
    task: str | None = None
    view: dict[str, Any] | None = None
    checksum: str | None = None


def open_offer(name: str, timeout: float) -> Offer:
    """Open the source with a name.

    Args:
        name: `ws://HOST:PORT`, or `module:factory` of an object with `propose(observations, n, seed)`.
        timeout: time limit of an answer, in seconds.

    Raises:
        OtprError: there is no server or no such object.
    """
    if name.startswith(("ws://", "wss://")):
        from otpr.serving.client import Remote

        remote = Remote(name, timeout, os.environ.get(KEY))
        task, view, checksum = (remote.metadata.get(key) for key in ("task", "view", "checksum"))
        return Offer(remote, name, remote.spec, task=task, view=view, checksum=checksum)
    made = load_object(name, "policy")()
    if not callable(getattr(made, "propose", None)):
        raise OtprError(f"{name} makes a {type(made).__name__}; expected an object with propose().")
    plan = (getattr(made, "history", 1), getattr(made, "horizon", None), getattr(made, "execute", None))
    for part, value in zip(("history", "horizon", "execute"), plan, strict=True):
        if not (value is None and part == "execute") and not (type(value) is int and value >= 1):
            raise OtprError(f"{name}: {part} is {value!r}; expected a whole number of at least 1.")
    return Offer(Local(made, timeout), name, plan=plan)


class Local:
    """A user's object, called in a separate thread with a time limit.

    Args:
        source: the object, with `propose(observations, n, seed)`: all decisions at once, with one seed.
        timeout: time limit of a call, in seconds.
    """

    def __init__(self, source: Any, timeout: float):
        self._source, self._timeout = source, timeout
        self._thread: threading.Thread | None = None

    def propose(self, observations: Mapping[str, np.ndarray], n: int, seeds: Sequence[int]) -> Any:
        """See `Source.propose`.

        Raises:
            TimeoutError: the call takes too long, or an earlier call is still running.
            Exception: the object raises it.
        """
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(self._timeout)
            if self._thread.is_alive():
                raise TimeoutError("it is still at an earlier request")
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(self._source.propose(observations, n, seeds[0]))
            except BaseException as error:  # noqa: BLE001 - `result` raises it
                future.set_exception(error)

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()
        try:
            return future.result(self._timeout)
        except TimeoutError as error:
            if future.done():  # raised by the object itself
                raise
            raise TimeoutError(f"it took more than {self._timeout:g} seconds") from error


def asked_setup(offer: Offer, task: str | None, episode_limit: int | None) -> Setup:
    """The setup of the task that the policy acts in.

    Raises:
        OtprError: neither the user nor the policy names a task.
    """
    named = task or offer.task
    if named is None:
        raise OtprError(f"{offer.name} does not say which task it is for. Name it with --task.")
    return Setup(named, episode_limit).viewing(offer.view)


def asked_policy(offer: Offer, setup: Setup, episodes: list[Episode], execute: int | None) -> Policy:
    """The base policy that represents the source. Its encoder normalises by the demonstrations.

    Args:
        offer: the source.
        setup: the task.
        episodes: the demonstrations.
        execute: number of executed actions of each plan; None: as the source states, otherwise all.

    Raises:
        OtprError: the source does not fit the task, or the task has images.
    """
    known = task_spec(setup)
    if known.spec.images:
        raise OtprError(
            f"{setup.task} shows images, and critics beside a policy that only answers see vectors alone. "
            "Set the task up without cameras."
        )
    if offer.spec is not None:
        spec = offer.spec
        hint = "Give the task that the policy was trained on with --task."
        spec.of_task().check(known.spec, f"the policy at {offer.name}", setup.task, hint)
    else:
        history, horizon, said = offer.plan
        if horizon is None:
            horizon = _asked_length(offer, known.spec)
        spec = Spec(
            known.spec.observation,
            known.spec.action_low,
            known.spec.action_high,
            known.spec.control_rate,
            history,
            horizon,
            said or horizon,
        )
    encoder = VectorEncoder.fit(spec, vectors_of(episodes, spec), known.resolution)
    base = Policy(encoder, Asked(Desk(offer.source, spec, offer.name)), None, spec)
    return base if execute is None else base.executing(execute)


def answering(policy: Policy, offer: Offer) -> Policy:
    """A policy that chooses among plans, connected to the source that offers them.

    Raises:
        OtprError: the source does not fit the policy.
    """
    if offer.spec is not None:
        found = dataclasses.replace(offer.spec, execute=policy.spec.execute)
        hint = "Give the policy that it was fine-tuned with."
        found.check(policy.spec, f"the policy at {offer.name}", "the policy that chooses", hint)
    return policy.with_generator(Asked(Desk(offer.source, policy.spec, offer.name)))


def _asked_length(offer: Offer, spec: Spec) -> int:
    """The horizon of a source that does not state it, determined by a request."""
    try:
        shape = np.shape(offer.source.propose(zeros(spec.observation, 1), 1, [0]))
    except Exception as error:  # user code may raise anything
        raise OtprError(f"{offer.name} gave no plan ({type(error).__name__}: {error}).") from error
    if len(shape) != 4:
        raise OtprError(f"{offer.name} answers arrays of shape {shape[2:]}; expected (horizon, action_dim).")
    return shape[2]
