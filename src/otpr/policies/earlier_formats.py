"""Conversion of policy documents and array names from earlier formats to the current one."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from otpr.policies.entries import check_entries
from otpr.spec import Spec

Document = dict[str, Any]


def modernized(document: Document) -> Document:
    """Convert a document of any format to the current one, except for its format number.

    Raises:
        ValueError, KeyError, TypeError: the document does not follow its format.
    """
    changes = {
        3: _third,
        4: _fourth,
        5: _fifth,
        7: _seventh,
        8: _eighth,
        9: _ninth,
        10: _tenth,
        11: _eleventh,
    }
    for later, change in changes.items():
        if document["format"] < later:
            document = change(document)
    return document


_COMPATIBILITY = "otpr/compatibility"


def present_name(name: str, format: int) -> str:
    """The current name of an array of an earlier format."""
    if format < 3 and name.split(".")[1] in ("network", "schedule"):
        name = f".generator{name}"
    if format < 4:
        name = re.sub(r"^\.normalizer\.", ".encoder.normalizers['state'].", name)
        # since format 7, the MLP of these two networks is part of a body
        name = re.sub(r"^(\.generator\.(?:network|base))\.mlp\.", r"\1.body.mlp.", name)
    return name


def _third(document: Document) -> Document:
    """Convert a document of format 1 or 2 to format 3, except for its format number."""
    chooser = document["chooser"]
    return {
        **{name: document[name] for name in ("format", "task", *_LENGTHS, "candidates")},
        "generator": {
            "kind": "diffusion",
            "network": document["network"],
            "denoising_steps": document["denoising_steps"],
            # the first files do not name a sampler; their policies all used this one
            "sampler": document.get("sampler", "ddpm"),
            "sampler_steps": document.get("sampler_steps"),
        },
        "chooser": None if chooser is None else {"kind": "compatibility", **chooser},
    }


def _fourth(document: Document) -> Document:
    """Convert a document of format 3 to format 4, except for its format number."""
    for name in _LENGTHS:
        check_entries(name, document[name], {})
    observation_dim, action_dim, h = (document[name] for name in _LENGTHS)
    generator, chooser = document["generator"], document["chooser"]
    if isinstance(generator, dict) and generator.get("kind") in ("diffusion", "dppo/tuned-diffusion"):
        generator = {**generator, "prediction": "noise", "bound": 1.0}
    if isinstance(chooser, dict):
        kind = _COMPATIBILITY if chooser.get("kind") == "compatibility" else chooser.get("kind")
        chooser = {**chooser, "kind": kind, "chunk_dim": h * action_dim}
    return {
        **{name: document[name] for name in ("format", "task", "candidates")},
        "spec": Spec.flat(observation_dim, action_dim, horizon=h, execute=h).to_json(),
        "encoder": {"kind": "vector"},
        "generator": generator,
        "chooser": chooser,
    }


def _fifth(document: Document) -> Document:
    """Convert a document of format 4 to format 5, except for its format number."""
    spec = Spec.from_json(document["spec"])
    entries = {
        name: replace(entry, dtype="float32") if entry.dtype == "float64" else entry
        for name, entry in spec.observation.items()
    }
    return {**document, "spec": replace(spec, observation=entries).to_json()}


def _seventh(document: Document) -> Document:
    """Convert a document of format 5 or 6 to format 7, except for its format number."""
    encoder, generator = dict(document["encoder"]), dict(document["generator"])
    vectors = {"limit": 10.0, "shifted": False}
    if encoder.get("kind") == "vector":
        encoder |= vectors
    elif encoder.get("kind") == "vision":
        spec = Spec.from_json(document["spec"])
        own = {name: encoder.pop(name) for name in list(encoder) if name not in ("kind", "network", "shared")}
        if encoder["network"] == "resnet18":
            own["norm"] = "group"
        encoder["images"] = dict.fromkeys([""] if encoder["shared"] else spec.images, own)
        if spec.vectors:
            encoder["vectors"] = vectors
    if generator.get("kind") in ("diffusion", "dppo/tuned-diffusion"):
        generator["network"] = {"kind": "mlp", **generator["network"]}
        generator |= {
            "betas": "squaredcos_cap_v2",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "spacing": "linspace",
            "clipped_noise": True,
            "scaled": False,
        }
    return {**document, "encoder": encoder, "generator": generator}


def _eighth(document: Document) -> Document:
    """Convert a document of format 7 to format 8, except for its format number."""
    generator = dict(document["generator"])
    if generator.get("kind") in ("diffusion", "dppo/tuned-diffusion"):
        generator["noise_limit"] = None
        if generator["network"].get("kind") == "unet":
            generator["network"] = {**generator["network"], "deep_condition": False, "norm_eps": 1e-5}
    return {**document, "generator": generator}


def _ninth(document: Document) -> Document:
    """Convert a document of format 8 to format 9, except for its format number."""
    generator = dict(document["generator"])
    if generator.get("kind") in ("diffusion", "dppo/tuned-diffusion"):
        generator |= {"renormalized": False, "state_limit": None}
    return {**document, "generator": generator}


def _tenth(document: Document) -> Document:
    """Convert a document of format 9 to format 10, except for its format number."""
    chooser = document["chooser"]
    if isinstance(chooser, dict) and chooser.get("kind") == _COMPATIBILITY:
        chooser = dict(chooser)
        # the first files do not say it; their policies drew
        greedy = chooser.pop("greedy", False)
        if not isinstance(greedy, bool):
            raise TypeError(f"greedy is {greedy!r}, not true or false")
        chooser["rule"] = "highest" if greedy else "draw"
    return {**document, "chooser": chooser}


def _eleventh(document: Document) -> Document:
    """Convert a document of format 10 to format 11, except for its format number."""
    chooser = document["chooser"]
    if isinstance(chooser, dict) and chooser.get("kind") == "highest-q":
        chooser = {**chooser, "kind": "q", "rule": "highest"}
    return {**document, "chooser": chooser}


_LENGTHS = ("observation_dim", "action_dim", "chunk_length")
"""The entries of formats 1 to 3 that preceded the spec."""
