"""The policy as deployed: observation in, action chunk out, with everything it needs inside.

`otpr.policies.files` says how it lies on disk.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from otpr.diffusion.sampling import Method
from otpr.errors import OtprError
from otpr.policies import files as policy_files
from otpr.policies.acting import act_within, checked_chunk, checked_observation
from otpr.policies.choosers import Chooser
from otpr.policies.generators import Diffusion, Generator
from otpr.policies.normalization import Normalizer


class Policy(eqx.Module):
    """A policy over action chunks; with a chooser, the one it picks of several samples.

    Args:
        generator: draws chunks for a state.
        normalizer: statistics of the observations it was trained on.
        chooser: chooses among `candidates` samples; None draws one sample.
        chunk_length: h, actions in a chunk, all executed before the next observation is used.
        action_dim: dimension of one action, entries in [-1, 1].
        candidates: how many samples the chooser has to choose from.
    """

    generator: Generator
    normalizer: Normalizer
    chooser: Chooser | None
    chunk_length: int = eqx.field(static=True)
    action_dim: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)

    @property
    def diffusion(self) -> Diffusion:
        """The generator of a diffusion policy.

        Raises:
            OtprError: it is another kind of policy.
        """
        if not isinstance(self.generator, Diffusion):
            raise OtprError(
                f"A diffusion policy is needed, as `otpr pretrain` makes one; given one of kind "
                f"{self.generator.kind!r}."
            )
        return self.generator

    def with_sampler(self, sampler: Method, steps: int | None = None) -> Policy:
        """The same policy, its chunks sampled in another way; `steps` None visits every level.

        Raises:
            OtprError: it is no diffusion policy, there is no such sampler, or the schedule has not that many
                levels.
        """
        generator = dataclasses.replace(self.diffusion, sampler=sampler, sampler_steps=steps)
        return dataclasses.replace(self, generator=generator)

    def single(self) -> Policy:
        """The same generator, one sample, no chooser."""
        return dataclasses.replace(self, chooser=None, candidates=1)

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks, flattened, for one normalised observation."""
        return self.generator.propose(state, key, n)

    @eqx.filter_jit
    def act_batch(
        self, observations: Float[Array, "n o"], keys: PRNGKeyArray
    ) -> tuple[Float[Array, "n h act"], Bool[Array, " n"]]:
        """One chunk for each observation, each with its own key.

        Returns:
            the chunks, and for each whether its chooser's rule of last resort decided (False without one):
                with OTPR's, whether every candidate's H was zero.
        """

        def act_one(
            observation: Float[Array, " o"], key: PRNGKeyArray
        ) -> tuple[Float[Array, " a"], Bool[Array, ""]]:
            propose_key, choose_key = jax.random.split(key)
            state = self.normalizer(observation)
            if self.chooser is None:
                return self.propose(state, propose_key, 1)[0], jnp.asarray(False)
            chunks = self.propose(state, propose_key, self.candidates)
            index, none = self.chooser.choose(state, chunks, choose_key)
            return chunks[index], none

        chunks, none = jax.vmap(act_one)(observations, keys)
        return chunks.reshape(-1, self.chunk_length, self.action_dim), none

    def act(self, observation: np.ndarray, seed: int, *, budget_seconds: float | None = None) -> np.ndarray:
        """Draw an action chunk for one observation; safe to call from several threads.

        Values far from the demonstrations are clipped at `Normalizer.LIMIT` scales from their mean.

        Args:
            observation: (o,), raw: as the environment gives it.
            seed: of the draw; the same seed gives the same chunk.
            budget_seconds: where there is a chooser, choose among the candidates that there is time for (at
                least `otpr.policies.acting.SLICE`): then the time decides too, and the draws are others than
                without.
                The first call compiles, whatever the budget: make one beforehand.

        Returns:
            (h, action_dim) float32, entries in [-1, 1].

        Raises:
            ValueError: the observation has another shape or is not finite.
            OtprError: the actions are not finite, because the weights are not.
        """
        given = jnp.asarray(checked_observation(observation, self.normalizer.mean.shape[0]))
        key = jax.random.key(seed)
        if budget_seconds is not None and self.chooser is not None:
            return checked_chunk(act_within(self, given, key, budget_seconds))
        chunks, _ = self.act_batch(given[None], key[None])
        return checked_chunk(np.asarray(chunks[0]))

    def save(self, path: str | os.PathLike[str], *, task: str) -> None:
        """Write the policy to the folder `path`, whole or not at all; a policy already there is replaced.

        Args:
            path: the folder; its parents are made.
            task: the task it was trained on, for whoever finds the file.

        Raises:
            OtprError: something else than a policy is at `path`, or it cannot be written; what was there
                stays as it is.
        """
        document = {
            "observation_dim": self.normalizer.mean.shape[0],
            "action_dim": self.action_dim,
            "chunk_length": self.chunk_length,
            "candidates": self.candidates,
            "generator": policy_files.described(self.generator),
            "chooser": policy_files.described(self.chooser) if self.chooser is not None else None,
        }
        policy_files.write(self, Path(path), task, document)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy: `load_policy(path).act(observation, seed)` gives a chunk of shape (h, action_dim).

    Args:
        path: the folder that `Policy.save` wrote, or a run directory with a `policy` folder in it.

    Raises:
        OtprError: there is no policy, or its files are damaged or of a later format.
    """
    return policy_files.read(Path(path), _skeleton)


def policy_task(path: str | os.PathLike[str]) -> str:
    """The task that the policy in `path` was trained on."""
    return policy_files.read_document(policy_files.folder(Path(path)))["task"]


def _skeleton(document: policy_files.Document) -> Policy:
    """A policy as `Policy.save` describes it, its arrays yet to be filled in."""
    state_dim, chunk_length = document["observation_dim"], document["chunk_length"]
    sizes = (state_dim, chunk_length * document["action_dim"], jax.random.key(0))
    chooser = document["chooser"]
    return Policy(
        generator=policy_files.generator_skeleton(document["generator"], *sizes),
        normalizer=Normalizer(jnp.zeros(state_dim), jnp.ones(state_dim)),
        chooser=None if chooser is None else policy_files.chooser_skeleton(chooser, *sizes),
        chunk_length=chunk_length,
        action_dim=document["action_dim"],
        candidates=document["candidates"],
    )
