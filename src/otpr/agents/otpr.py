"""OTPR: a diffusion policy fine-tuned with optimal transport.

Source: Sun, Ding, Zhang, Wang, "Score-Based Diffusion Policy Compatible with Reinforcement Learning via
Optimal Transport", ICML 2025, arXiv 2502.12631. docs/fidelity.md compares paper, authors' release and this
file.

Critics learn from interaction (implicit Q-learning over action chunks). Their negative is the cost of an
optimal transport from states to actions, whose potentials u, v give the compatibility H(s, a). H says which
pairs the score matching trains on, and which of several sampled chunks is executed. Demonstrations stay in
every batch.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from otpr.agents.parts.agent import Agent
from otpr.agents.parts.iql import IQLCritics, iql_step
from otpr.agents.parts.otpr_config import PRESETS, OTPRConfig
from otpr.agents.parts.steps import gradient_step
from otpr.agents.parts.transport_batches import OTPRBatch, concatenate, draw_batch, draw_problem
from otpr.compatibility import Compatibility, TransportCost
from otpr.critics import QEnsemble, polyak
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import NoiseNetwork, denoising_losses
from otpr.ot import Potentials, TransportProblem, fit
from otpr.policy import Policy


class Plan(NamedTuple):
    """Pairs drawn from the transport plan between the states and the actions of a block."""

    states: Float[Array, "n s"]
    actions: Float[Array, "n a"]
    weights: Float[Array, " n"]  # 1, or 0 for a state whose row of H has no positive entry


class OTPR(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    network: NoiseNetwork  # of the policy, as trained
    policy: Policy  # with the moving average of `network`, without a chooser
    critic: QEnsemble
    target_critic: QEnsemble
    value: eqx.nn.MLP
    potentials: Potentials
    scale: Float[Array, ""]  # running spread of Q
    trained: Bool[Array, ""]  # whether the potentials have seen data
    keypoint_states: Float[Array, "k s"]
    keypoint_actions: Float[Array, "k a"]
    plan: Plan  # of the last round; the product measure's pairs come from it
    policy_state: optax.OptState
    critic_state: optax.OptState
    value_state: optax.OptState
    key: PRNGKeyArray
    config: OTPRConfig = eqx.field(static=True)
    follows: ClassVar[bool] = True
    batch_type: ClassVar[type[Any]] = OTPRBatch

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: OTPRConfig, key: PRNGKeyArray) -> OTPR:
        """An agent whose policy is `base` and whose critics and potentials know nothing yet.

        Args:
            base: the pre-trained policy, a diffusion policy.
            keypoints: demonstrated chunks that may be keypoints; the guiding cost refers to some of them.
            config: settings.
            key: of the networks, and of all randomness to come.
        """
        c = config
        state_dim, chunk_dim = keypoints.observation.shape[1], keypoints.chunk.shape[1]
        critic_key, value_key, potentials_key, key = jax.random.split(key, 4)
        critic = QEnsemble(
            state_dim,
            chunk_dim,
            size=c.num_critics,
            width=c.critic_width,
            depth=c.critic_depth,
            key=critic_key,
        )
        value = eqx.nn.MLP(state_dim, "scalar", c.critic_width, c.critic_depth, jax.nn.relu, key=value_key)
        potentials = _new_potentials(c, state_dim, chunk_dim, potentials_key)
        # evenly over them; only the guiding cost looks at these
        n = min(c.keypoints, keypoints.reward.shape[0])
        rows = jnp.linspace(0, keypoints.reward.shape[0] - 1, n).round().astype(int)
        return cls(
            network=base.diffusion.network,
            policy=base,
            critic=critic,
            target_critic=critic,
            value=value,
            potentials=potentials,
            scale=jnp.asarray(1.0, jnp.float32),
            trained=jnp.asarray(False),
            keypoint_states=base.normalizer(jnp.asarray(keypoints.observation)[rows]),
            keypoint_actions=jnp.asarray(keypoints.chunk)[rows],
            plan=Plan(
                jnp.zeros((c.ot_block, state_dim)), jnp.zeros((c.ot_block, chunk_dim)), jnp.zeros(c.ot_block)
            ),
            policy_state=optax.adam(c.policy_learning_rate).init(
                eqx.filter(base.diffusion.network, eqx.is_array)
            ),
            critic_state=optax.adam(c.learning_rate).init(eqx.filter(critic, eqx.is_array)),
            value_state=optax.adam(c.learning_rate).init(eqx.filter(value, eqx.is_array)),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """The policy as it acts: several samples, one of them chosen by compatibility."""
        chooser = self.compatibility(self.config.acting_guiding_share)
        return dataclasses.replace(self.policy, chooser=chooser, candidates=self.config.candidates)

    def compatibility(self, guiding_share: float) -> Compatibility:
        """H with the present potentials, target critics and value; `guiding_share` is alpha in the cost."""
        cost = TransportCost(
            critic=self.target_critic,
            value=self.value,
            scale=self.scale,
            keypoint_states=self.keypoint_states,
            keypoint_actions=self.keypoint_actions,
            alpha=guiding_share,
            temperature=self.config.guiding_temperature,
        )
        return Compatibility(cost, self.potentials, self.trained, self.config.epsilon)

    # --- critics and policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> OTPRBatch:
        """Replayed and demonstrated transitions, and a pool to choose pairs from."""
        return draw_batch(experience, self.config, key)

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critic(self.policy.normalizer(pairs.observation), pairs.chunk)

    def update(self, batch: OTPRBatch, update_policy: bool = True) -> tuple[OTPR, dict[str, Array]]:
        """One gradient step of V, Q and their targets, and (unless warming up) of the score network."""
        key, pair_key, noise_key = jax.random.split(self.key, 3)
        agent, metrics = dataclasses.replace(self, key=key)._update_critics(batch)
        if update_policy:
            agent, policy_metrics = agent._update_policy(batch, pair_key, noise_key)
            metrics |= policy_metrics
        return agent, metrics

    def _update_critics(self, batch: OTPRBatch) -> tuple[OTPR, dict[str, Array]]:
        """Implicit Q-learning (Kostrikov et al., 2022) with chunk-level rewards and discounts."""
        c = self.config
        critics, metrics = iql_step(
            IQLCritics(self.critic, self.target_critic, self.value, self.critic_state, self.value_state),
            concatenate(batch.replay, batch.demonstrations),
            self.policy.normalizer,
            expectile=c.expectile,
            learning_rate=c.learning_rate,
            target_rate=c.target_rate,
            return_bound=c.return_bound,
        )
        return dataclasses.replace(self, **critics._asdict()), metrics

    def _update_policy(
        self, batch: OTPRBatch, pair_key: PRNGKeyArray, noise_key: PRNGKeyArray
    ) -> tuple[OTPR, dict[str, Array]]:
        """Score matching on pairs drawn by compatibility, beside demonstrations taken as they are."""
        c = self.config
        states, chunks, weights, metrics = self._pairs(batch, pair_key)
        expert_states = self.policy.normalizer(batch.demonstrations.observation)
        states = jnp.concatenate([states, expert_states])
        chunks = jnp.concatenate([chunks, batch.demonstrations.chunk])
        weights = jnp.concatenate([weights, jnp.ones(expert_states.shape[0])])

        diffusion = self.policy.diffusion

        def loss_of(network: NoiseNetwork) -> Array:
            losses = denoising_losses(network, diffusion.schedule, states, chunks, noise_key)
            return jnp.mean(weights * losses)

        loss, gradient = eqx.filter_value_and_grad(loss_of)(self.network)
        network, policy_state = gradient_step(
            optax.adam(c.policy_learning_rate), gradient, self.policy_state, self.network
        )
        average = diffusion.with_network(polyak(diffusion.network, network, c.ema_rate))
        agent = dataclasses.replace(
            self,
            network=network,
            policy=dataclasses.replace(self.policy, generator=average),
            policy_state=policy_state,
        )
        return agent, {"policy/loss": loss, **metrics}

    def _pairs(
        self, batch: OTPRBatch, key: PRNGKeyArray
    ) -> tuple[Float[Array, "n s"], Float[Array, "n a"], Float[Array, " n"], dict[str, Array]]:
        """States, the chunks they are paired with, and weight 1, or 0 where H left a state without a partner.

        Resampling by compatibility (Gu et al., OTCS, NeurIPS 2023): the pair is drawn by H and trained
        unweighted.
        """
        c = self.config
        norm = self.policy.normalizer
        n = batch.replay.reward.shape[0]
        pool_states, pool_chunks = norm(batch.pool.observation), batch.pool.chunk
        if c.pairing == "imitation":
            return pool_states[:n], pool_chunks[:n], jnp.ones(n), {}
        compatibility = self.compatibility(c.guiding_share)
        if c.pairing == "occurring":
            H = compatibility(pool_states, pool_chunks)
            support = jnp.mean((H > 0) & self.trained)
            weights = jnp.where(
                support > 0, H, 1.0
            )  # imitation where there is no H to go by: support 0 says so
            rows = jax.random.categorical(key, jnp.log(weights), shape=(n,))
            effective = jnp.sum(weights) ** 2 / jnp.sum(weights**2) / weights.shape[0]
            metrics = {"policy/support": support, "policy/effective_share": effective}
            return pool_states[rows], pool_chunks[rows], jnp.ones(n), metrics
        rows = jax.random.randint(key, (n,), 0, self.plan.weights.shape[0])
        plan = self.plan
        return plan.states[rows], plan.actions[rows], plan.weights[rows], {}

    # --- transport

    def follow(self, experience: Experience) -> tuple[OTPR, dict[str, Array]]:
        """Let the potentials follow the critic until they hold on pairs they were not trained on."""
        key, occurring_key = jax.random.split(self.key)
        agent = dataclasses.replace(self, key=key)
        agent = agent._begin_round(experience.replay.sample(occurring_key, SPREAD))
        return agent._update_potentials(experience)

    def _begin_round(self, occurring: Transitions) -> OTPR:
        """Follow the spread of Q over replayed pairs; forget the potentials if they are not to stay warm."""
        c = self.config
        key, new_key = jax.random.split(self.key)
        q = self.target_critic.minimum(self.policy.normalizer(occurring.observation), occurring.chunk)
        spread = jnp.maximum(jnp.std(q), 1e-3)  # a critic that knows nothing yet must not divide by zero
        # slowly, so that warm potentials keep fitting; the first time at once
        scale = jnp.where(self.trained, self.scale + 0.2 * (spread - self.scale), spread)
        agent = dataclasses.replace(self, scale=scale, key=key)
        if c.warm_start:
            return agent
        state_dim, chunk_dim = self.keypoint_states.shape[1], self.keypoint_actions.shape[1]
        return dataclasses.replace(agent, potentials=_new_potentials(c, state_dim, chunk_dim, new_key))

    def _update_potentials(self, experience: Experience) -> tuple[OTPR, dict[str, Array]]:
        def draw(key: PRNGKeyArray, n: int) -> TransportProblem:
            return draw_problem(experience, self, key, n)

        c = self.config
        key, fit_key, problem_key, plan_key = jax.random.split(self.key, 4)
        transport = fit(
            self.potentials,
            draw,
            self.compatibility(c.guiding_share).cost.pairwise,
            c.epsilon,
            key=fit_key,
            method=c.potentials_method,
            block=c.ot_block,
            blocks=c.ot_blocks,
            steps=c.potentials_steps,
            batch=c.ot_batch,
            learning_rate=c.potentials_learning_rate,
            tolerance=c.potentials_tolerance,
            max_passes=c.potentials_passes,
        )
        plan = self.plan
        if c.pairing == "product":
            problem = draw(problem_key, c.ot_block)
            plan = _draw_plan(problem, transport.compatibility(*problem), plan_key)
        agent = dataclasses.replace(
            self, potentials=transport.potentials, trained=jnp.asarray(True), plan=plan, key=key
        )
        return agent, {
            "ot/marginal_error": transport.marginal_error,
            "ot/row_error": transport.row_error,
            "ot/column_error": transport.column_error,
            "ot/support": transport.support,
            "ot/passes": transport.passes,
            "ot/unsolved": transport.unsolved,
            "ot/scale": self.scale,
        }


SPREAD = 256
"""Replayed pairs over which the spread of Q is taken."""


def _draw_plan(problem: TransportProblem, H: Float[Array, "n n"], key: PRNGKeyArray) -> Plan:
    """For each state a partner, by H (a keypoint's is its own: the mask leaves it no other)."""
    has_partner = jnp.any(H > 0, axis=1)
    columns = jax.random.categorical(key, jnp.log(jnp.where(has_partner[:, None], H, 1.0)), axis=1)
    return Plan(problem.states, problem.actions[columns], has_partner.astype(jnp.float32))


def _new_potentials(config: OTPRConfig, state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Potentials:
    return Potentials(
        state_dim, chunk_dim, width=config.potentials_width, depth=config.potentials_depth, key=key
    )


__all__ = ["AGENT", "OTPR", "PRESETS"]

AGENT = OTPR
