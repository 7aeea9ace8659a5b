from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from otpr.networks.critics import QEnsemble, StateActionMLP, expectile_loss, polyak


def data(n: int, d: int, seed: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def in_numpy(tree):
    """Arrays by NumPy: JAX would compile every small operation of the references."""
    return jax.tree.map(lambda leaf: np.asarray(leaf) if eqx.is_array(leaf) else leaf, tree)


def ensemble(*, size: int = 3, depth: int = 2, seed: int = 0) -> QEnsemble:
    return QEnsemble(3, 4, size=size, width=8, depth=depth, key=jax.random.key(seed))


def member(critic: QEnsemble, i: int) -> StateActionMLP:
    return jax.tree.map(lambda leaf: leaf[i] if eqx.is_array(leaf) else leaf, in_numpy(critic.members))


def forward(network: StateActionMLP, state, action) -> float:
    """An ordinary MLP with layer normalisation, on the concatenation of state and action, in NumPy."""
    network, state, action = in_numpy((network, state, action))
    weight = np.concatenate([network.state_layer.weight, network.action_layer.weight], axis=1)
    assert network.action_layer.bias is None  # one bias, as in an ordinary layer
    x = weight.astype(np.float64) @ np.concatenate([state, action]) + np.asarray(network.state_layer.bias)
    for i, norm in enumerate(network.norms):
        if i > 0:
            layer = network.hidden[i - 1]
            x = np.asarray(layer.weight) @ x + np.asarray(layer.bias)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * np.asarray(norm.weight) + np.asarray(norm.bias)
        x = np.maximum(x, 0)
    return float((np.asarray(network.out.weight) @ x + np.asarray(network.out.bias))[0])


class TestStateActionMLP:
    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_split_first_layer_is_an_ordinary_mlp_on_the_concatenation(self, depth: int) -> None:
        network = StateActionMLP(3, 4, width=8, depth=depth, key=jax.random.key(1))
        assert len(network.norms) == depth and len(network.hidden) == depth - 1
        # a norm that does something of its own
        network = eqx.tree_at(lambda n: n.norms[0].weight, network, jnp.linspace(0.5, 2, 8))
        for state, action in zip(data(4, 3, 0), data(4, 4, 1), strict=True):
            expected = forward(network, state, action)
            assert float(network(state[None], action[None])[0]) == pytest.approx(expected, abs=1e-5)

    def test_value_is_bounded_however_far_the_action(self) -> None:
        network = StateActionMLP(3, 4, width=8, depth=2, key=jax.random.key(1))
        state, direction = data(1, 3, 0)[0], data(1, 4, 1)[0]
        far, farther = (float(network(state[None], scale * direction[None])[0]) for scale in (1e4, 1e6))
        assert far == pytest.approx(farther, abs=1e-2)


class TestEnsemble:
    states, actions = data(5, 3, 2), data(5, 4, 3)

    def test_each_member_is_its_own_network_on_each_pair(self) -> None:
        critic = ensemble()
        expected = [
            [forward(member(critic, i), s, a) for s, a in zip(self.states, self.actions, strict=True)]
            for i in range(3)
        ]
        np.testing.assert_allclose(critic(self.states, self.actions), expected, atol=1e-5)

    def test_members_really_differ(self) -> None:
        critic = ensemble(size=4)
        layers = (critic.members.state_layer, critic.members.action_layer, critic.members.out)
        for leaf in jax.tree.leaves(in_numpy(eqx.filter(layers, eqx.is_array))):
            for i in range(4):
                for j in range(i):
                    assert np.abs(leaf[i] - leaf[j]).max() > 1e-3
        values = np.asarray(critic(self.states, self.actions))
        assert values.std(axis=0).min() > 1e-3

    def test_members_learn_apart(self) -> None:
        critic = ensemble()

        def loss_of_second(critic):
            return jnp.sum(critic(self.states, self.actions)[1] ** 2)

        gradient = np.asarray(eqx.filter_jit(eqx.filter_grad(loss_of_second))(critic).members.out.weight)
        assert np.abs(gradient[1]).max() > 0
        assert np.all(gradient[0] == 0) and np.all(gradient[2] == 0)

    def test_minimum(self) -> None:
        critic, states, actions = ensemble(), data(200, 3, 4), data(200, 4, 5)
        values = np.asarray(critic(states, actions))
        np.testing.assert_array_equal(critic.minimum(states, actions), values.min(axis=0))
        assert len(set(values.argmin(axis=0))) == 3  # each member is somewhere the least

    @pytest.mark.parametrize("depth", [1, 3])
    def test_pairwise_minimum_is_the_loop_over_all_pairs(self, depth: int) -> None:
        critic = ensemble(depth=depth)
        states, actions = data(7, 3, 4), data(6, 4, 5)
        expected = [
            [min(forward(member(critic, i), s, a) for i in range(3)) for a in actions] for s in states
        ]
        np.testing.assert_allclose(critic.pairwise_minimum(states, actions), expected, atol=1e-5)

    def test_pairwise_minimum_in_several_blocks_of_rows(self) -> None:
        # 16000 columns make blocks of two rows, and five rows leave a remainder
        critic = ensemble(size=2)
        states, actions = data(5, 3, 6), data(16_000, 4, 7)
        pairwise = np.asarray(eqx.filter_jit(QEnsemble.pairwise_minimum)(critic, states, actions))
        assert pairwise.shape == (5, 16_000)
        for i in range(5):
            row = critic.minimum(jnp.broadcast_to(states[i], (16_000, 3)), actions)
            np.testing.assert_allclose(pairwise[i], row, atol=1e-5)


class TestExpectile:
    @given(
        difference=arrays(np.float32, 5, elements=st.floats(-10, 10, width=32)),
        expectile=st.floats(0.01, 0.99),
    )
    def test_closed_form(self, difference, expectile: float) -> None:
        expected = [abs(expectile - (1 if d < 0 else 0)) * d**2 for d in difference.astype(float)]
        np.testing.assert_allclose(
            expectile_loss(jnp.asarray(difference), expectile), expected, rtol=1e-5, atol=1e-30
        )

    @pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9])
    def test_its_minimiser_is_the_expectile_of_the_sample(self, expectile: float) -> None:
        targets = np.random.default_rng(0).gamma(2.0, size=200)
        with jax.enable_x64(True):
            loss = jax.jit(lambda v: jnp.mean(expectile_loss(jnp.asarray(targets) - v, expectile)))
            found = optimize.minimize_scalar(
                lambda v: float(loss(v)), bounds=(0, 10), options={"xatol": 1e-9}
            )
            slope = float(jax.grad(loss)(stats.expectile(targets, expectile)))
        assert found.x == pytest.approx(stats.expectile(targets, expectile), abs=1e-6)
        assert slope == pytest.approx(0, abs=1e-9)

    def test_a_high_expectile_leans_on_the_better_targets(self) -> None:
        # two targets 0 and 1: tau (1 - v) = (1 - tau) v, so v = tau
        with jax.enable_x64(True):
            slope = jax.grad(lambda v: jnp.sum(expectile_loss(jnp.array([0.0, 1.0]) - v, 0.8)))
            assert float(slope(0.8)) == pytest.approx(0, abs=1e-12)
            assert float(slope(0.5)) < 0 < float(slope(0.9))  # so descent moves v up to it, or down to it


class TestPolyak:
    @given(
        rate=st.floats(0, 1, width=32), target=st.floats(-5, 5, width=32), online=st.floats(-5, 5, width=32)
    )
    def test_values(self, rate: float, target: float, online: float) -> None:
        mixed = polyak({"w": jnp.float32(target)}, {"w": jnp.float32(online)}, rate)
        assert float(mixed["w"]) == pytest.approx((1 - rate) * target + rate * online, abs=1e-5)

    def test_follows_every_parameter_of_an_ensemble(self) -> None:
        target, online = ensemble(seed=0), ensemble(seed=1)
        mixed = polyak(target, online, 0.25)
        leaves = [jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (mixed, target, online)]
        for m, t, o in zip(*leaves, strict=True):
            np.testing.assert_allclose(m, 0.75 * t + 0.25 * o, atol=1e-6)
        states, actions = data(5, 3, 2), data(5, 4, 3)
        whole = polyak(target, online, 1.0)
        np.testing.assert_allclose(whole(states, actions), online(states, actions), atol=1e-5)
        np.testing.assert_array_equal(polyak(target, online, 0.0)(states, actions), target(states, actions))

    def test_repeated_it_approaches_geometrically(self) -> None:
        target, online = {"w": jnp.zeros(2)}, {"w": jnp.array([1.0, -2.0])}
        for _ in range(50):
            target = polyak(target, online, 0.1)
        np.testing.assert_allclose(target["w"], (1 - 0.9**50) * np.array([1.0, -2.0]), rtol=1e-5)

    def test_leaves_that_are_no_real_arrays_stay(self) -> None:
        target = {"count": jnp.array(3), "w": jnp.array(0.0), "activation": jax.nn.relu}
        mixed = polyak(target, {"count": jnp.array(9), "w": jnp.array(1.0), "activation": jax.nn.relu}, 0.5)
        assert int(mixed["count"]) == 3 and float(mixed["w"]) == 0.5 and mixed["activation"] is jax.nn.relu
