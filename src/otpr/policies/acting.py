"""Input checks, seeds and the time budget of `Policy.act`."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from otpr.errors import OtprError
from otpr.spec import Spec

if TYPE_CHECKING:
    from otpr.policies.choosers import Chooser
    from otpr.policies.encoder import Observations
    from otpr.policies.policy import Policy
    from otpr.policies.prefix import Prefix
    from otpr.policies.proposer import Proposer

SLICE = 4
"""Candidates drawn between two checks of the clock."""

Observation = dict[str, np.ndarray]
"""The last observations of one decision by entry name, (history, *shape)."""


def checked_observation(observation: Any, spec: Spec) -> Observation:
    """The observation as the policy takes it, with an axis for `history`.

    Raises:
        ValueError: entries or shapes differ from the spec's, an entry is not numeric or not finite, or an
            image is not uint8.
    """
    expected = ", ".join(map(repr, spec.observation))
    if not isinstance(observation, Mapping):
        if spec.only_vector is None:
            raise ValueError(
                f"observation must be a dictionary with the entries {expected}, given "
                f"{type(observation).__name__}."
            )
        observation = {spec.only_vector: observation}
    given = cast(Mapping[str, Any], observation)
    if sorted(given) != sorted(spec.observation):
        found = ", ".join(map(repr, sorted(given))) or "none"
        raise ValueError(f"observation has the entries {found}, the policy expects {expected}.")
    return {name: _checked_entry(name, given[name], spec) for name in spec.observation}


def _checked_entry(name: str, value: Any, spec: Spec) -> np.ndarray:
    entry = spec.observation[name]
    called = "observation" if spec.only_vector else f"observation entry {name!r}"
    if entry.kind == "image":
        array = np.asarray(value)
        if array.dtype != np.uint8:
            raise ValueError(f"{called} is {array.dtype}, the policy expects uint8, as of every image.")
    else:
        try:
            with np.errstate(over="ignore"):  # overflow is reported below
                array = np.asarray(value, entry.dtype)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{called} is no array of numbers ({error}); the policy expects {entry}."
            ) from error
    shape = entry.shape if spec.history == 1 else (spec.history, *entry.shape)
    if array.shape != shape:
        more = f" (the last {spec.history} observations, oldest first)" if spec.history > 1 else ""
        raise ValueError(f"{called} has shape {array.shape}, the policy expects {shape}{more}.")
    if not np.isfinite(array).all():
        where = np.argwhere(~np.isfinite(array)).tolist()
        indices = [index for (index,) in where] if array.ndim == 1 else where
        raise ValueError(f"{called} is not finite at indices {indices}.")
    return array.reshape(spec.history, *entry.shape)


def recent(seen: Sequence[Any], history: int) -> Any:
    """The part of an episode that a decision sees, as `Policy.act` takes it.

    Args:
        seen: the episode's observations so far as the environment gave them, arrays or dictionaries.
        history: number of observations that the policy sees.

    Returns:
        With `history` 1, the last observation. Otherwise the last observations, stacked entry by entry,
        oldest first; at the start of an episode, its first observation is repeated.
    """
    if history == 1:
        return seen[-1]
    last = [seen[max(len(seen) - 1 - i, 0)] for i in reversed(range(history))]
    return jax.tree.map(_stacked, *last)


def _stacked(*entries: np.ndarray) -> np.ndarray:
    return np.stack(entries)


def checked_actions(actions: np.ndarray) -> np.ndarray:
    """Check that actions are finite, and return them unchanged.

    Raises:
        OtprError: an action is not finite. Observations are checked before, so the weights must be the cause.
    """
    if not np.isfinite(actions).all():
        raise OtprError("The policy's actions are not finite: its weights hold NaN or infinity.")
    return actions


def act_key(seed: int) -> PRNGKeyArray:
    """The key of a draw, from all bits of the seed.

    Raises:
        ValueError: the seed is negative or not a whole number.
    """
    try:
        rest = operator.index(seed)
    except TypeError as error:
        raise ValueError(f"seed must be a whole number, given {seed!r}.") from error
    if rest < 0:
        raise ValueError(f"seed must not be negative, given {seed}.")
    key = jax.random.key(np.uint32(rest & 0xFFFFFFFF))
    while rest := rest >> 32:
        key = jax.random.fold_in(key, np.uint32(rest & 0xFFFFFFFF))
    return key


def host_seeds(keys: PRNGKeyArray) -> list[int]:
    """Seeds in [0, 2**32) for draws on the host, one for each key."""
    return np.asarray(jax.vmap(jax.random.bits)(keys)).tolist()


def act_within(
    policy: Policy,
    observation: Observation,
    key: PRNGKeyArray,
    seconds: float,
    prefix: Prefix | None = None,
    proposer: Proposer | None = None,
) -> np.ndarray:
    """Choose a plan among as many candidates as the time allows, drawn `SLICE` at a time.

    Args:
        policy: a policy with a chooser.
        observation: from `checked_observation`.
        key: draws the candidates and the choice.
        seconds: time budget. A slice, other than the first, is started only if it will end in time, judged by
            the duration of the previous one.
        prefix: the actions that the plans begin with.
        proposer: draws the candidates, with the policy's spec; None: the policy itself.

    Returns:
        (horizon, action_dim) float32.
    """
    assert policy.chooser is not None
    proposer = policy if proposer is None else proposer
    started = begun = time.perf_counter()
    propose_key, choose_key = jax.random.split(key)
    several = {name: entry[None] for name, entry in observation.items()}
    prefixes = None if prefix is None else prefix.alone()
    seen = policy.encoder.on_device(observation)
    plans, scores = [], []
    for i in range(-(-policy.candidates // SLICE)):
        offered = proposer.propose(several, jax.random.fold_in(propose_key, i)[None], SLICE, prefixes)[0]
        plans.append(np.asarray(offered))
        scores.append(jax.device_get(_scores(policy, policy.chooser, seen, offered)))
        now = time.perf_counter()
        if now - started + (now - begun) > seconds:
            break
        begun = now
    n = policy.candidates
    joined = [np.concatenate(field)[:n] for field in zip(*scores, strict=True)]
    # padded to one length, so that the choice compiles once; -infinity is never picked
    left = [((0, n - len(score)), *((0, 0) for _ in score.shape[1:])) for score in joined]
    padded = [np.pad(score, room, constant_values=-np.inf) for score, room in zip(joined, left, strict=True)]
    chosen = int(_pick(policy.chooser, tuple(map(jnp.asarray, padded)), choose_key))
    return np.concatenate(plans)[chosen]


@eqx.filter_jit
def _scores(
    policy: Policy, chooser: Chooser, observation: Observations, plans: Float[Array, "n h a"]
) -> tuple[Float[Array, "n ..."], ...]:
    return chooser.scores(policy.state(observation), policy.chunks(plans))


@eqx.filter_jit
def _pick(chooser: Chooser, scores: tuple[Float[Array, "n ..."], ...], key: PRNGKeyArray) -> Int[Array, ""]:
    return chooser.pick(scores, key)[0]


@jax.jit
def decision_keys(
    action_seed: int | np.int32, seeds: UInt32[Array, " n"] | np.ndarray, decision: int | np.uint32
) -> PRNGKeyArray:
    """The key of a decision in each of n episodes, from the run's seed, the episode's seed and the number."""

    def key_of(seed: UInt32[Array, ""]) -> PRNGKeyArray:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(action_seed), seed), decision)

    return jax.vmap(key_of)(jnp.asarray(seeds))
