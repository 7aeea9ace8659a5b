"""OTPR: a diffusion policy fine-tuned with optimal transport.

Source: Sun, Ding, Zhang, Wang, "Score-Based Diffusion Policy Compatible with Reinforcement Learning via
Optimal Transport", ICML 2025, arXiv 2502.12631. docs/fidelity.md compares paper, authors' release and this
file.

Critics learn from interaction by implicit Q-learning over action chunks. The negative of Q is the cost of an
optimal transport from states to actions, whose potentials u, v give the compatibility H(s, a). H determines
the pairs for score matching, and which of several sampled chunks is executed. Every batch contains
demonstrations.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Self

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from otpr.agents.otpr.batches import OTPRBatch, Pairs, draw_batch, draw_problem, draw_rows, target_measure
from otpr.agents.otpr.compatibility import Compatibility, Rule, TransportCost
from otpr.agents.otpr.config import PRESETS, OTPRConfig
from otpr.agents.otpr.keypoint_strategies import keypoint_rows
from otpr.agents.parts.actor_critic import Actor, ImplicitCritics
from otpr.agents.parts.agent import Metrics, OffPolicyAgent
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.devices import mapped
from otpr.errors import OtprError
from otpr.networks.noise import NoiseNetwork
from otpr.ot import Potentials, TransportProblem, fit
from otpr.policies.policy import Policy


class Transport(eqx.Module):
    """The components of H other than the critics.

    Args:
        potentials: u of states and v of chunks.
        scale: running standard deviation of Q, by which the cost is divided.
        trained: whether the potentials have been trained.
    """

    potentials: Potentials
    scale: Float[Array, ""]
    trained: Bool[Array, ""]

    @classmethod
    def new(cls, policy: Policy, config: OTPRConfig, key: PRNGKeyArray) -> Self:
        """Untrained potentials for a policy's states and chunks."""
        sizes = {"width": config.potentials_width, "depth": config.potentials_depth}
        potentials = Potentials(policy.state_dim, policy.spec.chunk_dim, **sizes, key=key)
        return cls(potentials, jnp.asarray(1.0, jnp.float32), jnp.asarray(False))


class OTPR(OffPolicyAgent):
    """The agent, an immutable pytree."""

    actor: Actor
    critics: ImplicitCritics
    transport: Transport
    keypoint_rows: Int[Array, " k"]  # of the store: demonstrated chunks that may be keypoints
    keypoint_states: Float[Array, "g s"]  # the keypoints of the guiding cost
    keypoint_chunks: Float[Array, "g c"]
    pairs: Pairs  # of the current block of gradient steps
    key: PRNGKeyArray
    config: OTPRConfig = eqx.field(static=True)
    critic_losses: ClassVar[tuple[str, ...]] = ("critic/loss", "critic/value_loss")
    policy_losses: ClassVar[tuple[str, ...]] = ("policy/loss",)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: OTPRConfig, key: PRNGKeyArray) -> Self:
        """An agent with the policy `base` and untrained critics and potentials.

        Raises:
            OtprError: `base` is not a diffusion policy; or the target measure is "successes" and no
                demonstration succeeded.
        """
        c, store = config, experience.store
        if c.target_measure == "successes" and not bool(jnp.any(store.success)):
            raise OtprError(
                "No demonstration succeeded: there are no successes to transport to. Use demonstrations that "
                "solve the task, or --set target_measure=replay."
            )
        critic_key, potentials_key, key = jax.random.split(key, 3)
        candidates = jnp.asarray(keypoint_rows(c.keypoint_strategy, store, count=c.keypoints))
        guiding = _guiding(candidates, c.keypoints)
        return cls(
            actor=Actor.of(base, c),
            critics=ImplicitCritics.new(base, c, c.expectile, critic_key),
            transport=Transport.new(base, c, potentials_key),
            keypoint_rows=candidates,
            keypoint_states=store.states(guiding),
            keypoint_chunks=store.chunks(guiding),
            pairs=_no_pairs(c.ot_block if c.pairing == "product" else c.pairs, base),
            key=key,
            config=c,
        )

    # --- acting

    def deployed(self) -> Policy:
        """The policy that picks one of several samples by compatibility and the configured rule."""
        return self._choosing(self.config.rule)

    def exploring(self) -> Policy:
        """The policy that draws one of several samples by compatibility."""
        return self._choosing("draw")

    def _choosing(self, rule: Rule) -> Policy:
        chooser = dataclasses.replace(self.compatibility(self.config.acting_guiding_share), rule=rule)
        return self.actor.policy.choosing(chooser, self.config.candidates)

    def compatibility(self, guiding_share: float) -> Compatibility:
        """H with the current potentials, target critics and value; `guiding_share` is alpha in the cost."""
        cost = TransportCost(
            critic=self.critics.target,
            value=self.critics.value,
            scale=self.transport.scale,
            keypoint_states=self.keypoint_states,
            keypoint_actions=self.keypoint_chunks,
            alpha=guiding_share,
            temperature=self.config.guiding_temperature,
        )
        return Compatibility(cost, self.transport.potentials, self.transport.trained, self.config.epsilon)

    # --- critics and policy

    def draw(self, experience: Experience, key: PRNGKeyArray) -> OTPRBatch:
        """Replayed and demonstrated transitions, and pairs of the current block."""
        return draw_batch(experience, self, key)

    def states_at(self, batch: OTPRBatch) -> Int[Array, " n"]:
        """See `OffPolicyAgent.states_at`; all rows of the batch, concatenated."""
        own, expert = batch.replay.row, batch.demonstrations.row
        assert own is not None and expert is not None, "they were drawn from a store"
        return jnp.concatenate([own, expert, batch.pairs.row])

    def with_states(self, batch: OTPRBatch, states: Float[Array, "n s"]) -> OTPRBatch:
        """See `OffPolicyAgent.with_states`."""
        n_own, n_expert = batch.replay.reward.shape[0], batch.demonstrations.reward.shape[0]
        own, expert, paired = jnp.split(states, [n_own, n_own + n_expert])
        return OTPRBatch(
            batch.replay._replace(state=own),
            batch.demonstrations._replace(state=expert),
            batch.pairs._replace(state=paired),
        )

    def states_moved(self, experience: Experience) -> Self:
        """See `OffPolicyAgent.states_moved`. The choice of keypoints does not change."""
        guiding = _guiding(self.keypoint_rows, self.config.keypoints)
        return dataclasses.replace(self, keypoint_states=experience.store.states(guiding))

    def q_values(self, pairs: Transitions) -> Float[Array, "size n"]:
        """Q of transitions, by each member of the ensemble."""
        return self.critics.q(pairs.state, pairs.chunk)

    def update(self, batch: OTPRBatch, update_policy: bool = True) -> tuple[Self, Metrics]:
        """One gradient step of V, Q and their targets and, unless warming up, of the score network.

        The critics learn by implicit Q-learning (Kostrikov et al., 2022). Score matching uses pairs drawn by
        compatibility, and unmodified demonstrations.
        """
        key, _, noise_key = jax.random.split(self.key, 3)  # the second key drew the pairs
        both = jax.tree.map(_beside, batch.replay, batch.demonstrations)
        critics, metrics = self.critics.step(both)
        agent = dataclasses.replace(self, key=key, critics=critics)
        if not update_policy:
            return agent, metrics
        pairs, expert = batch.pairs, batch.demonstrations
        states = jnp.concatenate([pairs.state, expert.state])
        plans = jnp.concatenate([pairs.plan, expert.plan])
        weights = jnp.concatenate([pairs.weight, jnp.ones(expert.reward.shape[0])])
        diffusion = self.actor.policy.diffusion

        def loss_of(network: NoiseNetwork) -> tuple[Array, Metrics]:
            return jnp.mean(weights * diffusion.losses(network, states, plans, noise_key)), {}

        actor, policy_metrics = self.actor.step(loss_of)
        block = self.pairs
        metrics |= {"otpr/support": block.support, "otpr/effective_share": block.effective_share}
        return dataclasses.replace(agent, actor=actor), metrics | policy_metrics

    def begin_block(self, experience: Experience) -> Self:
        """Draw the pairs for the next gradient steps by compatibility.

        Uses resampling by compatibility (Gu et al., OTCS, NeurIPS 2023): a pair is drawn with probability
        proportional to H and enters the loss unweighted.
        """
        c, store, compatibility = self.config, experience.store, self.compatibility(self.config.guiding_share)
        key, draw_key, choice_key = jax.random.split(self.key, 3)
        n, targets = self.pairs.weights.shape[0], target_measure(experience, c)
        # before the potentials are trained, every H counts as zero
        if c.pairing == "product":
            rows, columns, mask = draw_rows(experience, targets, self, draw_key, n)
            states = store.states(rows)
            product = self.transport.trained * compatibility.pairwise(states, store.chunks(columns), mask)
            pairs = partners(rows, states, store.plans(columns), product, choice_key)
        else:
            drawn = targets.draw(draw_key, n)
            states = store.states(drawn)
            H = compatibility(states, store.chunks(drawn)) if c.pairing == "occurring" else jnp.ones(n)
            pairs = resampled(drawn, states, store.plans(drawn), self.transport.trained * H, choice_key)
        return dataclasses.replace(self, pairs=pairs, key=key)

    # --- transport

    @eqx.filter_jit
    def end_round(self, experience: Experience) -> tuple[Self, Metrics]:
        """Train the potentials on the current critic's cost until they generalise to held-out pairs."""
        c = self.config
        key, occurring_key = jax.random.split(self.key)
        key, new_key = jax.random.split(key)
        key, fit_key = jax.random.split(key)
        transport = self._scaled(experience.sample_replay(occurring_key, SPREAD))
        if not c.warm_start:
            fresh = Transport.new(self.actor.policy, c, new_key).potentials
            transport = dataclasses.replace(transport, potentials=fresh)
        agent = dataclasses.replace(self, transport=transport, key=key)
        targets = target_measure(experience, c)

        def draw(key: PRNGKeyArray, n: int) -> TransportProblem:
            return draw_problem(experience, targets, agent, key, n)

        found = fit(
            transport.potentials,
            draw,
            agent.compatibility(c.guiding_share).cost.pairwise,
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
            map_blocks=functools.partial(mapped, mesh=experience.store.mesh),
        )
        transport = Transport(found.potentials, transport.scale, jnp.asarray(True))
        return dataclasses.replace(agent, transport=transport), {
            "otpr/marginal_error": found.marginal_error,
            "otpr/row_error": found.row_error,
            "otpr/column_error": found.column_error,
            "otpr/plan_support": found.support,
            "otpr/passes": found.passes,
            "otpr/unsolved": found.unsolved,
            "otpr/scale": transport.scale,
        }

    def _scaled(self, occurring: Transitions) -> Transport:
        """The transport with its scale moved towards the standard deviation of Q over replayed pairs."""
        transport = self.transport
        spread = jnp.std(self.critics.target.minimum(occurring.state, occurring.chunk))
        spread = jnp.maximum(spread, 1e-3)  # an untrained critic must not cause a division by zero
        # slowly, so that warm-started potentials still fit; the first time at once
        followed = transport.scale + 0.2 * (spread - transport.scale)
        return dataclasses.replace(transport, scale=jnp.where(transport.trained, followed, spread))


def _beside(first: Array, second: Array) -> Array:
    return jnp.concatenate([first, second])


SPREAD = 256
"""Number of replayed pairs for the standard deviation of Q."""


def _guiding(candidates: Int[Array, " k"], n: int) -> Int[Array, " g"]:
    """The keypoints of the guiding cost, spaced evenly among the candidates."""
    n = min(n, candidates.shape[0])
    return candidates[jnp.linspace(0, candidates.shape[0] - 1, n).round().astype(int)]


def resampled(
    at: Int[Array, " n"],
    states: Float[Array, "n s"],
    plans: Float[Array, "n h a"],
    H: Float[Array, " n"],
    key: PRNGKeyArray,
) -> Pairs:
    """Resample the given pairs by H with replacement, or uniformly if every H is zero."""
    support = jnp.mean(H > 0)
    weights = jnp.where(support > 0, H, 1.0)
    n = weights.shape[0]
    rows = jax.random.choice(key, n, (n,), p=weights / jnp.sum(weights))
    effective = jnp.sum(weights) ** 2 / jnp.sum(weights**2) / n
    return Pairs(at[rows], states[rows], plans[rows], jnp.ones(n), support, effective)


def partners(
    at: Int[Array, " n"],
    states: Float[Array, "n s"],
    plans: Float[Array, "m h a"],
    H: Float[Array, "n m"],
    key: PRNGKeyArray,
) -> Pairs:
    """Draw a partner for each state by H. The mask leaves a keypoint only its own."""
    has_partner = jnp.any(H > 0, axis=1)
    columns = jax.random.categorical(key, jnp.log(jnp.where(has_partner[:, None], H, 1.0)), axis=1)
    weights = has_partner.astype(jnp.float32)
    effective = jnp.sum(H) ** 2 / jnp.maximum(jnp.sum(H**2), 1e-12) / H.size
    return Pairs(at, states, plans[columns], weights, jnp.mean(H > 0), effective)


def _no_pairs(n: int, policy: Policy) -> Pairs:
    zero, plan = jnp.zeros(()), (policy.spec.horizon, policy.spec.action_dim)
    rows = jnp.zeros(n, jnp.int32)
    return Pairs(rows, jnp.zeros((n, policy.state_dim)), jnp.zeros((n, *plan)), jnp.zeros(n), zero, zero)


__all__ = ["AGENT", "OTPR", "PRESETS"]

AGENT = OTPR
