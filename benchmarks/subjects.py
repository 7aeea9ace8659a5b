"""What is measured: an agent, its experience and a policy, untrained and of given sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from benchmarks.sizes import Sizes
from otpr.agents.otpr.agent import OTPR
from otpr.agents.otpr.config import OTPRConfig
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.data.row_sets import IndexSet
from otpr.data.store import EpisodeStore, Transitions
from otpr.diffusion import NoiseSchedule
from otpr.networks.mlp import NoiseMLP
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.spec import STATE, Spec
from otpr.training.loop import LoopConfig

GAMMA = 0.99
DEMONSTRATED = 1000
"""Transitions of demonstrations."""


def flat_spec(sizes: Sizes, chunk_length: int) -> Spec:
    """One vector in, chunks that are executed whole out."""
    return Spec.flat(sizes.observation_dim, sizes.action_dim, horizon=chunk_length, execute=chunk_length)


def experience(sizes: Sizes, n: int, chunk_length: int) -> Experience:
    """Demonstrations, then a replay of at least `n` transitions that are the target measure too.

    Episodes are as long as a chunk and end, so that no transition has a future; the reward, at the last step,
    is smooth in how the episode's action fits its state. As a robot's, the states lie near a surface of few
    dimensions (as many as an action has), and the actions of a chunk hardly differ. So a critic fitted to the
    reward tells pairs apart, and transport can be learnt.
    """
    h = chunk_length
    demonstrated, own = -(-DEMONSTRATED // h), -(-n // h)
    episodes = demonstrated + own
    keys = jax.random.split(jax.random.key(2), 4)
    o, a = sizes.observation_dim, sizes.action_dim
    place = jax.random.normal(keys[0], (episodes, 1, a))
    surface = jax.random.normal(jax.random.key(0), (a, o)) / a**0.5
    action = jax.random.uniform(keys[2], (episodes, 1, a), minval=-0.9, maxval=0.9)
    reward = -jnp.sum((action - 0.9 * jnp.tanh(place)) ** 2, axis=2)  # (episodes, 1)

    def each_row(values: Array) -> Array:
        return jnp.broadcast_to(values, (episodes, h + 1, *values.shape[2:]))

    left = h - 1 - jnp.arange(h + 1)  # steps until the last one, -1 beyond it
    rows = jnp.arange(episodes * (h + 1), dtype=jnp.int32).reshape(episodes, h + 1)
    store = EpisodeStore(
        features=_flat(each_row(place @ surface) + 0.05 * jax.random.normal(keys[1], (*rows.shape, o))),
        actions=_flat(each_row(action) + 0.05 * jax.random.normal(keys[3], (*rows.shape, a))),
        rewards=_flat(jnp.where(left == 0, reward, 0.0)),
        return_to_go=_flat(jnp.where(left >= 0, reward * GAMMA**left, 0.0)),
        first=_flat(each_row(rows[:, :1])),
        last=_flat(each_row(rows[:, -1:])),
        terminated=jnp.ones(rows.size, jnp.bool_),
        success=jnp.ones(rows.size, jnp.bool_),
        startable=_flat(rows < rows[:, -1:]),
        size=jnp.asarray(rows.size, jnp.int32),
        spec=flat_spec(sizes, h),
        gamma=GAMMA,
    )
    starts = rows[:, :-1]
    replay = starts[demonstrated:].reshape(-1)
    return Experience(
        store,
        Mixture.of([jax.device_get(starts[:demonstrated]).reshape(-1)]),
        IndexSet(replay, jnp.asarray(replay.size, jnp.int32)),
    )


def _flat(values: Array) -> Array:
    """Rows of all episodes, one after the other."""
    return values.reshape(-1, *values.shape[2:])


def replayed(data: Experience) -> Transitions:
    """Every transition of the replay."""
    return data.store.transitions(data.replay.rows)


def batch_keys(updates: int) -> PRNGKeyArray:
    """Keys of the batches of so many gradient steps."""
    return jax.random.split(jax.random.key(0), updates)


def base_policy(sizes: Sizes, *, width: int, depth: int, chunk_length: int, levels: int) -> Policy:
    """An untrained policy, without a chooser."""
    o, spec = sizes.observation_dim, flat_spec(sizes, chunk_length)
    network = NoiseMLP(o, plan_shape(spec), width=width, depth=depth, key=jax.random.key(0))
    encoder = VectorEncoder({STATE: Normalizer(jnp.zeros(o), jnp.ones(o))})
    return Policy(encoder, Diffusion(network, NoiseSchedule.cosine(levels)), None, spec)


def agent(sizes: Sizes, base: Policy, config: OTPRConfig) -> OTPR:
    """An agent with that base policy."""
    return OTPR.create(base, experience(sizes, 1, base.spec.execute), config, jax.random.key(1))


def learner(sizes: Sizes, width: int, depth: int) -> OTPR:
    """An agent with networks of one size, otherwise at the default settings."""
    base = base_policy(sizes, width=width, depth=depth, chunk_length=sizes.chunk_length, levels=10)
    config = OTPRConfig(
        batch_size=sizes.batch,
        pairs=_pairs(sizes),
        critic_width=width,
        critic_depth=depth,
        potentials_width=width,
        potentials_depth=depth,
    )
    return agent(sizes, base, config)


def default_agent(sizes: Sizes, chunk_length: int, levels: int, candidates: int = 16) -> OTPR:
    """An agent at the default settings (in a trial: with small networks)."""
    width, depth = sizes.policy_width, sizes.policy_depth
    base = base_policy(sizes, width=width, depth=depth, chunk_length=chunk_length, levels=levels)
    return agent(sizes, base, default_config(sizes, candidates))


def default_config(sizes: Sizes, candidates: int = 16) -> OTPRConfig:
    """The default settings (in a trial: with small networks)."""
    small = min(sizes.policy_width, OTPRConfig.critic_width)
    return OTPRConfig(
        batch_size=min(sizes.batch, OTPRConfig.batch_size),
        pairs=_pairs(sizes),
        critic_width=small,
        potentials_width=small,
        candidates=candidates,
    )


def _pairs(sizes: Sizes) -> int:
    """A timed block is shorter than those of a run: so many pairs that their share is the same."""
    return OTPRConfig.pairs * sizes.block // LoopConfig.update_block
