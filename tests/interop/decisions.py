"""What our policies decide, given observations and noise, in comparisons with other libraries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.diffusion.sampling import Noise
from otpr.policies.policy import Policy

WIDE = (-20.0,), (20.0,)
"""Action bounds that no policy of the cases reaches."""


@eqx.filter_jit
def _plan(policy: Policy, seen: Any, noise: Noise) -> jax.Array:
    return policy.diffusion.from_noise(policy.state(seen), noise)[0]


def decided(
    policy: Policy, observations: Mapping[str, NDArray[Any]], noise: tuple[NDArray[Any], NDArray[Any]]
) -> NDArray[np.float64]:
    """The actions that are executed, in their own units, (n, execute, a).

    Args:
        policy: ours.
        observations: of n decisions, (n, history, *shape), cast to the types that the policy takes.
        noise: that the plans begin with, (n, h, a), and that of the sampler's steps, (steps, n, h, a).
    """
    start, steps = noise
    low, high = np.asarray(policy.spec.action_low), np.asarray(policy.spec.action_high)
    dtypes = {name: entry.dtype for name, entry in policy.spec.observation.items()}
    found: list[NDArray[Any]] = []
    for draw in range(len(start)):
        seen = {name: x[draw].astype(dtypes[name]) for name, x in observations.items()}
        drawn = Noise(jnp.asarray(start[draw : draw + 1]), jnp.asarray(steps[:, draw : draw + 1]))
        plan = _plan(policy, policy.encoder.on_device(seen), drawn)[policy.spec.executed]
        found.append(low + (np.asarray(plan, np.float64) + 1) / 2 * (high - low))
    return np.stack(found)
