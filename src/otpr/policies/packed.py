"""A policy on its way from one of our processes to another: what it is, and its arrays."""

from __future__ import annotations

import functools
import json
from typing import NamedTuple

import equinox as eqx
import numpy as np

from otpr import trees
from otpr.policies.loading import skeleton
from otpr.policies.policy import Policy


class PackedPolicy(NamedTuple):
    """A policy as plain data.

    Attributes:
        document: everything about it that is not an array, JSON.
        arrays: by their paths in the policy.
    """

    document: str
    arrays: dict[str, np.ndarray]


def pack(policy: Policy) -> PackedPolicy:
    """The policy as plain data, as its files have it. Not of one that asks another process."""
    return PackedPolicy(json.dumps(policy.document()), trees.arrays_of(policy))


def unpack(packed: PackedPolicy) -> Policy:
    """The policy that `pack` packed."""
    return trees.fill(_skeleton(packed.document), packed.arrays)


@functools.lru_cache(maxsize=16)
def _skeleton(document: str) -> Policy:
    """One for all policies alike, so that what was compiled for one is found for the next."""
    return eqx.filter_eval_shape(skeleton, json.loads(document))
