"""Imitation: a score-based diffusion policy over plans of actions, from demonstrations alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from otpr.agents.parts.actor_critic import followed
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.mixture import split
from otpr.diffusion import NoiseSchedule
from otpr.diffusion.parametrization import Prediction
from otpr.envs import Setup
from otpr.errors import OtprError, check_at_least, unknown_name
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.encoder import VectorEncoder, encode, told
from otpr.policies.generators import Diffusion, plan_shape
from otpr.policies.policy import Policy
from otpr.scanning import scan_state
from otpr.spec import Spec
from otpr.training import checkpoints
from otpr.training.progress import Progress
from otpr.training.run_directory import RunDirectory
from otpr.training.stopping import Abandoned, StopRequest


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What imitation depends on."""

    # observations that a decision sees: the present one and those before it
    history: int = 1
    # actions in a plan
    horizon: int = 4
    # how many of them are executed before the next decision; left out, all
    execute: int | None = None
    # noise levels of the diffusion
    denoising_steps: int = 10
    # what the score network predicts in a noisy plan
    prediction: Prediction = "noise"
    # width of the score network's hidden layers
    width: int = 256
    # number of the score network's hidden layers
    depth: int = 3
    # gradient steps
    updates: int = 3000
    # (state, plan) pairs of a gradient step
    batch_size: int = 256
    # Adam's, at the start; it falls to 0 along a cosine
    learning_rate: float = 1e-3
    # the policy that is kept is a moving average of the weights, moved by this much each step
    ema_rate: float = 0.005
    # share of each data set's episodes that is not trained on; its loss is logged
    held_out: float = 0.0

    def __post_init__(self):
        """Refuse numbers that make no policy."""
        counts = ("history", "horizon", "denoising_steps", "width", "depth", "updates", "batch_size")
        check_at_least(1, self, *counts)
        check_at_least(0, self, "learning_rate", "ema_rate")
        if self.ema_rate > 1:
            raise OtprError(f"ema_rate must be at most 1, given {self.ema_rate}.")
        if self.prediction not in get_args(Prediction):
            raise unknown_name("prediction", self.prediction, get_args(Prediction))

    def policy_spec(self, task: Spec) -> Spec:
        """What the policy takes and gives.

        Raises:
            OtprError: `execute` exceeds `horizon`, or is below 1.
        """
        execute = self.horizon if self.execute is None else self.execute
        return dataclasses.replace(task, history=self.history, horizon=self.horizon, execute=execute)


class Imitation(eqx.Module):
    """The state of imitation learning, an immutable pytree."""

    network: NoiseNetwork
    policy: Policy  # its network is the moving average of `network`
    optimizer_state: optax.OptState
    key: PRNGKeyArray
    config: PretrainConfig = eqx.field(static=True)

    @classmethod
    def create(
        cls,
        episodes: Sequence[Episode],
        task: Spec,
        config: PretrainConfig,
        key: PRNGKeyArray,
        resolution: float = 0.0,
    ) -> Imitation:
        """The state before the first step; observations are normalised by the statistics of `episodes`."""
        network_key, key = jax.random.split(key)
        spec = config.policy_spec(task)
        encoder = VectorEncoder.fit(spec, _all_observations(episodes), resolution)
        state_dim = spec.history * encoder.feature_dim
        sizes = {"width": config.width, "depth": config.depth}
        network = NoiseNetwork(state_dim, plan_shape(spec), **sizes, key=network_key)
        schedule = NoiseSchedule.cosine(config.denoising_steps)
        generator = Diffusion(network, schedule, prediction=config.prediction)
        optimizer_state = _optimizer(config).init(eqx.filter(network, eqx.is_array))
        return cls(network, Policy(encoder, generator, None, spec), optimizer_state, key, config)

    def update(self, states: Float[Array, "n s"], plans: Float[Array, "n h a"]) -> tuple[Imitation, Array]:
        """One step of denoising score matching on (state, plan) pairs; also its loss."""
        key, noise_key = jax.random.split(self.key)
        diffusion = self.policy.diffusion

        def loss_of(network: NoiseNetwork) -> Array:
            return jnp.mean(diffusion.losses(network, states, plans, noise_key))

        loss, gradient = eqx.filter_value_and_grad(loss_of)(self.network)
        updates, optimizer_state = _optimizer(self.config).update(gradient, self.optimizer_state)
        network = eqx.apply_updates(self.network, updates)
        average = followed(diffusion.network, network, self.config.ema_rate)
        policy = self.policy.with_generator(diffusion.with_network(average))
        return Imitation(network, policy, optimizer_state, key, self.config), loss


def _all_observations(episodes: Sequence[Episode]) -> Mapping[str, NDArray[np.generic]]:
    names = episodes[0].observations
    return {name: np.concatenate([episode.observations[name] for episode in episodes]) for name in names}


def _optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))


@eqx.filter_jit
def _update_block(state: Imitation, data: Experience, updates: int) -> tuple[Imitation, Array]:
    def step(state: Imitation, _: None) -> tuple[Imitation, Array]:
        key, batch_key = jax.random.split(state.key)
        state = dataclasses.replace(state, key=key)
        batch = data.sample_demonstrations(batch_key, state.config.batch_size)
        return state.update(batch.state, batch.plan)

    state, losses = scan_state(step, state, length=updates)
    return state, jnp.mean(losses)


def _take_block(state: Imitation, data: Experience, updates: int) -> tuple[Imitation, float]:
    """Gradient steps and their mean loss, done when this returns."""
    state, loss = _update_block(state, data, updates)
    return state, float(loss)


def pretrain(
    sets: Sequence[Sequence[Episode]],
    config: PretrainConfig,
    run: RunDirectory,
    *,
    setup: Setup,
    spec: Spec,
    seed: int,
    resume: bool,
    weights: Sequence[float] = (),
    resolution: float = 0.0,
    meaning: Mapping[str, Any] | None = None,
) -> Policy:
    """Train a policy by imitation and save it as `policy` in the run directory.

    Args:
        sets: the demonstrations: data sets of episodes, already validated.
        weights: how often each set is drawn; see `Mixture.of`.
        run: where metrics, checkpoints and the policy go.
        setup: the task, stored beside the policy.
        spec: what the task takes and gives.
        resume: go on from the newest checkpoint in the run directory.
        resolution: deviations of an observation up to this count as none; see `otpr.envs.TaskSpec`.
        meaning: what the task says of its numbers; see `Policy.save`.
    """
    sets, held_out = _hold_out(sets, config, seed)
    episodes = [episode for part in sets for episode in part]
    for line in told(spec, _all_observations(episodes), resolution):
        print(line)
    state, done = Imitation.create(episodes, spec, config, jax.random.key(seed), resolution), 0
    data = _experience(sets, weights, state.policy)
    held = None if not held_out else _experience([held_out], (), state.policy)
    if resume and (step := checkpoints.latest(run.checkpoints)) is not None:
        state, _ = checkpoints.load(run.checkpoints, step, state)
        done = step
    if resume:
        # also where there is no checkpoint: a run that was killed may have logged rows before its first
        run.rewind("updates", done)
    with Progress(config.updates, "pretraining", "updates", done=done) as progress, StopRequest() as stop:
        while done < config.updates:
            n = min(_BLOCK, config.updates - done)
            with contextlib.suppress(Abandoned):
                state, loss = stop.do(_take_block, state, data, n)
                done += n
                if not math.isfinite(loss):
                    raise OtprError(
                        f"Imitation diverged after {done:,} updates: the loss is not finite. Nothing was "
                        "saved of it; try a smaller learning rate."
                    )
                row = {"updates": done, "pretrain/loss": loss}
                if held is not None:
                    row["pretrain/held_out_loss"] = float(_held_out_loss(state.policy, held))
                run.log(row)
                progress.advance(n, loss=loss)
            if stop.requested or done == config.updates:
                checkpoints.save(run.checkpoints, done, state, {})
                stop.leave_if_requested(f"pretraining stopped at {done:,} updates")
    state.policy.save(run.path / "policy", task=setup.task, view=setup.view(), meaning=meaning)
    return state.policy


def _experience(sets: Sequence[Sequence[Episode]], weights: Sequence[float], policy: Policy) -> Experience:
    return Experience.of(
        sets, weights, functools.partial(encode, policy.encoder), spec=policy.spec, gamma=1.0
    )


def _hold_out(
    sets: Sequence[Sequence[Episode]], config: PretrainConfig, seed: int
) -> tuple[list[list[Episode]], list[Episode]]:
    """The episodes to train on, by set; and those held out, if any."""
    parts = [split(episodes, config.held_out, seed) for episodes in sets]
    return [kept for kept, _ in parts], [episode for _, held in parts for episode in held]


@eqx.filter_jit
def _held_out_loss(policy: Policy, held: Experience) -> Array:
    """The loss of the policy as it is kept; the same noise each time, so that its course is smooth."""
    rows = held.demonstrations.rows
    n = min(rows.shape[0], _HELD_OUT_ROWS)
    evenly = rows[np.linspace(0, rows.shape[0] - 1, n).round().astype(int)]
    states, plans = held.store.states(evenly), held.store.plans(evenly)
    diffusion = policy.diffusion
    return jnp.mean(diffusion.losses(diffusion.network, states, plans, jax.random.key(0)))


_HELD_OUT_ROWS = 4096
"""At most so many held-out pairs are looked at."""


_BLOCK = 250
"""Gradient steps between two rows of metrics."""
