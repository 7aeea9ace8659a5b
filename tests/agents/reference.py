"""Networks, critics and Adam written out a second time, plainly, for tests of the algorithms' updates."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from otpr.data.chunks import Transitions

from otpr.networks.critics import QEnsemble


def mlp(network: eqx.nn.MLP, x: Any, activation: Any) -> Any:
    """An MLP on rows of inputs."""
    for i, layer in enumerate(network.layers):
        x = (activation(x) if i else x) @ layer.weight.T + layer.bias
    return x


def q(critic: QEnsemble, states: Any, chunks: Any) -> Any:
    """(size, n) values: linear layers, each but the last with layer normalisation and ReLU."""
    rows = []
    for i in range(critic.size):
        m = jax.tree.map(lambda x, i=i: x[i], eqx.filter(critic.members, eqx.is_array))
        x = states @ m.state_layer.weight.T + m.state_layer.bias + chunks @ m.action_layer.weight.T
        for j, norm in enumerate(m.norms):
            if j:
                x = x @ m.hidden[j - 1].weight.T + m.hidden[j - 1].bias
            mean, variance = jnp.mean(x, 1, keepdims=True), jnp.var(x, 1, keepdims=True)
            x = jax.nn.relu((x - mean) / jnp.sqrt(variance + 1e-5) * norm.weight + norm.bias)
        rows.append(x @ m.out.weight[0] + m.out.bias[0])
    return jnp.stack(rows)


def q_target(data: Transitions, next_q: Any) -> Any:
    """Reward and what follows, but at least what was achieved; either has a say in some."""
    target = jnp.maximum(data.reward + data.discount * next_q, data.return_to_go)
    assert (target > data.return_to_go).any()
    assert (target == data.return_to_go).any()
    return target


def assert_first_adam_step(before: Any, after: Any, loss: Any, learning_rate: float) -> None:
    """The first step of Adam moves each weight by the learning rate against the sign of its gradient.

    More exactly by learning_rate * g / (|g| + 1e-8). Where g is so small that rounding has a say in that,
    only the size of the step is looked at.
    """
    arrays, static = eqx.partition(before, eqx.is_inexact_array)
    gradient = jax.jit(jax.grad(lambda arrays: loss(eqx.combine(arrays, static))))(arrays)
    old, new, slopes = (
        jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (before, after, gradient)
    )
    assert len(old) == len(new) == len(slopes) > 0
    clear = total = 0
    for o, n, g in zip(old, new, slopes, strict=True):
        step, g = np.asarray(n - o, np.float64), np.asarray(g, np.float64)
        assert np.abs(step).max() <= learning_rate * 1.01
        certain = np.abs(g) > 1e-5
        expected = -learning_rate * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(step[certain], expected[certain], atol=learning_rate * 0.02)
        clear, total = clear + certain.sum(), total + g.size
    assert clear > 0.3 * total


def assert_moved(before: Any, online: Any, after: Any, rate: float) -> None:
    """The target network went so far towards the online one."""
    trees = [jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (before, online, after)]
    for old, goal, new in zip(*trees, strict=True):
        np.testing.assert_allclose(new, (1 - rate) * old + rate * goal, rtol=1e-5, atol=1e-7)


def same(one: Any, other: Any) -> bool:
    """Whether all arrays agree bit for bit; keys count as arrays."""
    pairs = zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)), strict=True)
    return all(bool(jnp.all(a == b)) for a, b in pairs)


def transitions(n: int, state_dim: int, chunk_dim: int) -> Transitions:
    """Random ones; some end their episode, some pay, from some more was achieved than critics will know."""
    rng = np.random.default_rng(7)
    reward = (rng.uniform(size=n) < 0.3).astype(np.float32)
    return Transitions(
        observation=jnp.asarray(rng.normal(size=(n, state_dim)), jnp.float32),
        chunk=jnp.asarray(rng.uniform(-1, 1, (n, chunk_dim)), jnp.float32),
        reward=jnp.asarray(reward),
        discount=jnp.asarray(np.where(rng.uniform(size=n) < 0.3, 0, 0.9), jnp.float32),
        next_observation=jnp.asarray(rng.normal(size=(n, state_dim)), jnp.float32),
        return_to_go=jnp.asarray(rng.uniform(-0.5, 1, n), jnp.float32),
    )
