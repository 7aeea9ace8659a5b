"""Our side of `unet_vs_torch`, in a process of its own, since both sides have one thread.

Reads lines from its input, takes a training step for each, and answers with the seconds it took.
"""

from __future__ import annotations

import functools
import json
import sys
import time
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from otpr.diffusion import NoiseSchedule
from otpr.networks.unet import UNet
from otpr.policies.denoising import Diffusion


def main() -> None:
    """Answer each line."""
    sizes = json.loads(sys.argv[1])
    plan, batch, state_dim = tuple(sizes["plan"]), sizes["batch"], sizes["state_dim"]
    network = UNet(
        state_dim,
        plan,
        down_dims=tuple(sizes["down_dims"]),
        kernel_size=sizes["kernel_size"],
        key=jax.random.key(0),
    )
    diffusion = Diffusion(network, NoiseSchedule.cosine(100))
    arrays, static = eqx.partition(network, eqx.is_array)
    optimizer = optax.adam(1e-4)
    plans = jax.random.uniform(jax.random.key(1), (batch, *plan), minval=-1)
    states = jax.random.normal(jax.random.key(2), (batch, state_dim))

    def loss_of(arrays: Any, key: Array) -> Array:
        return jnp.mean(diffusion.losses(eqx.combine(arrays, static), states, plans, key))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(arrays: Any, state: Any, key: Array) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(loss_of)(arrays, key), state)
        return optax.apply_updates(arrays, updates), state

    state, keys = optimizer.init(arrays), iter(jax.random.split(jax.random.key(3), 10_000))
    for _ in sys.stdin:
        started = time.perf_counter()
        arrays, state = jax.block_until_ready(step(arrays, state, next(keys)))
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()
