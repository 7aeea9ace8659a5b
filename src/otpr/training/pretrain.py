"""Imitation: a score-based diffusion policy over action chunks, from demonstrations alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from otpr.data.chunks import Transitions, chunk_transitions, concatenate
from otpr.data.episodes import Episode
from otpr.data.mixture import Mixture, split
from otpr.diffusion import NoiseSchedule, denoising_losses
from otpr.errors import OtprError, check_at_least
from otpr.networks.critics import polyak
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.generators import Diffusion
from otpr.policies.normalization import Normalizer
from otpr.policies.policy import Policy
from otpr.scanning import scan_state
from otpr.training import checkpoints
from otpr.training.progress import Progress
from otpr.training.run_directory import RunDirectory
from otpr.training.stopping import Abandoned, StopRequest


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """What imitation depends on."""

    # actions in a chunk, all executed before the next observation is used
    chunk_length: int = 4
    # noise levels of the diffusion
    denoising_steps: int = 10
    # width of the score network's hidden layers
    width: int = 256
    # number of the score network's hidden layers
    depth: int = 3
    # gradient steps
    updates: int = 3000
    # (observation, chunk) pairs of a gradient step
    batch_size: int = 256
    # Adam's, at the start; it falls to 0 along a cosine
    learning_rate: float = 1e-3
    # the policy that is kept is a moving average of the weights, moved by this much each step
    ema_rate: float = 0.005
    # share of each data set's episodes that is not trained on; its loss is logged
    held_out: float = 0.0

    def __post_init__(self):
        """Refuse numbers that make no policy."""
        check_at_least(1, self, "chunk_length", "denoising_steps", "width", "depth", "updates", "batch_size")
        check_at_least(0, self, "learning_rate", "ema_rate")
        if self.ema_rate > 1:
            raise OtprError(f"ema_rate must be at most 1, given {self.ema_rate}.")


class Imitation(eqx.Module):
    """The state of imitation learning, an immutable pytree."""

    network: NoiseNetwork
    policy: Policy  # its network is the moving average of `network`
    optimizer_state: optax.OptState
    key: PRNGKeyArray
    config: PretrainConfig = eqx.field(static=True)

    @classmethod
    def create(cls, episodes: list[Episode], config: PretrainConfig, key: PRNGKeyArray) -> Imitation:
        """The state before the first step; observations are normalised by the statistics of `episodes`."""
        network_key, key = jax.random.split(key)
        observations = np.concatenate([episode.observations for episode in episodes])
        action_dim = episodes[0].actions.shape[1]
        network = NoiseNetwork(
            observations.shape[1],
            config.chunk_length * action_dim,
            width=config.width,
            depth=config.depth,
            key=network_key,
        )
        policy = Policy(
            generator=Diffusion(network, NoiseSchedule.cosine(config.denoising_steps)),
            normalizer=Normalizer.fit(observations),
            chooser=None,
            chunk_length=config.chunk_length,
            action_dim=action_dim,
            candidates=1,
        )
        optimizer_state = _optimizer(config).init(eqx.filter(network, eqx.is_array))
        return cls(network, policy, optimizer_state, key, config)

    def update(self, batch: Transitions) -> tuple[Imitation, Array]:
        """One step of denoising score matching on (observation, chunk) pairs; also its loss."""
        key, noise_key = jax.random.split(self.key)
        diffusion = self.policy.diffusion
        states = self.policy.normalizer(jnp.asarray(batch.observation))

        chunks = jnp.asarray(batch.chunk)

        def loss_of(network: NoiseNetwork) -> Array:
            return jnp.mean(denoising_losses(network, diffusion.schedule, states, chunks, noise_key))

        loss, gradient = eqx.filter_value_and_grad(loss_of)(self.network)
        updates, optimizer_state = _optimizer(self.config).update(gradient, self.optimizer_state)
        network = eqx.apply_updates(self.network, updates)
        average = polyak(diffusion.network, network, self.config.ema_rate)
        policy = dataclasses.replace(self.policy, generator=diffusion.with_network(average))
        return Imitation(network, policy, optimizer_state, key, self.config), loss


def _optimizer(config: PretrainConfig) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.updates))


@eqx.filter_jit
def _update_block(state: Imitation, data: Mixture, updates: int) -> tuple[Imitation, Array]:
    def step(state: Imitation, _: None) -> tuple[Imitation, Array]:
        key, batch_key = jax.random.split(state.key)
        state = dataclasses.replace(state, key=key)
        return state.update(data.sample(batch_key, state.config.batch_size))

    state, losses = scan_state(step, state, length=updates)
    return state, jnp.mean(losses)


def _take_block(state: Imitation, data: Mixture, updates: int) -> tuple[Imitation, float]:
    """Gradient steps and their mean loss, done when this returns."""
    state, loss = _update_block(state, data, updates)
    return state, float(loss)


def pretrain(
    sets: Sequence[Sequence[Episode]],
    config: PretrainConfig,
    run: RunDirectory,
    *,
    task: str,
    seed: int,
    resume: bool,
    weights: Sequence[float] = (),
) -> Policy:
    """Train a policy by imitation and save it as `policy` in the run directory.

    Args:
        sets: the demonstrations: data sets of episodes, already validated.
        weights: how often each set is drawn; see `Mixture.of`.
        run: where metrics, checkpoints and the policy go.
        task: the task's name, stored beside the policy.
        resume: go on from the newest checkpoint in the run directory.
    """
    sets, held_out = _hold_out(sets, config, seed)
    data = Mixture.of(sets, weights, config.chunk_length, gamma=1.0)
    episodes = [episode for part in sets for episode in part]
    state, done = Imitation.create(episodes, config, jax.random.key(seed)), 0
    if resume and (step := checkpoints.latest(run.checkpoints)) is not None:
        state, _ = checkpoints.load(run.checkpoints, step, state)
        done = step
    if (
        resume
    ):  # also where there is no checkpoint: a run that was killed may have logged rows before its first
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
                if held_out is not None:
                    row["pretrain/held_out_loss"] = float(_held_out_loss(state.policy, held_out))
                run.log(row)
                progress.advance(n, loss=loss)
            if stop.requested or done == config.updates:
                checkpoints.save(run.checkpoints, done, state, {})
                stop.leave_if_requested(f"pretraining stopped at {done:,} updates")
    state.policy.save(run.path / "policy", task=task)
    return state.policy


def _hold_out(
    sets: Sequence[Sequence[Episode]], config: PretrainConfig, seed: int
) -> tuple[list[list[Episode]], Transitions | None]:
    """The episodes to train on, by set; and evenly spread transitions of those held out, if any."""
    parts = [split(episodes, config.held_out, seed) for episodes in sets]
    held = [episode for _, held in parts for episode in held]
    if not held:
        return [kept for kept, _ in parts], None
    data = concatenate([chunk_transitions(episode, config.chunk_length, gamma=1.0) for episode in held])
    rows = np.unique(np.linspace(0, len(data.reward) - 1, _HELD_OUT_ROWS).round().astype(int))
    return [kept for kept, _ in parts], Transitions(*(jnp.asarray(field[rows]) for field in data))


@eqx.filter_jit
def _held_out_loss(policy: Policy, held_out: Transitions) -> Array:
    """The loss of the policy as it is kept; the same noise each time, so that its course is smooth."""
    diffusion = policy.diffusion
    states = policy.normalizer(held_out.observation)
    losses = denoising_losses(
        diffusion.network, diffusion.schedule, states, held_out.chunk, jax.random.key(0)
    )
    return jnp.mean(losses)


_HELD_OUT_ROWS = 4096
"""At most so many held-out transitions are looked at."""


_BLOCK = 250
