"""Loading policies, their tasks and views from their folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from otpr.policies import files
from otpr.policies.policy import Policy
from otpr.spec import Spec


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Load a policy. `load_policy(path).act(observation, seed)` gives actions (execute, action_dim).

    Args:
        path: the folder that `Policy.save` wrote, or a run directory with a `policy` folder in it.

    Raises:
        OtprError: there is no policy at `path`, or its files are damaged or of a later format.
    """
    return files.read(Path(path), skeleton)


def policy_task(path: str | os.PathLike[str]) -> str:
    """The task that the policy in `path` was trained on."""
    return files.read_document(files.folder(Path(path)))["task"]


def policy_view(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The view of the task for the policy in `path`, as given to `Policy.save`."""
    return files.read_document(files.folder(Path(path))).get("view")


def policy_meaning(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The meaning of the numbers that the policy in `path` exchanges, as given to `Policy.save`.

    For a policy that was saved without it, only whether its spec states the bounds of its actions, which is
    not the case before format 4.
    """
    document = files.read_document(files.folder(Path(path)))
    silent = {"parts": [], "facts": {}, "bounds_stated": document["format"] >= 4, "accepted": []}
    return document.get("meaning", silent)


def skeleton(document: files.Document) -> Policy:
    """A policy with the structure of a `Policy.document`, without values in its arrays."""
    spec, key = Spec.from_json(document["spec"]), jax.random.key(0)
    encoder = files.encoder_skeleton(document["encoder"], spec)
    state_dim = spec.history * encoder.feature_dim
    return Policy(
        encoder=encoder,
        generator=files.generator_skeleton(document["generator"], state_dim, spec, key),
        chooser=files.chooser_skeleton(document["chooser"], state_dim, key),
        spec=spec,
        candidates=document["candidates"],
    )
