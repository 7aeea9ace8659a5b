from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.networks.critics import QEnsemble, StateActionMLP


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

    def test_pairwise_minimum_is_the_same_in_the_pieces_of_an_accelerator(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        critic, states, actions = ensemble(), data(7, 3, 4), data(700, 4, 5)
        here = critic.pairwise_minimum(states, actions)
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        np.testing.assert_allclose(critic.pairwise_minimum(states, actions), here, atol=1e-5)

    def test_pairwise_minimum_in_several_blocks_of_rows(self) -> None:
        # 16000 columns make blocks of two rows, and five rows leave a remainder
        critic = ensemble(size=2)
        states, actions = data(5, 3, 6), data(16_000, 4, 7)
        pairwise = np.asarray(eqx.filter_jit(QEnsemble.pairwise_minimum)(critic, states, actions))
        assert pairwise.shape == (5, 16_000)
        for i in range(5):
            row = critic.minimum(jnp.broadcast_to(states[i], (16_000, 3)), actions)
            np.testing.assert_allclose(pairwise[i], row, atol=1e-5)
