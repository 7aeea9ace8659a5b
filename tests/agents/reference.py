"""Networks, critics, noise and Adam written out a second time, for tests of the algorithms' updates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from otpr.data.store import Transitions
from otpr.networks.critics import QEnsemble
from otpr.policies.policy import Policy
from otpr.spec import Spec

# --- networks


@eqx.filter_jit  # called outside of compiled code too: one program, and not one for each small operation
def mlp(network: eqx.nn.MLP, x: Any, activation: Any) -> Any:
    """An MLP on rows of inputs."""
    for i, layer in enumerate(network.layers):
        x = (activation(x) if i else x) @ layer.weight.T + layer.bias
    return x


@eqx.filter_jit
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


# --- diffusion


def noised(policy: Policy, plans: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Noisy plans, their levels and their noise, as score matching draws them."""
    level_key, noise_key = jax.random.split(key)
    alpha_bar = policy.diffusion.schedule.alpha_bar
    k = jax.random.randint(level_key, (plans.shape[0],), 0, alpha_bar.shape[0])
    noise, a = jax.random.normal(noise_key, plans.shape), alpha_bar[k][:, None, None]
    return jnp.sqrt(a) * plans + jnp.sqrt(1 - a) * noise, k, noise


def noise_errors(policy: Policy, states: Any, plans: Any, key: jax.Array) -> Callable[[Any], Any]:
    """From a network to its squared errors of the noise, (n,): the mean over all entries of each plan."""
    noisy, k, noise = noised(policy, plans, key)

    def errors(network: Any) -> Any:
        return jnp.mean((jax.vmap(network)(states, noisy, k) - noise) ** 2, axis=(1, 2))

    return errors


def ancestral_samples(network: Any, alpha_bar: np.ndarray, states: Any, keys: jax.Array) -> Any:
    """DDPM's sampling written out, a level at a time, one plan for each state."""
    shape = (1, *network.plan_shape)
    starts, steps = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    a = jax.vmap(lambda key: jax.random.normal(key, shape)[0])(starts)
    ahead = np.append(1.0, alpha_bar[:-1])
    for k in range(len(alpha_bar) - 1, -1, -1):
        noise = jax.vmap(network, in_axes=(0, 0, None))(states, a, jnp.asarray(k))
        clean = jnp.clip((a - np.sqrt(1 - alpha_bar[k]) * noise) / np.sqrt(alpha_bar[k]), -1, 1)
        # mean and variance of q(a_{k-1} | a_k, clean), eq. 7 of Ho et al. (2020)
        beta = 1 - alpha_bar[k] / ahead[k]
        mean = (np.sqrt(ahead[k]) * beta * clean + np.sqrt(alpha_bar[k] / ahead[k]) * (1 - ahead[k]) * a) / (
            1 - alpha_bar[k]
        )
        steps, drawn = jnp.swapaxes(jax.vmap(lambda key: jax.random.split(key))(steps), 0, 1)
        fresh = jax.vmap(lambda key: jax.random.normal(key, shape)[0])(drawn)
        a = mean + np.sqrt((1 - ahead[k]) / (1 - alpha_bar[k]) * beta) * fresh
    return a


def executed(plans: Any, spec: Spec) -> Any:
    """The first `execute` actions of n plans, one after the other in a row."""
    return jnp.concatenate([plans[:, i] for i in range(spec.execute)], axis=1)


# --- steps


def adam_step(model: Any, loss: Callable[[Any], jax.Array], learning_rate: float) -> tuple[Any, float]:
    """A model after Adam's first step, and its loss before.

    The step is the learning rate times each entry's gradient over its size.
    """
    arrays, static = eqx.partition(model, eqx.is_inexact_array)
    value, gradient = jax.jit(jax.value_and_grad(lambda arrays: loss(eqx.combine(arrays, static))))(arrays)
    step = jax.tree.map(lambda g: -learning_rate * np.asarray(g) / (np.abs(g) + 1e-8), gradient)
    return eqx.apply_updates(model, step), float(value)


def assert_close(given: Any, expected: Any, atol: float = 1e-5) -> None:
    """Array by array."""
    leaves = [
        jax.tree_util.tree_leaves_with_path(eqx.filter(tree, eqx.is_inexact_array))
        for tree in (given, expected)
    ]
    assert leaves[0]
    for (path, a), (_, b) in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=atol, err_msg=jax.tree_util.keystr(path))


def assert_moved(before: Any, online: Any, after: Any, rate: float) -> None:
    """The target network went so far towards the online one."""
    trees = [jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (before, online, after)]
    for old, goal, new in zip(*trees, strict=True):
        np.testing.assert_allclose(new, (1 - rate) * old + rate * goal, rtol=1e-5, atol=1e-7)


def assert_iql_step(before: Any, after: Any, metrics: Any, data: Transitions, config: Any) -> None:
    """One step of V, then of Q, then of the target critics: implicit Q-learning written out."""
    target_q = q(before.target, data.state, data.chunk).min(0)

    def value_of(value: Any, states: Any) -> Any:
        return mlp(value, states, jax.nn.relu)[:, 0]

    def value_loss(value: Any) -> Any:
        v = value_of(value, data.state)
        return jnp.mean(jnp.abs(config.expectile - (target_q < v)) * (target_q - v) ** 2)

    value, loss_of_value = adam_step(before.value, value_loss, config.learning_rate)
    assert_close(after.value, value)
    # Q, towards r + d V(s') with the new V
    target = data.reward + data.discount * value_of(value, data.next_state)
    if config.return_bound:
        target = jnp.maximum(target, data.return_to_go)

    def q_loss(critic: Any) -> Any:
        return jnp.mean((q(critic, data.state, data.chunk) - target) ** 2)

    critic, loss_of_q = adam_step(before.q, q_loss, config.learning_rate)
    assert_close(after.q, critic)
    assert_moved(before.target, after.q, after.target, config.target_rate)
    np.testing.assert_allclose(metrics["critic/loss"], loss_of_q, rtol=1e-4)
    np.testing.assert_allclose(metrics["critic/value_loss"], loss_of_value, rtol=1e-4)


def same(one: Any, other: Any) -> bool:
    """Whether all arrays agree bit for bit; keys count as arrays."""
    pairs = zip(*(jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (one, other)), strict=True)
    return all(bool(jnp.all(a == b)) for a, b in pairs)
