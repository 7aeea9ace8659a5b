"""The policy as deployed: observation in, action chunk out, with everything it needs inside.

On disk a policy is a sealed folder (`otpr.storage`): `policy.json`, its architecture, `weights.npz`, its
arrays by name, and the checksums of both. None of them can carry code, and no more memory is taken than they
have bytes, so a policy from a stranger is safe to load.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from otpr import storage
from otpr.acting import act_within, checked_chunk, checked_observation
from otpr.compatibility import Compatibility, TransportCost
from otpr.critics import QEnsemble
from otpr.diffusion import NoiseNetwork, NoiseSchedule, sample
from otpr.diffusion.sampling import Method
from otpr.errors import OtprError, unknown_name
from otpr.normalization import Normalizer
from otpr.ot import Potentials
from otpr.storage import DamagedFile


class Policy(eqx.Module):
    """A diffusion policy over action chunks; with a chooser, the best compatible of several samples.

    Args:
        network: predicts the noise in a flattened chunk.
        schedule: the noise levels it was trained with.
        normalizer: statistics of the observations it was trained on.
        chooser: chooses among `candidates` samples by compatibility; None draws one sample.
        chunk_length: h, actions in a chunk, all executed before the next observation is used.
        action_dim: dimension of one action, entries in [-1, 1].
        candidates: how many samples the chooser has to choose from.
        sampler: how noise becomes a chunk, a method of `otpr.diffusion.sample`.
        sampler_steps: how many of the schedule's levels the sampler visits; None visits all.

    Raises:
        OtprError: there is no such sampler, or the schedule has not that many levels.
    """

    network: NoiseNetwork
    schedule: NoiseSchedule
    normalizer: Normalizer
    chooser: Compatibility | None
    chunk_length: int = eqx.field(static=True)
    action_dim: int = eqx.field(static=True)
    candidates: int = eqx.field(static=True)
    sampler: Method = eqx.field(static=True, default="ddpm")
    sampler_steps: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if self.sampler not in get_args(Method):
            raise unknown_name("sampler", self.sampler, get_args(Method))
        if self.sampler_steps is not None and not 1 <= self.sampler_steps <= self.schedule.steps:
            raise OtprError(
                f"sampler_steps must lie in 1..{self.schedule.steps} (the policy's noise levels), "
                f"given {self.sampler_steps}."
            )

    def with_sampler(self, sampler: Method, steps: int | None = None) -> Policy:
        """The same policy, its chunks sampled in another way; `steps` None visits every level.

        Raises:
            OtprError: there is no such sampler, or the schedule has not that many levels.
        """
        return dataclasses.replace(self, sampler=sampler, sampler_steps=steps)

    def single(self) -> Policy:
        """The same score network, one sample, no chooser."""
        return eqx.tree_at(lambda p: p.chooser, self, None, is_leaf=lambda x: x is None)

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n a"]:
        """`n` sampled chunks, flattened, for one normalised observation."""

        def predict_noise(chunks, k):
            context = self.network.context(state, k)  # once, not once a candidate
            return jax.vmap(lambda chunk: self.network.from_context(context, chunk))(chunks)

        return sample(
            predict_noise,
            self.schedule,
            (n, self.chunk_length * self.action_dim),
            key,
            method=self.sampler,
            steps=self.sampler_steps,
        )

    @eqx.filter_jit
    def act_batch(
        self, observations: Float[Array, "n o"], keys: PRNGKeyArray
    ) -> tuple[Float[Array, "n h act"], Bool[Array, " n"]]:
        """One chunk for each observation, each with its own key.

        Returns:
            the chunks, and for each whether every candidate's H was zero (False without a chooser).
        """

        def act_one(observation, key):
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
                least `otpr.acting.SLICE`): then the time decides too, and the draws are others than without.
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
        path = Path(path)
        if path.exists() and not (path / "policy.json").is_file():
            raise OtprError(f"{path} exists and is not a policy; give the name of a new folder.")
        with storage.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with storage.sealed_folder(path) as new:
            storage.write_json(new / "policy.json", {"format": FORMAT, "task": task, **_architecture(self)})
            weights: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in _arrays(self).items()}
            np.savez(new / "weights.npz", **weights)


FORMAT = 2
"""Version of the files; it rises when older code could no longer read them. 1 had no checksums."""


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy: `load_policy(path).act(observation, seed)` gives a chunk of shape (h, action_dim).

    Args:
        path: the folder that `Policy.save` wrote, or a run directory with a `policy` folder in it.

    Raises:
        OtprError: there is no policy, or its files are damaged or of a later format.
    """
    folder = _folder(path)
    document = _read_document(folder)
    try:
        skeleton = eqx.filter_eval_shape(_skeleton, document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / "policy.json", error) from error
    except OtprError as error:  # a sampler of another version, or edited by hand
        raise OtprError(f"{folder / 'policy.json'}: {error}") from error
    try:
        weights = storage.read_arrays(folder / "weights.npz")
    except DamagedFile as error:
        raise _again(error) from error
    wanted = _arrays(skeleton)
    if odd := sorted(set(wanted) ^ set(weights)):
        raise _damaged(folder / "weights.npz", f"it and policy.json disagree on whether there is {odd[0]!r}")
    for name, leaf in wanted.items():
        if weights[name].shape != leaf.shape or weights[name].dtype != leaf.dtype:
            found = f"{weights[name].dtype}{list(weights[name].shape)}"
            due = f"{leaf.dtype}{list(leaf.shape)}"
            raise _damaged(folder / "weights.npz", f"{name} is {found}, by policy.json it is {due}")

    def fill(name, leaf):
        return jnp.asarray(weights[jax.tree_util.keystr(name)]) if hasattr(leaf, "shape") else leaf

    return jax.tree_util.tree_map_with_path(fill, skeleton)


def policy_task(path: str | os.PathLike[str]) -> str:
    """The task that the policy in `path` was trained on."""
    return _read_document(_folder(path))["task"]


def _read_document(folder: Path) -> dict[str, Any]:
    """What policy.json says, checked against its checksum and against what can be."""
    file = folder / "policy.json"
    try:
        sealed = storage.check_seal(folder) if (folder / storage.SEAL).exists() else None
        document = storage.read_json(file)
    except DamagedFile as error:
        raise _again(error) from error
    try:
        if document["format"] > FORMAT:
            raise OtprError(
                f"{file} is of format {document['format']}; this otpr reads up to {FORMAT}. Upgrade otpr."
            )
        if document["format"] > 1 and sealed != {"policy.json", "weights.npz"}:
            raise _damaged(folder / storage.SEAL, "expected the sums of policy.json and weights.npz")
        _check_document(document)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(file, error) from error
    return document


def _check_document(document: dict[str, Any]) -> None:
    """Refuse what no policy has, before anything is built by it.

    Raises:
        ValueError: names the field. (Or KeyError: a field is missing, TypeError: it is no object.)
    """
    if not isinstance(document["task"], str):
        raise ValueError(f"task is {document['task']!r}")
    if type(steps := document.get("sampler_steps")) not in (int, type(None)):
        raise ValueError(f"sampler_steps is {steps!r}")
    parts = {"": {name: document[name] for name in _COUNTS}, "network.": dict(document["network"])}
    if (chooser := document["chooser"]) is not None:
        numbers = {name: chooser[name] for name in ("alpha", "temperature", "epsilon")}
        for name, number in numbers.items():
            if type(number) not in (int, float) or abs(number) > 1e9:
                raise ValueError(f"chooser.{name} is {number!r}")
        parts["chooser."] = {"keypoints": chooser["keypoints"]}
        parts |= {f"chooser.{name}.": dict(chooser[name]) for name in ("critic", "value", "potentials")}
    for part, counts in parts.items():
        for name, count in counts.items():
            # depth and noise levels are built one by one, before the weights show whether they are so many
            largest = 10_000 if name in ("depth", "denoising_steps") else 1_000_000
            if not (type(count) is int and (0 if name == "depth" else 1) <= count <= largest):
                raise ValueError(f"{part}{name} is {count!r}")


_COUNTS = ("observation_dim", "action_dim", "chunk_length", "candidates", "denoising_steps")


def _damaged(file: Path, reason: Exception | str) -> OtprError:
    return _again(DamagedFile(file, reason))


def _again(error: DamagedFile) -> OtprError:
    return OtprError(f"{error} Copy or save the policy again.")


def _folder(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    folder = path if (path / "policy.json").is_file() else path / "policy"
    if not (folder / "policy.json").is_file():
        raise OtprError(
            f"There is no policy in {path}: expected policy.json there or in its folder 'policy'."
        )
    return folder


def _arrays(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(name): leaf for name, leaf in leaves if hasattr(leaf, "shape")}


def _architecture(policy: Policy) -> dict[str, Any]:
    """Everything about a policy that is not an array; `_skeleton` is its inverse."""
    chooser = policy.chooser
    document: dict[str, Any] = {
        "observation_dim": policy.normalizer.mean.shape[0],
        "action_dim": policy.action_dim,
        "chunk_length": policy.chunk_length,
        "candidates": policy.candidates,
        "denoising_steps": policy.schedule.steps,
        "sampler": policy.sampler,
        "sampler_steps": policy.sampler_steps,
        "network": {
            "width": policy.network.mlp.width_size,
            "depth": policy.network.mlp.depth,
            "time_width": policy.network.time_width,
        },
        "chooser": None,
    }
    if chooser is not None:
        cost = chooser.cost
        document["chooser"] = {
            "critic": {"size": cost.critic.size, "width": cost.critic.width, "depth": cost.critic.depth},
            "value": {"width_size": cost.value.width_size, "depth": cost.value.depth},
            "potentials": {
                "width": chooser.potentials.state_network.width_size,
                "depth": chooser.potentials.state_network.depth,
            },
            "keypoints": cost.keypoint_states.shape[0],
            "alpha": cost.alpha,
            "temperature": cost.temperature,
            "epsilon": chooser.epsilon,
        }
    return document


def _skeleton(document: dict[str, Any]) -> Policy:
    """A policy of the architecture that `_architecture` describes, its arrays yet to be filled in."""
    key = jax.random.key(0)
    state_dim, chunk_dim = document["observation_dim"], document["chunk_length"] * document["action_dim"]
    chooser = None
    if (about := document["chooser"]) is not None:
        cost = TransportCost(
            critic=QEnsemble(state_dim, chunk_dim, **about["critic"], key=key),
            value=eqx.nn.MLP(state_dim, "scalar", activation=jax.nn.relu, **about["value"], key=key),
            scale=jnp.asarray(1.0),
            keypoint_states=jnp.zeros((about["keypoints"], state_dim)),
            keypoint_actions=jnp.zeros((about["keypoints"], chunk_dim)),
            alpha=about["alpha"],
            temperature=about["temperature"],
        )
        potentials = Potentials(state_dim, chunk_dim, **about["potentials"], key=key)
        chooser = Compatibility(cost, potentials, jnp.asarray(False), about["epsilon"])
    return Policy(
        network=NoiseNetwork(state_dim, chunk_dim, **document["network"], key=key),
        schedule=NoiseSchedule.cosine(document["denoising_steps"]),
        normalizer=Normalizer(jnp.zeros(state_dim), jnp.ones(state_dim)),
        chooser=chooser,
        chunk_length=document["chunk_length"],
        action_dim=document["action_dim"],
        candidates=document["candidates"],
        # files of earlier versions do not say; their policies all sampled so
        sampler=document.get("sampler", "ddpm"),
        sampler_steps=document.get("sampler_steps"),
    )
