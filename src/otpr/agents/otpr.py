"""OTPR: a diffusion policy fine-tuned with optimal transport (Sun, Ding, Zhang, Wang, ICML 2025, arXiv 2502.12631).

The agent is one immutable pytree. `update` improves critics and policy on a batch of transitions; `update_potentials` follows the moved critic
with the potentials u, v of the transport problem whose cost is -Q; `policy()` is what acts.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from otpr.compatibility import Compatibility, TransportCost
from otpr.critics import QEnsemble, expectile_loss, polyak
from otpr.data.chunks import Transitions
from otpr.diffusion import denoising_losses
from otpr.ot import Potentials, ascend, keypoint_mask, marginal_errors
from otpr.ot import compatibility as compatibility_of
from otpr.policy import Policy


@dataclasses.dataclass(frozen=True)
class OTPRConfig:
    gamma: float = 0.99
    expectile: float = 0.7
    num_critics: int = 2
    critic_width: int = 256
    critic_depth: int = 2
    target_rate: float = 0.005
    target: Literal["expectile", "best_of_n"] = "expectile"
    target_samples: int = 4
    learning_rate: float = 3e-4
    policy_learning_rate: float = 3e-4
    ema_rate: float = 0.005
    batch_size: int = 256
    demo_share: float = 0.25
    pairing: Literal["occurring", "product", "none"] = "occurring"
    pool: int = 2
    target_measure: Literal["replay", "successes"] = "replay"
    epsilon: float = 0.2
    alpha: float = 0.0
    temperature: float = 0.1
    keypoint_share: float = 0.0
    potentials_width: int = 256
    potentials_depth: int = 2
    potentials_learning_rate: float = 1e-3
    potentials_decay: float = 0.0
    ot_block: int = 512
    ot_batch: int = 128
    dual_steps: int = 200
    candidates: int = 16


class Batch(NamedTuple):
    replay: Transitions  # what the agent did, for the critics
    demonstrations: Transitions  # what the demonstrations did, for the critics and the policy
    pool: Transitions  # from which the policy's pairs are drawn by compatibility


class OTPR(eqx.Module):
    policy_network: eqx.Module
    policy: Policy  # its network is the moving average of policy_network
    critic: QEnsemble
    target_critic: QEnsemble
    value: eqx.nn.MLP
    potentials: Potentials
    scale: Float[Array, ""]
    trained: Bool[Array, ""]
    keypoint_states: Float[Array, "k s"]
    keypoint_actions: Float[Array, "k a"]
    policy_state: optax.OptState
    critic_state: optax.OptState
    value_state: optax.OptState
    potentials_state: optax.OptState
    key: PRNGKeyArray
    config: OTPRConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: OTPRConfig, key: PRNGKeyArray) -> OTPR:
        c = config
        state_dim = base.normalizer.mean.shape[0]
        chunk_dim = base.chunk_length * base.action_dim
        critic_key, value_key, potential_key, key = jax.random.split(key, 4)
        critic = QEnsemble(
            state_dim,
            chunk_dim,
            size=c.num_critics,
            width=c.critic_width,
            depth=c.critic_depth,
            key=critic_key,
        )
        value = eqx.nn.MLP(
            state_dim, "scalar", c.critic_width, c.critic_depth - 1, jax.nn.relu, key=value_key
        )
        potentials = Potentials(
            state_dim, chunk_dim, width=c.potentials_width, depth=c.potentials_depth, key=potential_key
        )

        def opt_state(optimizer, tree):
            return optimizer.init(eqx.filter(tree, eqx.is_array))

        return cls(
            policy_network=base.network,
            policy=base,
            critic=critic,
            target_critic=critic,
            value=value,
            potentials=potentials,
            scale=jnp.asarray(1.0),
            trained=jnp.asarray(False),
            keypoint_states=base.normalizer(jnp.asarray(keypoints.observation)),
            keypoint_actions=jnp.asarray(keypoints.chunk),
            policy_state=opt_state(optax.adam(c.policy_learning_rate), base.network),
            critic_state=opt_state(optax.adam(c.learning_rate), critic),
            value_state=opt_state(optax.adam(c.learning_rate), value),
            potentials_state=opt_state(_potentials_optimizer(c), potentials),
            key=key,
            config=c,
        )

    def compatibility(self) -> Compatibility:
        cost = TransportCost(
            self.target_critic,
            self.value,
            self.scale,
            self.keypoint_states,
            self.keypoint_actions,
            self.config.alpha,
            self.config.temperature,
        )
        return Compatibility(cost, self.potentials, self.trained, self.config.epsilon)

    def deployed(self) -> Policy:
        return dataclasses.replace(
            self.policy, chooser=self.compatibility(), candidates=self.config.candidates
        )

    # ---------------------------------------------------------------- critics
    def _bootstrap(self, next_states, key):
        if self.config.target == "expectile":
            return jax.vmap(self.value)(next_states)
        n = self.config.target_samples
        keys = jax.random.split(key, next_states.shape[0])
        chunks = jax.vmap(lambda s, k: self.policy.propose(s, k, n))(next_states, keys)
        q = jax.vmap(lambda c: self.target_critic.minimum(next_states, c), in_axes=1)(chunks)
        return jnp.max(q, axis=0)

    def update(self, batch: Batch, update_policy: bool = True):
        c = self.config
        (
            key,
            target_key,
            pair_key,
            noise_key,
        ) = jax.random.split(self.key, 4)
        norm = self.policy.normalizer
        data = Transitions(
            *(jnp.concatenate(f) for f in zip(batch.replay, batch.demonstrations, strict=True))
        )
        states, next_states = norm(data.observation), norm(data.next_observation)
        target_q = self.target_critic.minimum(states, data.chunk)

        def value_loss(value):
            v = jax.vmap(value)(states)
            return jnp.mean(expectile_loss(target_q - v, c.expectile)), v

        (v_loss, v), grad = eqx.filter_value_and_grad(value_loss, has_aux=True)(self.value)
        value, value_state = _apply(optax.adam(c.learning_rate), grad, self.value_state, self.value)

        y = data.reward + data.discount * self._bootstrap(next_states, target_key)

        def critic_loss(critic):
            q = critic(states, data.chunk)
            return jnp.mean((q - y) ** 2), q

        (q_loss, q), grad = eqx.filter_value_and_grad(critic_loss, has_aux=True)(self.critic)
        critic, critic_state = _apply(optax.adam(c.learning_rate), grad, self.critic_state, self.critic)
        target_critic = polyak(self.target_critic, critic, c.target_rate)
        metrics = {
            "critic/loss": q_loss,
            "critic/value_loss": v_loss,
            "critic/q": jnp.mean(q),
            "critic/q_max": jnp.max(q),
            "critic/value": jnp.mean(v),
        }
        new = dataclasses.replace(
            self,
            value=value,
            value_state=value_state,
            critic=critic,
            critic_state=critic_state,
            target_critic=target_critic,
            key=key,
        )
        if update_policy:
            new, policy_metrics = new._update_policy(batch, pair_key, noise_key)
            metrics |= policy_metrics
        return new, metrics

    # ---------------------------------------------------------------- policy
    def _pairs(self, batch: Batch, key):
        c = self.config
        norm = self.policy.normalizer
        n_demo = batch.demonstrations.reward.shape[0]
        n = c.batch_size - n_demo
        states, chunks = norm(batch.pool.observation), batch.pool.chunk
        if c.pairing == "none":
            return states[:n], chunks[:n], {}
        compat = self.compatibility()
        if c.pairing == "occurring":
            H = jnp.where(self.trained, compat(states, chunks), 1.0)
            metrics = {
                "policy/compatibility": H.mean(),
                "policy/support": (H > 0).mean(),
                "policy/ess": H.sum() ** 2 / jnp.maximum((H**2).sum(), 1e-8) / H.shape[0],
            }
            rows = jax.random.categorical(key, jnp.log(jnp.maximum(H, 1e-12)), shape=(n,))
            return states[rows], chunks[rows], metrics
        # product measure: rows are replay states, columns the pool's chunks
        rows = norm(batch.replay.observation)[:n]
        H = compatibility_of(
            compat.potentials.u(rows),
            compat.potentials.v(chunks),
            compat.cost.pairwise(rows, chunks),
            c.epsilon,
        )
        columns = jax.random.categorical(key, jnp.log(jnp.maximum(H, 1e-12)), axis=1)
        return rows, chunks[columns], {"policy/support": (H > 0).mean()}

    def _update_policy(self, batch: Batch, pair_key, noise_key):
        c = self.config
        states, chunks, metrics = self._pairs(batch, pair_key)
        states = jnp.concatenate([states, self.policy.normalizer(batch.demonstrations.observation)])
        chunks = jnp.concatenate([chunks, batch.demonstrations.chunk])

        def loss(network):
            return jnp.mean(denoising_losses(network, self.policy.schedule, states, chunks, noise_key))

        value, grad = eqx.filter_value_and_grad(loss)(self.policy_network)
        network, policy_state = _apply(
            optax.adam(c.policy_learning_rate), grad, self.policy_state, self.policy_network
        )
        average = polyak(self.policy.network, network, c.ema_rate)
        new = dataclasses.replace(
            self,
            policy_network=network,
            policy_state=policy_state,
            policy=dataclasses.replace(self.policy, network=average),
        )
        return new, {"policy/loss": value, **metrics}

    # ---------------------------------------------------------------- transport
    def update_potentials(
        self, rows: Transitions, columns: Transitions, held_rows: Transitions, held_columns: Transitions
    ):
        c = self.config
        norm = self.policy.normalizer
        key, ascend_key = jax.random.split(self.key)
        states = norm(rows.observation)
        q = self.target_critic.minimum(states, rows.chunk)
        scale = jnp.maximum(jnp.std(q), 1e-3)
        scale = jnp.where(self.trained, self.scale + 0.2 * (scale - self.scale), scale)
        new = dataclasses.replace(self, scale=scale, key=key)
        compat = new.compatibility()
        actions = columns.chunk
        mask = None
        k = int(round(c.keypoint_share * states.shape[0]))
        if k > 0:
            idx = jnp.arange(states.shape[0])
            ids = jnp.where(idx < k, idx, -1)
            mask = keypoint_mask(ids, ids)
        cost = compat.cost.pairwise(states, actions)
        potentials, potentials_state = ascend(
            self.potentials,
            _potentials_optimizer(c),
            self.potentials_state,
            states,
            actions,
            cost,
            c.epsilon,
            mask,
            steps=c.dual_steps,
            batch=c.ot_batch,
            key=ascend_key,
        )
        new = dataclasses.replace(
            new, potentials=potentials, potentials_state=potentials_state, trained=jnp.asarray(True)
        )
        H = compatibility_of(potentials.u(states), potentials.v(actions), cost, c.epsilon, mask)
        row_e, col_e = marginal_errors(H)
        hs, ha = norm(held_rows.observation), held_columns.chunk
        Hh = compatibility_of(potentials.u(hs), potentials.v(ha), compat.cost.pairwise(hs, ha), c.epsilon)
        hrow, hcol = marginal_errors(Hh)
        return new, {
            "ot/row_error": hrow,
            "ot/column_error": hcol,
            "ot/marginal_error": (hrow + hcol) / 2,
            "ot/train_error": (row_e + col_e) / 2,
            "ot/support": (Hh > 0).mean(),
            "ot/scale": scale,
            "ot/diag_H": jnp.mean(jnp.diagonal(H)),
        }


def _potentials_optimizer(c: OTPRConfig):
    return optax.adamw(c.potentials_learning_rate, weight_decay=c.potentials_decay)


def _apply(optimizer, gradient, state, model):
    updates, state = optimizer.update(gradient, state, eqx.filter(model, eqx.is_array))
    return eqx.apply_updates(model, updates), state
