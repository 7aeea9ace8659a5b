"""Policies as plain data, for transfer between processes."""

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
        document: everything except arrays, as JSON.
        arrays: the arrays by their paths in the policy.
    """

    document: str
    arrays: dict[str, np.ndarray]


def pack(policy: Policy) -> PackedPolicy:
    """Convert a policy to plain data. A policy that asks a source cannot be packed."""
    return PackedPolicy(json.dumps(policy.document()), trees.arrays_of(policy))


def unpack(packed: PackedPolicy) -> Policy:
    """The policy from the result of `pack`."""
    return trees.fill(_skeleton(packed.document), packed.arrays)


@functools.lru_cache(maxsize=16)
def _skeleton(document: str) -> Policy:
    """One skeleton for all policies of a structure, so that compiled code is reused."""
    return eqx.filter_eval_shape(skeleton, json.loads(document))
