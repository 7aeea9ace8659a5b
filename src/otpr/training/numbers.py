"""Numbers that are not finite: where they came up, and what is needed to see it happen again.

Whoever meets NaN or infinity raises `NotFiniteError` with the arrays at hand; fine-tuning writes them into
the run directory's folder `faults` (docs/run-directory.md says what each kind holds).
"""

from __future__ import annotations

import dataclasses
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
from otpr.agents import agent_class
from otpr.agents.parts.agent import Agent, AgentConfig
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.errors import OtprError
from otpr.policies.policy import Policy
from otpr.training.learning import update_keys


class NotFiniteError(OtprError):
    """NaN or infinity came up; the message says where and when.

    Attributes:
        name: a short name for the file of `arrays`, e.g. "update-3017".
        arrays: by name, what to replay it with.
    """

    def __init__(self, message: str, name: str, arrays: Mapping[str, np.ndarray]):
        super().__init__(message)
        self.name, self.arrays = name, dict(arrays)

    def save(self, folder: Path) -> Path:
        """Write `arrays` to `folder`, a file that `otpr.trees.read_arrays` reads; the file.

        Raises:
            OtprError: it cannot be written.
        """
        file = folder / f"{self.name}.safetensors"
        with storage.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        storage.write_bytes(file, trees.to_bytes(self.arrays))
        return file


@eqx.filter_jit
def all_finite(tree: Any) -> jax.Array:
    """Whether no floating-point array of a pytree holds NaN or infinity; a bool that lies on the device."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return jnp.all(jnp.asarray([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def not_finite(metrics: Mapping[str, float], agent: Agent) -> list[str]:
    """The metrics that are not finite, and "the agent" where one of its arrays is not.

    A gradient may be NaN where the losses, taken before it, are not.
    """
    odd = [name for name, value in metrics.items() if not math.isfinite(value)]
    return odd if all_finite(agent) else [*odd, "the agent"]


def bad_update(
    agent: Agent, experience: Experience, updates: int, update_policy: bool, done: int
) -> NotFiniteError:
    """The gradient step of a block at which NaN or infinity came up: the block done again, step by step.

    Args:
        agent: as it was before the block.
        experience: what the block learnt from.
        updates: gradient steps of the block.
        update_policy: as in `update_block`.
        done: gradient steps of the run before the block.
    """
    agent, keys, _ = update_keys(agent, updates)
    for i, key in enumerate(keys):
        batch = _draw(agent, experience, key)
        after, metrics = _update(agent, batch, update_policy)
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


@eqx.filter_jit
def _draw(agent: Agent, experience: Experience, key: jax.Array) -> Any:
    return agent.draw(experience, key)


@eqx.filter_jit
def _update(agent: Agent, batch: Any, update_policy: bool) -> tuple[Agent, dict[str, jax.Array]]:
    return agent.update(batch, update_policy)


def _places(batch: Any, metrics: dict[str, jax.Array], after: Agent) -> list[str]:
    """What is not finite: fields of the batch, else losses, else what a gradient moved."""
    parts = {f"{part}.{name}": x for part, t in batch._asdict().items() for name, x in t._asdict().items()}
    for name in [name for name in parts if name.endswith("return_to_go")]:
        parts[name] = jnp.where(jnp.isneginf(parts[name]), 0.0, parts[name])  # -inf stands for "unknown"
    fields = {field.name: getattr(after, field.name) for field in dataclasses.fields(after)}
    states = {name: tree for name, tree in fields.items() if name.endswith("_state")}
    # targets and the policy's moving average only follow what a gradient moved
    moved = {
        name: tree
        for name, tree in fields.items()
        if name not in states and name != "policy" and not name.startswith("target_")
    }
    stages = [
        {f"{name} of the batch": x for name, x in parts.items()},
        metrics,
        {f"the {name} after its gradient step": tree for name, tree in moved.items()},
        {f"{name} of the optimiser": tree for name, tree in states.items()},
        {"the agent": after},
    ]
    for stage in stages:
        if odd := [name for name, tree in stage.items() if not bool(all_finite(tree))]:
            return odd
    return []


def agent_arrays(agent: Agent) -> dict[str, np.ndarray]:
    """Every array of an agent by name, as it goes into a file of `NotFiniteError`."""
    return _flat("agent", agent)


def _flat(name: str, tree: Any) -> dict[str, np.ndarray]:
    return {name + path: array for path, array in trees.arrays_of(tree).items()}


def load_update(file: str | os.PathLike[str], base: Policy, config: AgentConfig) -> tuple[Agent, Any, bool]:
    """A gradient step that went wrong: `agent.update(batch, update_policy)` takes it again.

    Args:
        file: `faults/update-N.safetensors` of a run directory.
        base: the pre-trained policy the run started from, for its architecture.
        config: the agent's settings in that run, for its architecture.

    Returns:
        the agent before the step, its batch, and whether the step trained the policy too.

    Raises:
        OtprError: the file cannot be read, or is of a run with another policy or other settings.
    """
    kind = agent_class(config.algorithm)
    try:
        arrays = trees.read_arrays(file)
        parts = {
            part: Transitions(*(jnp.asarray(arrays[f"batch.{part}.{name}"]) for name in Transitions._fields))
            for part in kind.batch_type._fields
        }
        # for their dimensions alone
        like = kind.create(base, next(iter(parts.values())), config, jax.random.key(0))
        update_policy = bool(arrays["update_policy"])

        stored = {
            name.removeprefix("agent"): array for name, array in arrays.items() if name.startswith("agent")
        }

        def resized(path: Any, leaf: Any) -> Any:
            name = jax.tree_util.keystr(path)
            if "keypoint_" not in name:
                return leaf
            return jax.ShapeDtypeStruct(stored[name].shape, leaf.dtype)  # there may be fewer of them

        agent = trees.fill(jax.tree_util.tree_map_with_path(resized, like), stored)
        return agent, kind.batch_type(**parts), update_policy
    except (KeyError, ValueError) as error:  # an array is missing or does not fit
        raise OtprError(
            f"{file} holds no gradient step of this policy and these settings ({error!r})."
        ) from error
