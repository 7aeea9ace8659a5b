"""Operations of matrix products, counted from a program's shapes."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from benchmarks import learner
from benchmarks.flops import matrix_flops
from benchmarks.sizes import TINY
from benchmarks.subjects import batch_keys, experience
from otpr.networks.critics import QEnsemble
from otpr.training.learning import update_block


def test_products_loops_and_branches():
    x, y = jnp.ones((3, 4)), jnp.ones((4, 5))
    assert matrix_flops(jnp.matmul, x, y) == 2 * 3 * 4 * 5
    assert matrix_flops(lambda x, y: jnp.sin(x) + 1, x, y) == 0
    assert matrix_flops(jax.vmap(jnp.matmul), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * 120
    square = jnp.ones((4, 4))
    assert matrix_flops(lambda x: jax.lax.fori_loop(0, 6, lambda _, c: c @ c, x), square) == 6 * 128
    assert matrix_flops(lambda x: jax.lax.map(lambda row: x @ row, x), square) == 4 * 32
    either = (lambda x: x @ x @ x, lambda x: x @ x)
    assert matrix_flops(lambda x: jax.lax.cond(x[0, 0] > 0, *either, x), square) == 128

    def unknown(body, x):
        return jax.lax.while_loop(lambda c: c[0, 0] < 9, body, x)

    def nested(x):
        return unknown(lambda c: unknown(lambda d: d @ d, c @ c), x)

    assert matrix_flops(unknown, lambda c: c @ c, square) == 128
    assert matrix_flops(unknown, lambda c: c @ c, square, turns=5) == 5 * 128
    assert matrix_flops(nested, square, turns=5) == 5 * 2 * 128


@pytest.mark.parametrize("trained", [False, True])
def test_a_piece_without_loops_as_xla_counts_it(trained: bool):
    critic = QEnsemble(39, 32, size=2, width=64, depth=2, key=jax.random.key(0))
    states, actions = jnp.ones((128, 39)), jnp.ones((128, 32))

    def value(critic, states, actions):
        return jnp.mean(critic(states, actions) ** 2)

    function = eqx.filter_grad(value) if trained else value
    ours = matrix_flops(function, critic, states, actions)
    # the last layer is a sum, no product
    forward = 2 * 128 * 2 * ((39 + 32) * 64 + 64 * 64)
    # backwards twice the forward pass, but for the first layer, whose inputs need no gradient
    backward = 2 * forward - 2 * 128 * 2 * (39 + 32) * 64
    assert ours == forward + trained * backward
    xla = eqx.filter_jit(function).lower(critic, states, actions).compile().compiled.cost_analysis()["flops"]
    assert ours <= xla <= 1.3 * ours  # XLA counts element-wise work too


def test_a_block_of_updates_by_hand():
    agent, data = learner.learner(TINY, 16, 2), experience(TINY, 50, 2)
    batch, o, c, w = 32, 39, 8, 16

    def network(inputs: int, outputs: int = 1) -> int:
        return 2 * (inputs * w + w * w + w * outputs)

    def trained(inputs: int, first: int, outputs: int = 1) -> int:
        return 3 * network(inputs, outputs) - 2 * first * w

    q = network(o + c, 0)  # the last layer of a critic is a sum, no product
    critics = 2 * q + trained(o, o) + network(o) + 2 * trained(o + c, o + c, 0)
    denoiser = trained(o + c + 16, o + c + 16, c)
    compatibility = 2 * q + 2 * network(o) + network(c)  # Q, V, u and v
    reward = 2 * 2  # the discounted sum over a chunk of two actions, gathered with the batch
    assert matrix_flops(update_block, agent, data, batch_keys(3), True) == (
        3 * batch * (critics + denoiser + reward) + agent.config.pairs * compatibility
    )
