"""DPPO: policy gradients through the last denoising steps of a diffusion policy.

Source: Ren, Lidard, Ankile, Simeonov, Agrawal, Majumdar, Burchfiel, Dai, Simchowitz, "Diffusion Policy Policy
Optimization", 2024, arXiv 2409.00588. docs/algorithms/dppo.md compares the paper with this file.

Each denoising step is treated as an action, drawn from a Gaussian with known density. Proximal policy
optimisation (Schulman et al., 2017, arXiv 1707.06347) is applied to every step, with the advantage of the
decision that results from them.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from otpr.agents.dppo.config import PRESETS, DPPOConfig
from otpr.agents.dppo.decisions import Decisions, advantages, decisions_of, joined
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.agents.parts.actor_critic import Trained, minimized, new_value
from otpr.agents.parts.agent import Metrics, OnPolicyAgent, Round
from otpr.data.experience import Experience
from otpr.diffusion.sampling import Sampler, ancestral_step
from otpr.networks.noise import NoiseNetwork
from otpr.policies.acting import decision_keys
from otpr.policies.denoising import Diffusion
from otpr.policies.policy import Policy


class Draws(NamedTuple):
    """The batch of a gradient step: n decisions, and the t fine-tuned denoising steps that led to each."""

    states: Float[Array, "n s"]
    chains: Float[Array, "n c h a"]  # before the first fine-tuned step, and after each: c = t + 1
    log_densities: Float[Array, "n t"]  # of each step by the policy that took it
    advantages: Float[Array, " n"]
    returns: Float[Array, " n"]  # the targets of V


class DPPO(OnPolicyAgent):
    """The agent, one immutable pytree."""

    trained: Trained  # the network of the last denoising steps, a `NoiseNetwork`
    base: Policy  # the pre-trained policy, for the steps that are not fine-tuned
    trained_value: Trained  # V of a state, an `eqx.nn.MLP`
    collected: Decisions  # decisions that wait for the next iteration, in the first rows
    collected_size: Int[Array, ""]
    iterations: Int[Array, ""]  # number of iterations of learning
    key: PRNGKeyArray
    config: DPPOConfig = eqx.field(static=True)

    @classmethod
    def create(cls, base: Policy, experience: Experience, config: DPPOConfig, key: PRNGKeyArray) -> Self:
        """An agent with the policy `base` and an untrained V; see `Agent.create`."""
        c = config
        value_key, key = jax.random.split(key)
        value = new_value(base.state_dim, c.critic_width, c.critic_depth, value_key)
        room = Decisions.zeros(c.decisions, base.state_dim)
        return cls(
            trained=Trained.new(base.diffusion.network, c.policy_learning_rate),
            base=base.single(),
            trained_value=Trained.new(value, c.learning_rate),
            collected=jax.tree.map(jnp.asarray, room),
            collected_size=jnp.asarray(0),
            iterations=jnp.asarray(0),
            key=key,
            config=c,
        )

    @property
    def network(self) -> NoiseNetwork:
        """The network that is fine-tuned."""
        return self.trained.model

    @property
    def value(self) -> eqx.nn.MLP:
        """V of a state."""
        return self.trained_value.model

    @property
    def diffusion(self) -> Diffusion:
        """The pre-trained generator with the fine-tuned network."""
        return self.base.diffusion.with_network(self.network)

    @property
    def tuned_steps(self) -> int:
        """Number of denoising steps that are fine-tuned."""
        return min(self.config.tuned_steps, self.base.diffusion.visited_steps)

    def deployed(self) -> Policy:
        """The policy with the pre-trained sampler; a plain diffusion policy if all steps are fine-tuned."""
        if self.tuned_steps == self.base.diffusion.visited_steps:
            return self.base.with_generator(self.diffusion)
        return self.base.with_generator(self._tuned(self.base.diffusion.sampler, least_std=0.0))

    def exploring(self) -> Policy:
        """The policy with ancestral sampling and more noise in the last steps, including the final one."""
        return self.base.with_generator(self.explorer())

    def explorer(self) -> TunedDiffusion:
        """The generator of plans during exploration."""
        return self._tuned("ddpm", self.config.least_std)

    def _tuned(self, sampler: Sampler, least_std: float) -> TunedDiffusion:
        tuned = dataclasses.replace(self.diffusion, sampler=sampler)
        return TunedDiffusion(tuned, self.base.diffusion.network, self.tuned_steps, least_std)

    # --- a round

    def learn_round(self, data: Round) -> tuple[Self, int, Metrics]:
        """Collect the round's decisions; once there are enough, learn from all of them and discard them."""
        c = self.config
        if not data.collected:  # all episodes failed
            return self, 0, {}
        kept = _rows(jax.device_get(self.collected), slice(int(self.collected_size)))
        decisions = joined([kept, decisions_of(data.collected, self.base.spec, c.gamma)])
        n = len(decisions.reward)
        if n >= c.decisions:
            agent = dataclasses.replace(self, collected_size=jnp.asarray(0))
            return agent._iterate(decisions, data.action_seed)
        room = Decisions.zeros(c.decisions - n, decisions.state.shape[1])
        collected = jax.tree.map(jnp.asarray, joined([decisions, room]))
        return dataclasses.replace(self, collected=collected, collected_size=jnp.asarray(n)), 0, {}

    def _iterate(self, decisions: Decisions, action_seed: int) -> tuple[Self, int, Metrics]:
        """Epochs of gradient steps on decisions of the current policy."""
        c = self.config
        n = len(decisions.reward)
        draws, explained = self._draws(decisions, action_seed)
        update_policy = int(self.iterations) >= c.value_iterations
        key, epochs_key = jax.random.split(self.key)
        agent: Any = dataclasses.replace(self, key=key, iterations=self.iterations + 1)
        steps: list[Metrics] = []
        moved = False
        for epoch_key in jax.random.split(epochs_key, c.epochs):
            order = np.asarray(jax.random.permutation(epoch_key, n))
            # each epoch leaves out a random remainder
            for start in range(0, n - c.batch_size + 1, c.batch_size):
                rows = order[start : start + c.batch_size]
                agent, metrics = _update(agent, _rows(draws, rows), update_policy)
                steps.append(metrics)
                moved = update_policy and float(metrics["policy/kl"]) > c.target_kl
                if moved:
                    break
            if moved:
                break
        means = {name: jnp.mean(jnp.stack([step[name] for step in steps])) for name in steps[0]}
        means |= {"critic/explained_variance": explained, "policy/decisions": jnp.asarray(n)}
        return agent, len(steps), means

    def _draws(self, decisions: Decisions, action_seed: int) -> tuple[Draws, Array]:
        """The denoising chains of decisions, their advantages, and the explained variance of V."""
        n = len(decisions.reward)
        parts: list[tuple[np.ndarray, ...]] = []
        for start in range(0, n, PIECE):
            rows = np.minimum(np.arange(start, start + PIECE), n - 1)  # the last piece repeats its last row
            replayed = _replay(self, _rows(decisions, rows), jnp.asarray(action_seed, jnp.int32))
            parts.append(tuple(np.asarray(field)[: n - start] for field in replayed))
        chains, log_densities, values, next_values = map(np.concatenate, zip(*parts, strict=True))
        estimates = advantages(decisions, values, next_values, self.config.advantage_share)
        returns = values + estimates
        spread = np.var(returns)
        explained = 1 - np.var(estimates) / spread if spread > 0 else 0.0
        draws = Draws(*map(jnp.asarray, (decisions.state, chains, log_densities, estimates, returns)))
        return draws, jnp.asarray(explained, jnp.float32)

    # --- a gradient step

    def log_densities(
        self, network: NoiseNetwork, states: Float[Array, "n s"], chains: Float[Array, "n c h a"]
    ) -> Float[Array, "n t"]:
        """Log-density of each fine-tuned denoising step under exploration: the mean over the plan's entries.

        The log-density of each entry is clipped to [-5, 2], as in the authors' code, so that steps far in the
        tail have no influence.
        """
        diffusion, bound = self.base.diffusion, self.base.diffusion.bound
        levels, before, after = (field[-self.tuned_steps :, None, None] for field in diffusion.visited)

        def of_chain(state: Float[Array, " s"], chain: Float[Array, "c h a"]) -> Float[Array, " t"]:
            seen = diffusion.seen(state)

            def noise_in(plan: Float[Array, "h a"], k: Int[Array, ""]) -> Float[Array, "h a"]:
                return diffusion.noise_in(network(seen, plan, k), plan, k)

            noise, std = jax.vmap(noise_in)(chain[:-1], levels[:, 0, 0]), self.config.least_std
            mean, std = ancestral_step(noise, chain[:-1], before, after, bound=bound, least_std=std)
            densities = jnp.clip(jax.scipy.stats.norm.logpdf(chain[1:], mean, std), -5.0, 2.0)
            return jnp.mean(densities, axis=(1, 2))

        return jax.vmap(of_chain)(states, chains)

    def update_from(self, draws: Draws, update_policy: bool) -> tuple[Self, Metrics]:
        """One gradient step of V and, unless warming up, of the network of the last denoising steps."""

        def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
            v = jax.vmap(value)(draws.states)
            return jnp.mean((v - draws.returns) ** 2), jnp.mean(v)

        trained_value, loss, mean_v = minimized(self.trained_value, value_loss)
        agent = dataclasses.replace(self, trained_value=trained_value)
        metrics = {"critic/loss": loss, "critic/value": mean_v}
        if not update_policy:
            return agent, metrics
        trained, loss, policy_metrics = minimized(
            self.trained, lambda network: self._policy_loss(network, draws)
        )
        agent = dataclasses.replace(agent, trained=trained)
        return agent, {**metrics, "policy/loss": loss, **policy_metrics}

    def _policy_loss(self, network: NoiseNetwork, draws: Draws) -> tuple[Array, Metrics]:
        """The clipped surrogate (Ren et al., 2024, section 4) with bounds for each denoising step."""
        c, t = self.config, self.tuned_steps
        log_ratio = self.log_densities(network, draws.states, draws.chains) - draws.log_densities
        ratio = jnp.exp(log_ratio)
        advantage = (draws.advantages - jnp.mean(draws.advantages)) / (jnp.std(draws.advantages) + 1e-8)
        advantage = advantage[:, None] * c.denoising_discount ** jnp.arange(t - 1, -1, -1)
        # from 0 at the first step to 1 at the last; a single step counts as the last
        place = jnp.linspace(0.0, 1.0, t) if t > 1 else jnp.ones(1)
        clip = c.first_clip + (c.clip - c.first_clip) * jnp.expm1(c.clip_rate * place) / np.expm1(c.clip_rate)
        gain = jnp.minimum(advantage * ratio, advantage * jnp.clip(ratio, 1 - clip, 1 + clip))
        return -jnp.mean(gain), {
            "policy/kl": jnp.mean(ratio - 1 - log_ratio),
            "policy/clipped_share": jnp.mean(jnp.abs(ratio - 1) > clip),
        }


PIECE = 200
"""Number of decisions that are replayed in one compiled call."""


def _rows(fields: Any, rows: np.ndarray | slice) -> Any:
    """Select rows of every field."""
    return jax.tree.map(operator.itemgetter(rows), fields)


@eqx.filter_jit
def _replay(agent: DPPO, decisions: Decisions, action_seed: Int[Array, ""]) -> tuple[Array, ...]:
    """Denoising chains, their log-densities, and V before and after the decisions, from the current agent.

    A draw is a function of policy, state and key, so repeating it yields its denoising chain.
    """
    explorer = agent.explorer()

    def chain(
        state: Float[Array, " s"], seed: UInt32[Array, ""], number: UInt32[Array, ""]
    ) -> Float[Array, "c h a"]:
        key = decision_keys(action_seed, seed[None], number)[0]
        propose_key, _ = jax.random.split(key)  # as in `Policy.decide`
        return explorer.tuned_chain(state, propose_key)

    chains = jax.vmap(chain)(decisions.state, jnp.asarray(decisions.seed), jnp.asarray(decisions.number))
    value = jax.vmap(agent.value)
    log_densities = agent.log_densities(agent.network, decisions.state, chains)
    return chains, log_densities, value(decisions.state), value(decisions.next_state)


@eqx.filter_jit
def _update(agent: DPPO, draws: Draws, update_policy: bool) -> tuple[DPPO, Metrics]:
    return agent.update_from(draws, update_policy)


__all__ = ["AGENT", "DPPO", "PRESETS"]

AGENT = DPPO
