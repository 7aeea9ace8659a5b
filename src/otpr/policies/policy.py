"""The policy: it maps observations to actions and contains everything needed for that.

A policy is an encoder, a generator and optionally a chooser. `otpr.policies.files` describes its files.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.diffusion.sampling import Sampler
from otpr.errors import OtprError
from otpr.policies import files
from otpr.policies.acting import act_key, act_within, checked_actions, checked_observation, host_seeds
from otpr.policies.asked import Asked
from otpr.policies.choosers import Chooser, Metrics
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Encoder, Observations
from otpr.policies.generators import Generator
from otpr.policies.prefix import Prefix, checked_prefix
from otpr.spec import Spec


class Policy(eqx.Module):
    """A policy that samples a plan of actions, or several from which a chooser picks one.

    Args:
        encoder: turns each observation into features.
        generator: draws plans for a state.
        chooser: picks one of `candidates` plans; None: a decision draws a single plan.
        spec: the policy's observations and actions.
        candidates: number of plans that the chooser picks from.
    """

    encoder: Encoder
    generator: Generator
    chooser: Chooser | None
    spec: Spec = eqx.field(static=True)
    candidates: int = eqx.field(static=True, default=1)

    @property
    def state_dim(self) -> int:
        """Length of a state: the features of `spec.history` observations."""
        return self.spec.history * self.encoder.feature_dim

    @property
    def drawn(self) -> int:
        """Number of plans that a decision draws."""
        return 1 if self.chooser is None else self.candidates

    @property
    def diffusion(self) -> Diffusion:
        """The generator of a diffusion policy.

        Raises:
            OtprError: the policy is not a diffusion policy.
        """
        if not isinstance(self.generator, Diffusion):
            raise OtprError(
                f"A diffusion policy is needed, as `otpr pretrain` makes one; given one of kind "
                f"{self.generator.kind!r}."
            )
        return self.generator

    def with_generator(self, generator: Generator) -> Policy:
        """The same policy with another generator."""
        return dataclasses.replace(self, generator=generator)

    def with_sampler(self, sampler: Sampler, steps: int | None = None) -> Policy:
        """The same policy with another sampler. With `steps` None it visits every level.

        Raises:
            OtprError: the policy is not a diffusion policy, there is no such sampler, or the schedule has
                fewer levels than `steps`.
        """
        return self.with_generator(dataclasses.replace(self.diffusion, sampler=sampler, sampler_steps=steps))

    def choosing(self, chooser: Chooser, candidates: int) -> Policy:
        """The same generator with a chooser that picks one of `candidates` plans."""
        return dataclasses.replace(self, chooser=chooser, candidates=candidates)

    def single(self) -> Policy:
        """The same generator without a chooser, drawing one plan."""
        return dataclasses.replace(self, chooser=None, candidates=1)

    def executing(self, execute: int) -> Policy:
        """The same policy, executing another number of actions per plan; the chooser scores the same chunks.

        Raises:
            OtprError: a plan has fewer actions than that.
        """
        return dataclasses.replace(self, spec=dataclasses.replace(self.spec, execute=execute))

    # ------------------------------------------------------------------------------------------- decisions

    def state(self, observations: Observations) -> Float[Array, " s"]:
        """The state of one decision: its encoded observations, each entry (history, *shape).

        The observations must be as `Encoder.on_device` gives them.
        """
        return self.encoder(observations).ravel()

    def propose(
        self, observations: Observations, keys: PRNGKeyArray, n: int, prefixes: Prefix | None = None
    ) -> Float[Array, "b n h a"]:
        """Sample `n` plans for each of b decisions; see `otpr.policies.proposer.Proposer`."""
        if isinstance(self.generator, Asked):
            plans = jnp.asarray(self.generator.offered(observations, n, host_seeds(keys)))
            return plans if prefixes is None else jax.vmap(Prefix.put)(prefixes, plans)
        return _propose(self, self.encoder.on_device(observations), keys, n, prefixes)

    def chunks(self, plans: Float[Array, "n h a"]) -> Float[Array, "n c"]:
        """The part of plans that the chooser scores: the actions from the current step on, flattened."""
        assert self.chooser is not None
        first = self.spec.offset
        last = first + self.chooser.chunk_dim // self.spec.action_dim
        return plans[:, first:last].reshape(plans.shape[0], -1)

    def decide(
        self, state: Float[Array, " s"], key: PRNGKeyArray, prefix: Prefix | None = None
    ) -> tuple[Float[Array, "h a"], Metrics]:
        """One plan for one state, and the chooser's metrics."""
        propose_key, choose_key = jax.random.split(key)
        return self.choose(state, self.plans(state, propose_key, self.drawn, prefix), choose_key)

    def choose(
        self, state: Float[Array, " s"], plans: Float[Array, "n h a"], choose_key: PRNGKeyArray
    ) -> tuple[Float[Array, "h a"], Metrics]:
        """The chosen one of several plans for one state, and the chooser's metrics."""
        if self.chooser is None:
            return plans[0], {}
        index, metrics = self.chooser.choose(state, self.chunks(plans), choose_key)
        return plans[index], metrics

    def plans(
        self, state: Float[Array, " s"], key: PRNGKeyArray, n: int, prefix: Prefix | None
    ) -> Float[Array, "n h a"]:
        """Sample `n` plans for one state, which begin with the prefix if there is one."""
        if prefix is None:
            return self.generator.propose(state, key, n)
        return self.generator.complete(state, prefix, key, n)

    def act_batch(
        self, observations: Observations, keys: PRNGKeyArray
    ) -> tuple[Float[Array, "n e a"], dict[str, Float[Array, " n"]]]:
        """Draw the actions to execute for each of n decisions.

        Args:
            observations: by entry name, (n, history, *shape), raw.
            keys: one for each decision.

        Returns:
            (n, execute, action_dim), entries in [-1, 1]; and the chooser's metrics of each decision.
        """
        plans, metrics = self._planned(observations, keys)
        return plans[:, self.spec.executed], metrics

    def _planned(
        self, observations: Observations, keys: PRNGKeyArray, prefixes: Prefix | None = None
    ) -> tuple[Float[Array, "n h a"], dict[str, Float[Array, " n"]]]:
        """`plan_batch` for raw observations, compiled."""
        offered = self.offered(observations, keys)
        return _plan_batch(self, self.encoder.on_device(observations), keys, prefixes, offered)

    def plan_batch(
        self,
        observations: Observations,
        keys: PRNGKeyArray,
        prefixes: Prefix | None = None,
        offered: Float[Array, "n c h a"] | np.ndarray | None = None,
    ) -> tuple[Float[Array, "n h a"], dict[str, Float[Array, " n"]]]:
        """Draw a whole plan for each of n decisions. Works in compiled code.

        Args:
            observations: as `Encoder.on_device` gives them.
            keys: one for each decision.
            prefixes: the actions that the plans begin with; None: the plans are free.
            offered: the plans of each decision to choose from, if `offered` returned any.

        Returns:
            (n, horizon, action_dim), entries in [-1, 1]; and the chooser's metrics of each decision.
        """

        def decide(
            seen: Observations, key: PRNGKeyArray, prefix: Prefix | None, plans: Float[Array, "c h a"] | None
        ) -> tuple[Float[Array, "h a"], Metrics]:
            if plans is None:
                return self.decide(self.state(seen), key, prefix)
            if prefix is not None:
                plans = prefix.put(plans)
            return self.choose(self.state(seen), plans, jax.random.split(key)[1])

        plans = None if offered is None else jnp.asarray(offered)
        return jax.vmap(decide)(observations, keys, prefixes, plans)

    @property
    def asks(self) -> bool:
        """Whether the plans come from an external source that is asked on the host."""
        return isinstance(self.generator, Asked)

    def offered(
        self, observations: Observations, keys: PRNGKeyArray, rows: Sequence[int] | None = None
    ) -> np.ndarray | None:
        """The plans to choose from if the generator is asked on the host; None if it is compiled.

        Args:
            observations: by entry name, (n, history, *shape), raw, on the host.
            keys: one for each decision.
            rows: the decisions to ask for; None: all. The plans of the others are zeros.

        Returns:
            (n, candidates, horizon, action_dim) float32, entries in [-1, 1], or None.

        Raises:
            NoPlansError, BrokenSourceError: see `otpr.policies.asked`.
        """
        if not isinstance(self.generator, Asked):
            return None
        n = len(next(iter(observations.values())))
        chosen = list(range(n) if rows is None else rows)
        plans = np.zeros((n, self.drawn, self.spec.horizon, self.spec.action_dim), np.float32)
        if chosen:
            seen = {name: np.asarray(entry)[chosen] for name, entry in observations.items()}
            plans[chosen] = self.generator.offered(seen, self.drawn, host_seeds(keys[np.asarray(chosen)]))
        return plans

    def act(
        self, observation: Any, seed: int, *, prefix: Any = None, budget_seconds: float | None = None
    ) -> np.ndarray:
        """Draw the actions to execute for one observation. Safe to call from several threads.

        Values far from the demonstrations are clipped if the encoder has a limit; see `Normalizer`.

        Args:
            observation: raw, as the environment gives it: an array if the spec has a single vector entry,
                otherwise a dictionary by entry name. With `history` > 1 each entry has a leading axis of that
                length, oldest first; at the start of an episode, repeat its first observation.
            seed: a whole number of any size, not negative. The same seed gives the same actions.
            prefix: for asynchronous execution: the remaining actions of the last plan, which the robot
                executes from this observation on until the new actions arrive, (d, action_dim) in [-1, 1],
                with d at most `horizon - offset - execute`.
            budget_seconds: with a chooser, draw only as many candidates as the time allows, at least
                `otpr.policies.acting.SLICE`. The result then depends on timing as well and differs from the
                one without a budget. The first call compiles regardless of the budget, so make one
                beforehand.

        Returns:
            (execute, action_dim) float32, entries in [-1, 1], to be executed after the prefix if there is
            one.

        Raises:
            ValueError: the observation has other entries or another shape, or is not finite; the seed is
                negative or not a whole number; or the prefix has another shape, or leaves [-1, 1].
            OtprError: the actions are not finite, because the weights are not.
        """
        given = checked_observation(observation, self.spec)
        key = act_key(seed)
        begun = None if prefix is None else checked_prefix(prefix, self.spec)
        d = 0 if begun is None else len(begun)
        ahead = None if begun is None or not d else Prefix.of(begun, self.spec)
        if budget_seconds is not None and self.chooser is not None:
            plan = act_within(self, given, key, budget_seconds, ahead)
        else:
            prefixes = None if ahead is None else ahead.alone()
            seen = {name: entry[None] for name, entry in given.items()}
            # indexed on the host, because on the device this would be a separate program
            plan = np.asarray(self._planned(seen, key[None], prefixes)[0])[0]
        first = self.spec.offset + d
        return checked_actions(plan[first : first + self.spec.execute])

    # ----------------------------------------------------------------------------------------------- files

    def document(self) -> files.Document:
        """Everything except arrays as a JSON document, from which `skeleton` builds a policy."""
        chooser = None
        if self.chooser is not None:
            chooser = {"chunk_dim": self.chooser.chunk_dim, **files.described(self.chooser)}
        return {
            "spec": self.spec.to_json(),
            "candidates": self.candidates,
            "encoder": files.described(self.encoder),
            "generator": files.described(self.generator),
            "chooser": chooser,
        }

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        task: str,
        view: Mapping[str, Any] | None = None,
        meaning: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the policy to the folder `path` atomically. An existing policy there is replaced.

        Args:
            path: the folder; its parents are created.
            task: the task that the policy was trained on.
            view: the policy's view of the task, a JSON document (`otpr.envs.Setup.view`); None: the task's
                default view.
            meaning: the meaning of the numbers that the policy exchanges, a JSON document
                (`otpr.data.meaning`).

        Raises:
            OtprError: something other than a policy is at `path`, or the folder cannot be written. The
                content of `path` is left unchanged.
        """
        document = self.document()
        for name, given in (("view", view), ("meaning", meaning)):
            if given is not None:
                document[name] = dict(given)
        files.write(self, Path(path), task, document)


@eqx.filter_jit
def _plan_batch(
    policy: Policy,
    observations: Observations,
    keys: PRNGKeyArray,
    prefixes: Prefix | None,
    offered: np.ndarray | None,
) -> tuple[Float[Array, "n h a"], dict[str, Float[Array, " n"]]]:
    return policy.plan_batch(observations, keys, prefixes, offered)


@eqx.filter_jit
def _propose(
    policy: Policy, observations: Observations, keys: PRNGKeyArray, n: int, prefixes: Prefix | None
) -> Float[Array, "b n h a"]:
    def of_one(seen: Observations, key: PRNGKeyArray, prefix: Prefix | None) -> Float[Array, "n h a"]:
        return policy.plans(policy.state(seen), key, n, prefix)

    return jax.vmap(of_one)(observations, keys, prefixes)
