"""DPPO: policy gradients through the last denoising steps of a diffusion policy.

Source: Ren, Lidard, Ankile, Simeonov, Agrawal, Majumdar, Burchfiel, Dai, Simchowitz, "Diffusion Policy Policy
Optimization", 2024, arXiv 2409.00588. docs/algorithms/dppo.md compares it with this file.

Each denoising step is an action of its own, drawn from a Gaussian whose density is known; so proximal policy
optimisation (Schulman et al., 2017, arXiv 1707.06347) applies to every one of them, with the advantage of the
decision that they ended in.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt32

from otpr.agents.dppo.config import PRESETS, DPPOConfig
from otpr.agents.dppo.decisions import Decisions, advantages, concatenate, decisions_of
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.agents.parts.agent import Agent, Round
from otpr.agents.parts.steps import gradient_step
from otpr.data.chunks import Transitions
from otpr.diffusion.sampling import Method, ancestral_step, visited_levels
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.acting import decision_keys
from otpr.policies.policy import Policy


class Draws(NamedTuple):
    """What a gradient step learns from: n decisions, and how the policy came to them in t denoising steps."""

    states: Float[Array, "n s"]
    chains: Float[Array, "n c a"]  # before the first fine-tuned step, and after each: c = t + 1
    log_densities: Float[Array, "n t"]  # of each step by the policy that took it
    advantages: Float[Array, " n"]
    returns: Float[Array, " n"]  # what V is to be


class DPPO(Agent):
    """The agent, one immutable pytree. States are normalised observations; actions are flattened chunks."""

    policy: Policy  # samples as the pre-trained policy does
    base: NoiseNetwork  # of the pre-trained policy, which begins where not all steps are fine-tuned
    value: eqx.nn.MLP
    collected: Decisions  # of rounds that were not enough for an iteration, in the first rows
    collected_size: Int[Array, ""]
    iterations: Int[Array, ""]  # of learning
    policy_state: optax.OptState
    value_state: optax.OptState
    key: PRNGKeyArray
    config: DPPOConfig = eqx.field(static=True)
    on_policy: ClassVar[bool] = True

    @classmethod
    def create(cls, base: Policy, keypoints: Transitions, config: DPPOConfig, key: PRNGKeyArray) -> DPPO:
        """An agent whose policy is `base` and whose V knows nothing yet; see `Agent.create`."""
        c = config
        value_key, key = jax.random.split(key)
        state_dim = base.normalizer.mean.shape[0]
        value = eqx.nn.MLP(state_dim, "scalar", c.critic_width, c.critic_depth, jax.nn.relu, key=value_key)
        network = base.diffusion.network
        return cls(
            policy=base.single(),
            base=network,
            value=value,
            collected=Decisions(*map(jnp.asarray, Decisions.zeros(c.decisions, state_dim))),
            collected_size=jnp.asarray(0),
            iterations=jnp.asarray(0),
            policy_state=optax.adam(c.policy_learning_rate).init(eqx.filter(network, eqx.is_array)),
            value_state=optax.adam(c.learning_rate).init(eqx.filter(value, eqx.is_array)),
            key=key,
            config=c,
        )

    @property
    def network(self) -> NoiseNetwork:
        """The network that learns."""
        return self.policy.diffusion.network

    @property
    def tuned_steps(self) -> int:
        """How many of the denoising steps are fine-tuned."""
        diffusion = self.policy.diffusion
        return min(self.config.tuned_steps, diffusion.sampler_steps or diffusion.schedule.steps)

    def deployed(self) -> Policy:
        """Sampled as the pre-trained policy is: a diffusion policy like any other if every step was tuned."""
        diffusion = self.policy.diffusion
        if self.tuned_steps == (diffusion.sampler_steps or diffusion.schedule.steps):
            return self.policy
        tuned = self._tuned(diffusion.sampler, least_std=0.0)
        return dataclasses.replace(self.policy, generator=tuned)

    def exploring(self) -> Policy:
        """By ancestral sampling with more noise in the last steps, the very last included."""
        return dataclasses.replace(self.policy, generator=self.explorer())

    def explorer(self) -> TunedDiffusion:
        """What draws the chunks when exploring."""
        return self._tuned("ddpm", self.config.least_std)

    def _tuned(self, sampler: Method, least_std: float) -> TunedDiffusion:
        diffusion = self.policy.diffusion
        return TunedDiffusion(
            self.network,
            self.base,
            diffusion.schedule,
            sampler,
            diffusion.sampler_steps,
            self.tuned_steps,
            least_std,
        )

    # --- a round

    def learn_round(self, data: Round) -> tuple[DPPO, int, dict[str, Array]]:
        """Keep the round's decisions; once there are enough, learn from all of them and forget them."""
        c = self.config
        if not data.episodes:  # they all broke
            return self, 0, {}
        kept = Decisions(*(np.asarray(field)[: int(self.collected_size)] for field in self.collected))
        new = decisions_of(data.episodes, self.policy.chunk_length, c.gamma)
        decisions = concatenate([kept, new])
        n = len(decisions.reward)
        if n >= c.decisions:
            return dataclasses.replace(self, collected_size=jnp.asarray(0))._iterate(
                decisions, data.action_seed
            )
        room = Decisions.zeros(c.decisions - n, decisions.observation.shape[1])
        collected = Decisions(*map(jnp.asarray, concatenate([decisions, room])))
        return dataclasses.replace(self, collected=collected, collected_size=jnp.asarray(n)), 0, {}

    def _iterate(self, decisions: Decisions, action_seed: int) -> tuple[DPPO, int, dict[str, Array]]:
        """Epochs of gradient steps on decisions of the present policy."""
        c = self.config
        n = len(decisions.reward)
        draws, explained = self._draws(decisions, action_seed)
        update_policy = int(self.iterations) >= c.value_iterations
        key, epochs_key = jax.random.split(self.key)
        agent = dataclasses.replace(self, key=key, iterations=self.iterations + 1)
        steps: list[dict[str, Array]] = []
        moved = False
        for epoch_key in jax.random.split(epochs_key, c.epochs):
            order = np.asarray(jax.random.permutation(epoch_key, n))
            # what is left over waits for the next epoch's order
            for start in range(0, n - c.batch_size + 1, c.batch_size):
                rows = order[start : start + c.batch_size]
                agent, metrics = _update(agent, Draws(*(field[rows] for field in draws)), update_policy)
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
        """How the decisions came about, their advantages, and how much of the returns V knew beforehand."""
        n = len(decisions.reward)
        parts: list[tuple[np.ndarray, ...]] = []
        for start in range(0, n, PIECE):
            rows = np.minimum(np.arange(start, start + PIECE), n - 1)  # the last piece repeats its last row
            piece = Decisions(*(field[rows] for field in decisions))
            replayed = _replay(self, piece, jnp.asarray(action_seed, jnp.int32))
            parts.append(tuple(np.asarray(field)[: n - start] for field in replayed))
        states, chains, log_densities, values, next_values = map(np.concatenate, zip(*parts, strict=True))
        estimates = advantages(decisions, values, next_values, self.config.advantage_share)
        returns = values + estimates
        spread = np.var(returns)
        explained = 1 - np.var(estimates) / spread if spread > 0 else 0.0
        draws = Draws(*map(jnp.asarray, (states, chains, log_densities, estimates, returns)))
        return draws, jnp.asarray(explained, jnp.float32)

    # --- a gradient step

    def log_densities(
        self, network: NoiseNetwork, states: Float[Array, "n s"], chains: Float[Array, "n c a"]
    ) -> Float[Array, "n t"]:
        """Log-density of each fine-tuned denoising step, when exploring; the mean over the chunk's entries.

        Each entry's is clipped to [-5, 2], as in the authors' code: a step far in the tail has no say.
        """
        diffusion = self.policy.diffusion
        visited = visited_levels(diffusion.schedule, diffusion.sampler_steps)
        levels, before, after = (field[-self.tuned_steps :, None] for field in visited)

        def of_chain(state: Float[Array, " s"], chain: Float[Array, "c a"]) -> Float[Array, " t"]:
            def predict(chunk: Float[Array, " a"], k: Int[Array, ""]) -> Float[Array, " a"]:
                return network(state, chunk, k)

            noise = jax.vmap(predict)(chain[:-1], levels[:, 0])
            mean, std = ancestral_step(noise, chain[:-1], before, after, least_std=self.config.least_std)
            return jnp.mean(jnp.clip(jax.scipy.stats.norm.logpdf(chain[1:], mean, std), -5.0, 2.0), axis=1)

        return jax.vmap(of_chain)(states, chains)

    def update_from(self, draws: Draws, update_policy: bool) -> tuple[DPPO, dict[str, Array]]:
        """One gradient step of V, and (unless warming up) of the network of the last denoising steps."""
        c = self.config

        def value_loss(value: eqx.nn.MLP) -> tuple[Array, Array]:
            v = jax.vmap(value)(draws.states)
            return jnp.mean((v - draws.returns) ** 2), jnp.mean(v)

        (loss, mean_v), gradient = eqx.filter_value_and_grad(value_loss, has_aux=True)(self.value)
        value, value_state = gradient_step(
            optax.adam(c.learning_rate), gradient, self.value_state, self.value
        )
        agent = dataclasses.replace(self, value=value, value_state=value_state)
        metrics = {"critic/loss": loss, "critic/value": mean_v}
        if not update_policy:
            return agent, metrics

        (loss, policy_metrics), gradient = eqx.filter_value_and_grad(self._policy_loss, has_aux=True)(
            self.network, draws
        )
        network, policy_state = gradient_step(
            optax.adam(c.policy_learning_rate), gradient, self.policy_state, self.network
        )
        policy = dataclasses.replace(self.policy, generator=self.policy.diffusion.with_network(network))
        agent = dataclasses.replace(agent, policy=policy, policy_state=policy_state)
        return agent, {**metrics, "policy/loss": loss, **policy_metrics}

    def _policy_loss(self, network: NoiseNetwork, draws: Draws) -> tuple[Array, dict[str, Array]]:
        """The clipped surrogate (Ren et al., 2024, section 4), its bounds wider from step to step."""
        c, t = self.config, self.tuned_steps
        log_ratio = self.log_densities(network, draws.states, draws.chains) - draws.log_densities
        ratio = jnp.exp(log_ratio)
        advantage = (draws.advantages - jnp.mean(draws.advantages)) / (jnp.std(draws.advantages) + 1e-8)
        advantage = advantage[:, None] * c.denoising_discount ** jnp.arange(t - 1, -1, -1)
        # from 0 at the first step to 1 at the last; a single step is the last
        place = jnp.linspace(0.0, 1.0, t) if t > 1 else jnp.ones(1)
        clip = c.first_clip + (c.clip - c.first_clip) * jnp.expm1(c.clip_rate * place) / np.expm1(c.clip_rate)
        gain = jnp.minimum(advantage * ratio, advantage * jnp.clip(ratio, 1 - clip, 1 + clip))
        return -jnp.mean(gain), {
            "policy/kl": jnp.mean(ratio - 1 - log_ratio),
            "policy/clipped_share": jnp.mean(jnp.abs(ratio - 1) > clip),
        }


PIECE = 200
"""Decisions that are done again in one compiled call."""


@eqx.filter_jit
def _replay(agent: DPPO, decisions: Decisions, action_seed: Int[Array, ""]) -> tuple[Array, ...]:
    """States, chains and their log-densities, V before and after the decisions, all by the present agent.

    A draw is a function of policy, observation and key: done again, it shows the way that led to it.
    """
    explorer = agent.explorer()
    norm = agent.policy.normalizer
    states = norm(decisions.observation)

    def chain(
        state: Float[Array, " s"], seed: UInt32[Array, ""], number: UInt32[Array, ""]
    ) -> Float[Array, "c a"]:
        key = decision_keys(action_seed, seed[None], number)[0]
        propose_key, _ = jax.random.split(key)  # as in `Policy.act_batch`
        return explorer.tuned_chain(state, propose_key)

    chains = jax.vmap(chain)(states, jnp.asarray(decisions.seed), jnp.asarray(decisions.number))
    value = jax.vmap(agent.value)
    return (
        states,
        chains,
        agent.log_densities(agent.network, states, chains),
        value(states),
        value(norm(decisions.next_observation)),
    )


@eqx.filter_jit
def _update(agent: DPPO, draws: Draws, update_policy: bool) -> tuple[DPPO, dict[str, Array]]:
    return agent.update_from(draws, update_policy)


__all__ = ["AGENT", "DPPO", "PRESETS"]

AGENT = DPPO
