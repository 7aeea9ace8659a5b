"""Non-finite numbers: their location, and the data to reproduce them.

Code that detects NaN or infinity raises `NotFiniteError` with the arrays involved. Fine-tuning writes them to
the folder `faults` of the run directory (docs/run-directory.md describes the files).
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from otpr import storage, trees
from otpr.agents.parts.actor_critic import Trained
from otpr.agents.parts.agent import AgentConfig, OffPolicyAgent
from otpr.agents.parts.seeing import EncoderConfig, Seeing, new_agent
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.frames import DecisionObservations
from otpr.errors import OtprError
from otpr.policies.encoder import encode
from otpr.policies.policy import Policy
from otpr.spec import zeros
from otpr.training.learning import drawn, update, update_keys


class NotFiniteError(OtprError):
    """NaN or infinity occurred; the message says where and when.

    Attributes:
        name: a short name for the file of `arrays`, e.g. "update-3017".
        arrays: the arrays for a replay, by name.
    """

    def __init__(self, message: str, name: str, arrays: Mapping[str, np.ndarray]):
        super().__init__(message)
        self.name, self.arrays = name, dict(arrays)

    def save(self, folder: Path) -> Path:
        """Write `arrays` to a file in `folder` for `otpr.trees.read_arrays`, and return its path.

        Raises:
            OtprError: the file cannot be written.
        """
        file = folder / f"{self.name}.safetensors"
        with storage.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(file, trees.to_bytes(self.arrays))
        return file


@eqx.filter_jit
def all_finite(tree: Any) -> jax.Array:
    """Whether all floating-point arrays of a pytree are finite, as a bool on the device."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def not_finite(metrics: Mapping[str, float], agent: Any) -> list[str]:
    """The non-finite metrics, and "the agent" if one of its arrays is not finite.

    A gradient may be NaN although the losses before it are finite.
    """
    odd = [name for name, value in metrics.items() if not math.isfinite(value)]
    return odd if all_finite(agent) else [*odd, "the agent"]


def check_finite(metrics: Mapping[str, float], after: Any, before: Any, what: str, name: str) -> None:
    """Check that metrics and agent are finite.

    Args:
        metrics: the metrics of the operation.
        after: the agent after it.
        before: the agent before it, which is written to the file.
        what: a description of the operation.
        name: the name of the file.

    Raises:
        NotFiniteError: something is not finite; the message names it.
    """
    if bad := not_finite(metrics, after):
        raise NotFiniteError(f"{what}: {', '.join(bad)} not finite.", name, agent_arrays(before))


class DivergedError(OtprError):
    """The critics' values exceed the bounds given by the rewards."""


def check_converges(metrics: Mapping[str, float], updates: int) -> None:
    """Check that at most half of the critics' values exceed the bounds given by the rewards.

    Args:
        metrics: the metrics of the last block of gradient steps.
        updates: number of gradient steps at its end.

    Raises:
        DivergedError: more than half do.
    """
    if metrics["critic/beyond_bound"] > 0.5:
        raise DivergedError(
            f"The critics diverged by gradient step {updates:,}: {metrics['critic/beyond_bound']:.0%} of "
            f"their values are beyond what the rewards allow, {metrics['critic/bound_low']:.3g} to "
            f"{metrics['critic/bound_high']:.3g}. Try smaller learning rates in another run directory, or "
            "leave out --stop-on-divergence."
        )


def bad_update(
    agent: OffPolicyAgent,
    experience: Experience,
    updates: int,
    update_policy: bool,
    done: int,
    frames: DecisionObservations | None = None,
) -> NotFiniteError:
    """Find the gradient step at which NaN or infinity occurred, by repeating a block step by step.

    Args:
        agent: the agent before the block.
        experience: the experience of the block.
        updates: number of gradient steps in the block.
        update_policy: as in `update_block`.
        done: number of gradient steps of the run before the block.
        frames: as in `take_block`.
    """
    agent, keys, _ = update_keys(agent, updates)
    for i, key in enumerate(keys):
        batch = drawn(agent, experience, key, frames)
        after, metrics = update(agent, batch, update_policy)
        odd = _places(batch, metrics, after)
        if odd:
            number = done + i + 1
            arrays = {**_flat("agent", agent), **_flat("batch", batch)}
            arrays["update_policy"] = np.asarray(update_policy)
            return NotFiniteError(
                f"Learning diverged at gradient step {number:,}: {', '.join(odd)} not finite.",
                f"update-{number}",
                arrays,
            )
        agent = after
    return NotFiniteError(
        f"Learning diverged in the gradient steps {done + 1:,} to {done + updates:,}, in a way that does not "
        "show when they are taken one by one.",
        f"update-{done + 1}",
        _flat("agent", agent),
    )


def _places(batch: Any, metrics: dict[str, jax.Array], after: OffPolicyAgent) -> list[str]:
    """The non-finite parts: fields of the batch, otherwise losses, otherwise trained arrays."""
    parts = {path.lstrip("."): x for path, x in _by_path(batch).items()}
    for name in [name for name in parts if name.rpartition(".")[2] == "return_to_go"]:
        parts[name] = jnp.where(jnp.isneginf(parts[name]), 0.0, parts[name])  # -inf stands for "unknown"
    trained = {path: part for path, part in _by_path(after, Trained).items() if isinstance(part, Trained)}
    stages = [
        {f"{name} of the batch": x for name, x in parts.items()},
        metrics,
        {f"{path.lstrip('.')} after its gradient step": part.model for path, part in trained.items()},
        {f"the optimiser of {path.lstrip('.')}": part.state for path, part in trained.items()},
        # targets and moving averages only follow trained arrays
        {"the agent": after},
    ]
    for stage in stages:
        if odd := [name for name, tree in stage.items() if not bool(all_finite(tree))]:
            return odd
    return []


def _by_path(tree: Any, kind: type | None = None) -> dict[str, Any]:
    """The leaves of a tree by path; nodes of a kind are leaves."""

    def is_leaf(node: Any) -> bool:
        return kind is not None and isinstance(node, kind)

    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def agent_arrays(agent: Any) -> dict[str, np.ndarray]:
    """All arrays of an agent by name, as in a file of `NotFiniteError`."""
    return _flat("agent", agent)


def _flat(name: str, tree: Any) -> dict[str, np.ndarray]:
    return {name + path: array for path, array in trees.arrays_of(tree).items()}


def load_update(
    file: str | os.PathLike[str],
    base: Policy,
    config: AgentConfig,
    encoder: EncoderConfig = EncoderConfig(),
) -> tuple[OffPolicyAgent, Any, bool]:
    """Load a faulty gradient step, which `agent.update(batch, update_policy)` repeats.

    Args:
        file: `faults/update-N.safetensors` of a run directory.
        base: the pre-trained policy the run started from, for its architecture.
        config: the agent's settings in that run, for its architecture.
        encoder: the settings of the encoder's training in that run.

    Returns:
        The agent before the step, its batch, and whether the step also trained the policy.

    Raises:
        OtprError: the file cannot be read, or belongs to a run with another policy or other settings.
    """
    try:
        arrays = trees.read_arrays(file)
        experience, episode = _made_up(base, config)
        like = new_agent(base, experience, config, encoder, jax.random.key(0))
        if not isinstance(like, OffPolicyAgent):
            raise ValueError(f"{config.algorithm} takes no such gradient steps")
        frames = DecisionObservations([episode], experience.store.spec) if encoder.trains else None
        batch_like = drawn(like, experience, jax.random.key(0), frames)
        update_policy = bool(arrays["update_policy"])
        agent, batch = _filled("agent", like, arrays), _filled("batch", batch_like, arrays)
        return agent, batch, update_policy
    except (KeyError, ValueError) as error:  # an array is missing or does not fit
        raise OtprError(
            f"{file} holds no gradient step of this policy and these settings ({error!r})."
        ) from error


def _made_up(base: Policy, config: AgentConfig) -> tuple[Experience, Episode]:
    """A demonstration of one step, which gives the shapes of an agent's arrays."""
    spec = config.acting_spec(base.spec)
    actions, rewards = np.zeros((1, spec.action_dim), np.float32), np.ones(1, np.float32)
    episode = Episode(zeros(spec.observation, 2), actions, rewards, True, False, True, None)
    encoding = functools.partial(encode, base.encoder)
    return Experience.of([[episode]], (), encoding, spec=spec, gamma=config.gamma), episode


def _filled(name: str, like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    stored = {path.removeprefix(name): array for path, array in arrays.items() if path.startswith(name)}

    own = 2 if isinstance(like, Seeing) else 1

    def resized(path: Any, leaf: Any) -> Any:
        # some arrays of an agent have one row for each demonstrated step
        if len(path) > own or not trees.is_array(leaf):
            return leaf
        shape = stored[jax.tree_util.keystr(path)].shape
        fits = len(shape) == leaf.ndim > 0 and shape[1:] == leaf.shape[1:]
        return jax.ShapeDtypeStruct(shape, leaf.dtype) if fits else leaf

    return trees.fill(jax.tree_util.tree_map_with_path(resized, like), stored)
