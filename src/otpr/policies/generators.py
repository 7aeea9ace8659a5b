"""Generators, which sample plans for a state.

A generator is a part of a policy (`otpr.policies.policy.Policy`). Its files hold the document of `about`,
from which `skeleton` rebuilds the structure, and its arrays. Plans are (horizon, action_dim).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from otpr.diffusion.flow import integrate
from otpr.diffusion.sampling import Noise
from otpr.networks.mlp import VelocityNetwork, sizes
from otpr.policies.prefix import Prefix
from otpr.spec import Spec

Entry = Literal[
    "number", "flag", "name", "optional count", "optional number", "numbers", "counts", "optional size"
]
"""The types that an entry in a part's description may have, other than a count."""


class Generator(eqx.Module):
    """Samples plans for a state."""

    kind: ClassVar[str]
    """The generator's name in a policy's file."""
    entries: ClassVar[Mapping[str, Entry]] = {}
    """The types of entries of `about` by name, at any depth; all other entries are counts."""

    @abc.abstractmethod
    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """Sample `n` plans for one state, entries in [-1, 1]."""

    def complete(
        self, state: Float[Array, " s"], prefix: Prefix, key: PRNGKeyArray, n: int
    ) -> Float[Array, "n h a"]:
        """`n` plans for one state that begin with the prefix; by default it overwrites sampled plans."""
        return prefix.put(self.propose(state, key, n))

    @abc.abstractmethod
    def about(self) -> dict[str, Any]:
        """Everything except arrays as a JSON document of counts, numbers and short names."""

    @classmethod
    @abc.abstractmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> Generator:
        """A generator of the structure that `about` describes. Only shapes and types of arrays are valid."""


class NoiseDriven(Generator):
    """A generator whose plans are a function of normal noise, so that a caller can supply the noise."""

    @property
    def noise_steps(self) -> int:
        """Number of draws of noise of the plans' shape, in addition to the initial one."""
        return 0

    @abc.abstractmethod
    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """The plans of one state for initial noise (n, h, a) and noise of the same shape for each step."""


class Flow(NoiseDriven):
    """Integrates a velocity field from noise (`otpr.diffusion.flow`) and clips the resulting plan.

    Args:
        network: predicts the velocity of a plan.
        steps: number of Euler steps.
    """

    network: VelocityNetwork
    steps: int = eqx.field(static=True)
    kind: ClassVar[str] = "flow"

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """`n` sampled plans for one state."""
        return self.from_noise(state, Noise(jax.random.normal(key, (n, *self.network.plan_shape))))

    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """The plans of one state that the flow carries noise to."""
        plans = integrate(lambda x, t: self.network.many(state, x, t), noise.start, self.steps)
        return jnp.clip(plans, -1, 1)

    def about(self) -> dict[str, Any]:
        """Network and steps."""
        return {"network": self.network.about(), "steps": self.steps}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> Flow:
        """See `Generator.skeleton`."""
        network = VelocityNetwork(state_dim, plan_shape(spec), **about["network"], key=key)
        return cls(network, about["steps"])


class OneStep(NoiseDriven):
    """Maps noise to a plan by one pass of a network, and clips the plan.

    Args:
        network: takes a state concatenated with flattened noise of the plan's size.
        plan_shape: (horizon, action_dim).
    """

    network: eqx.nn.MLP
    plan_shape: tuple[int, int] = eqx.field(static=True)
    kind: ClassVar[str] = "one-step"

    @classmethod
    def new(
        cls, state_dim: int, plan_shape: tuple[int, int], *, width: int, depth: int, key: PRNGKeyArray
    ) -> OneStep:
        """A generator with random weights."""
        size = plan_shape[0] * plan_shape[1]
        return cls(eqx.nn.MLP(state_dim + size, size, width, depth, jax.nn.silu, key=key), plan_shape)

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """`n` sampled plans for one state."""
        return self.from_noise(state, Noise(jax.random.normal(key, (n, *self.plan_shape))))

    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """The plans of one state that the network maps noise to."""
        return jnp.clip(jax.vmap(self.unclipped, in_axes=(None, 0))(state, noise.start), -1, 1)

    def unclipped(self, state: Float[Array, " s"], noise: Float[Array, "h a"]) -> Float[Array, "h a"]:
        """The network's output, not clipped."""
        return self.network(jnp.concatenate([state, noise.ravel()])).reshape(self.plan_shape)

    def about(self) -> dict[str, Any]:
        """The sizes of the network."""
        return dict(sizes(self.network))

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> OneStep:
        """See `Generator.skeleton`."""
        return cls.new(state_dim, plan_shape(spec), **about, key=key)


class TanhGaussian(NoiseDriven):
    """The tanh of a normal variable with independent entries (Haarnoja et al., SAC, 2018).

    Args:
        network: maps a state to the means, followed by the logarithms of the standard deviations.
        plan_shape: (horizon, action_dim).
        deterministic: whether to return the tanh of the means instead of samples.
    """

    network: eqx.nn.MLP
    plan_shape: tuple[int, int] = eqx.field(static=True)
    deterministic: bool = eqx.field(static=True, default=False)
    kind: ClassVar[str] = "tanh-gaussian"
    entries: ClassVar[Mapping[str, Entry]] = {"deterministic": "flag"}

    @classmethod
    def new(
        cls, state_dim: int, plan_shape: tuple[int, int], *, width: int, depth: int, key: PRNGKeyArray
    ) -> TanhGaussian:
        """A generator with random weights that draws samples."""
        size = plan_shape[0] * plan_shape[1]
        return cls(eqx.nn.MLP(state_dim, 2 * size, width, depth, jax.nn.relu, key=key), plan_shape)

    def propose(self, state: Float[Array, " s"], key: PRNGKeyArray, n: int) -> Float[Array, "n h a"]:
        """`n` plans for one state; all are equal if the generator is deterministic."""
        size = self.plan_shape[0] * self.plan_shape[1]
        return self.from_noise(state, Noise(jax.random.normal(key, (n, size)).reshape(n, *self.plan_shape)))

    def from_noise(self, state: Float[Array, " s"], noise: Noise) -> Float[Array, "n h a"]:
        """The plans of one state for the given noise, which a deterministic generator ignores."""
        mean, log_std = (x.reshape(self.plan_shape) for x in self.parameters(state))
        scale = 0.0 if self.deterministic else jnp.exp(log_std)
        return jnp.tanh(mean + scale * noise.start)

    def parameters(self, state: Float[Array, " s"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Means and logarithms of the standard deviations of the normal variable, flattened."""
        mean, log_std = jnp.split(self.network(state), 2)
        return mean, jnp.clip(log_std, *LOG_STD)

    def sample_with_log_density(
        self, state: Float[Array, " s"], key: PRNGKeyArray
    ) -> tuple[Float[Array, " c"], Float[Array, ""]]:
        """A flattened plan, sampled by reparametrisation, and the logarithm of its density."""
        mean, log_std = self.parameters(state)
        noise = jax.random.normal(key, mean.shape)
        x = mean + jnp.exp(log_std) * noise
        log_normal = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)
        # log(1 - tanh(x)^2) in a form without cancellation for tanh close to 1
        log_slope = 2 * (jnp.log(2.0) - x - jax.nn.softplus(-2 * x))
        return jnp.tanh(x), jnp.sum(log_normal - log_slope)

    def sample_batch(
        self, states: Float[Array, "n s"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "n c"], Float[Array, " n"]]:
        """`sample_with_log_density` for each of n states."""
        return jax.vmap(self.sample_with_log_density)(states, jax.random.split(key, states.shape[0]))

    def about(self) -> dict[str, Any]:
        """The sizes of the network, and whether it draws samples."""
        return {**sizes(self.network), "deterministic": self.deterministic}

    @classmethod
    def skeleton(cls, about: dict[str, Any], state_dim: int, spec: Spec, key: PRNGKeyArray) -> TanhGaussian:
        """See `Generator.skeleton`."""
        widths = {name: about[name] for name in ("width", "depth")}
        generator = cls.new(state_dim, plan_shape(spec), **widths, key=key)
        return dataclasses.replace(generator, deterministic=about["deterministic"])


LOG_STD = (-20.0, 2.0)
"""Range of the logarithm of a standard deviation, as in the code of Ball et al., RLPD, 2023."""


def plan_shape(spec: Spec) -> tuple[int, int]:
    """(horizon, action_dim)."""
    return (spec.horizon, spec.action_dim)
