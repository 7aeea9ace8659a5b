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

from otpr.agents.otpr.batches import (
    OTPRBatch,
    concatenate,
    draw_batch,
    draw_problem,
    draw_targets,
)
from otpr.agents.otpr.compatibility import Compatibility, TransportCost
from otpr.agents.otpr.config import PRESETS, OTPRConfig
from otpr.agents.parts.agent import Agent
from otpr.agents.parts.diffusion_policy import TrainedPolicy, new_trained_policy, policy_step
from otpr.agents.parts.iql import IQLCritics, iql_step, new_iql_critics
from otpr.data.chunks import Transitions
from otpr.data.experience import Experience
from otpr.diffusion import denoising_losses
from otpr.networks.critics import QEnsemble
from otpr.networks.mlp import NoiseNetwork
from otpr.ot import Potentials, TransportProblem, fit
from otpr.policies.policy import Policy


class Pairs(NamedTuple):
    """Pairs that the score matching trains on, drawn by compatibility before a block of gradient steps."""

    states: Float[Array, "n s"]
    chunks: Float[Array, "n a"]
    weights: Float[Array, " n"]  # 1, or 0 for a state that H leaves without a partner
    support: Float[Array, ""]  # share with positive H of what was drawn from; 0: imitated as it comes
    effective_share: Float[Array, ""]  # effective sample size of drawing by H, over the number drawn from


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
    pairs: Pairs  # of the last block of gradient steps
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
        critic_key, potentials_key, key = jax.random.split(key, 3)
        critics = new_iql_critics(keypoints, c, critic_key)
        potentials = _new_potentials(c, state_dim, chunk_dim, potentials_key)
        # evenly over them; only the guiding cost looks at these
        n = min(c.keypoints, keypoints.reward.shape[0])
        rows = jnp.linspace(0, keypoints.reward.shape[0] - 1, n).round().astype(int)
        return cls(
            **new_trained_policy(base, optax.adam(c.policy_learning_rate))._asdict(),
            **critics._asdict(),
            potentials=potentials,
            scale=jnp.asarray(1.0, jnp.float32),
            trained=jnp.asarray(False),
            keypoint_states=base.normalizer(jnp.asarray(keypoints.observation)[rows]),
            keypoint_actions=jnp.asarray(keypoints.chunk)[rows],
            pairs=_no_pairs(c.ot_block if c.pairing == "product" else c.pairs, state_dim, chunk_dim),
            key=key,
            config=c,
        )

    def deployed(self) -> Policy:
        """Several samples, of which the most compatible is taken (or one drawn by compatibility)."""
        return self._choosing(self.config.greedy)

    def exploring(self) -> Policy:
        """Several samples, one of them drawn by compatibility."""
        return self._choosing(greedy=False)

    def _choosing(self, greedy: bool) -> Policy:
        chooser = dataclasses.replace(self.compatibility(self.config.acting_guiding_share), greedy=greedy)
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
        key, rows_key, noise_key = jax.random.split(self.key, 3)
        agent, metrics = dataclasses.replace(self, key=key)._update_critics(batch)
        if update_policy:
            agent, policy_metrics = agent._update_policy(batch, rows_key, noise_key)
            metrics |= policy_metrics
        return agent, metrics

    def _update_critics(self, batch: OTPRBatch) -> tuple[OTPR, dict[str, Array]]:
        """Implicit Q-learning (Kostrikov et al., 2022) with chunk-level rewards and discounts."""
        c = self.config
        critics, metrics = iql_step(
            IQLCritics(self.critic, self.target_critic, self.critic_state, self.value, self.value_state),
            concatenate(batch.replay, batch.demonstrations),
            self.policy.normalizer,
            c,
            expectile=c.expectile,
        )
        return dataclasses.replace(self, **critics._asdict()), metrics

    def _update_policy(
        self, batch: OTPRBatch, rows_key: PRNGKeyArray, noise_key: PRNGKeyArray
    ) -> tuple[OTPR, dict[str, Array]]:
        """Score matching on pairs drawn by compatibility, beside demonstrations taken as they are."""
        c, pairs = self.config, self.pairs
        rows = jax.random.randint(rows_key, (batch.replay.reward.shape[0],), 0, pairs.weights.shape[0])
        expert_states = self.policy.normalizer(batch.demonstrations.observation)
        states = jnp.concatenate([pairs.states[rows], expert_states])
        chunks = jnp.concatenate([pairs.chunks[rows], batch.demonstrations.chunk])
        weights = jnp.concatenate([pairs.weights[rows], jnp.ones(expert_states.shape[0])])

        schedule = self.policy.diffusion.schedule

        def loss_of(network: NoiseNetwork) -> tuple[Array, dict[str, Array]]:
            return jnp.mean(weights * denoising_losses(network, schedule, states, chunks, noise_key)), {}

        trained, metrics = policy_step(
            TrainedPolicy(self.network, self.policy, self.policy_state),
            optax.adam(c.policy_learning_rate),
            c.ema_rate,
            loss_of,
        )
        metrics |= {"policy/support": pairs.support, "policy/effective_share": pairs.effective_share}
        return dataclasses.replace(self, **trained._asdict()), metrics

    def prepare(self, experience: Experience) -> OTPR:
        """Draw the pairs of the next gradient steps by compatibility.

        Resampling by compatibility (Gu et al., OTCS, NeurIPS 2023): a pair is drawn by H and trained on
        unweighted.
        """
        c, compatibility = self.config, self.compatibility(self.config.guiding_share)
        key, draw_key, choice_key = jax.random.split(self.key, 3)
        n = self.pairs.weights.shape[0]
        if c.pairing == "product":
            problem = draw_problem(experience, self, draw_key, n)
            # before there are potentials every H counts as zero
            pairs = partners(problem, self.trained * compatibility.pairwise(*problem), choice_key)
        else:
            drawn = draw_targets(experience, c, draw_key, n)
            states, chunks = self.policy.normalizer(drawn.observation), drawn.chunk
            H = compatibility(states, chunks) if c.pairing == "occurring" else jnp.ones(n)
            pairs = resampled(states, chunks, self.trained * H, choice_key)
        return dataclasses.replace(self, pairs=pairs, key=key)

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
        key, fit_key = jax.random.split(self.key)
        transport = fit(
            self.potentials,
            draw,
            self.compatibility(c.guiding_share).cost.pairwise,
            c.epsilon,
            key=fit_key,
            method=c.potentials_method,
            column_relaxation=c.column_relaxation,
            block=c.ot_block,
            blocks=c.ot_blocks,
            steps=c.potentials_steps,
            batch=c.ot_batch,
            learning_rate=c.potentials_learning_rate,
            tolerance=c.potentials_tolerance,
            max_passes=c.potentials_passes,
        )
        agent = dataclasses.replace(self, potentials=transport.potentials, trained=jnp.asarray(True), key=key)
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


def resampled(
    states: Float[Array, "n s"], chunks: Float[Array, "n a"], H: Float[Array, " n"], key: PRNGKeyArray
) -> Pairs:
    """As many pairs as given, drawn from them by H with replacement; as they come where every H is zero."""
    support = jnp.mean(H > 0)
    weights = jnp.where(support > 0, H, 1.0)
    n = weights.shape[0]
    rows = jax.random.choice(key, n, (n,), p=weights / jnp.sum(weights))
    effective = jnp.sum(weights) ** 2 / jnp.sum(weights**2) / n
    return Pairs(states[rows], chunks[rows], jnp.ones(n), support, effective)


def partners(problem: TransportProblem, H: Float[Array, "n n"], key: PRNGKeyArray) -> Pairs:
    """For each state a partner, by H (a keypoint's is its own: the mask leaves it no other)."""
    has_partner = jnp.any(H > 0, axis=1)
    columns = jax.random.categorical(key, jnp.log(jnp.where(has_partner[:, None], H, 1.0)), axis=1)
    weights = has_partner.astype(jnp.float32)
    effective = jnp.sum(H) ** 2 / jnp.maximum(jnp.sum(H**2), 1e-12) / H.size
    return Pairs(problem.states, problem.actions[columns], weights, jnp.mean(H > 0), effective)


def _no_pairs(n: int, state_dim: int, chunk_dim: int) -> Pairs:
    zero = jnp.zeros(())
    return Pairs(jnp.zeros((n, state_dim)), jnp.zeros((n, chunk_dim)), jnp.zeros(n), zero, zero)


def _new_potentials(config: OTPRConfig, state_dim: int, chunk_dim: int, key: PRNGKeyArray) -> Potentials:
    return Potentials(
        state_dim, chunk_dim, width=config.potentials_width, depth=config.potentials_depth, key=key
    )


__all__ = ["AGENT", "OTPR", "PRESETS"]

AGENT = OTPR
