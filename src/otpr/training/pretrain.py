"""Pre-training of a diffusion policy over action plans by imitation of demonstrations."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from otpr.data.episodes import Episode
from otpr.data.experience import Encode, Experience
from otpr.data.frames import DecisionObservations
from otpr.data.mixture import split
from otpr.envs import Setup
from otpr.errors import OtprError
from otpr.policies.encoder import Observations, encode, told
from otpr.policies.policy import Policy
from otpr.policies.vision import vector_part
from otpr.spec import Spec
from otpr.training import checkpoints
from otpr.training.imitation import Imitation, PretrainConfig, take_block, vectors_of
from otpr.training.progress import Progress
from otpr.training.run_directory import RunDirectory
from otpr.training.stopping import Abandoned, StopRequest


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
        weights: relative frequency of each set; see `Mixture.of`.
        run: where metrics, checkpoints and the policy go.
        setup: the task's setup, stored with the policy.
        spec: the task's spec.
        resume: whether to continue from the newest checkpoint in the run directory.
        resolution: deviations of an observation up to this count as none; see `otpr.envs.TaskSpec`.
        meaning: the meaning of the task's numbers; see `Policy.save`.
    """
    sets, held_out = _hold_out(sets, config, seed)
    episodes = [episode for part in sets for episode in part]
    if spec.vectors:
        for line in told(vector_part(spec), vectors_of(episodes, spec), resolution):
            print(line)
    state, done = Imitation.create(episodes, spec, config, jax.random.key(seed), resolution), 0
    images = DecisionObservations(episodes, state.policy.spec) if spec.images else None
    data = _experience(
        sets, weights, state.policy.spec, _unencoded if spec.images else _encoding(state.policy)
    )
    held = None
    if resume and (step := checkpoints.latest(run.checkpoints)) is not None:
        state, _ = checkpoints.load(run.checkpoints, step, state)
        done = step
    if resume:
        # also without a checkpoint: a killed run may have logged rows before its first one
        run.rewind("updates", done)
    with Progress(config.updates, "pretraining", "updates", done=done) as progress, StopRequest() as stop:
        while done < config.updates:
            n = min(_BLOCK, config.updates - done)
            with contextlib.suppress(Abandoned):
                state, loss = stop.do(take_block, state, data, images, n)
                done += n
                if not math.isfinite(loss):
                    raise OtprError(
                        f"Imitation diverged after {done:,} updates: the loss is not finite. Nothing was "
                        "saved of it; try a smaller learning rate."
                    )
                row = {"updates": done, "pretrain/loss": loss}
                if held_out:
                    if held is None or images is not None:  # another encoder, other states
                        held = _experience([held_out], (), state.policy.spec, _encoding(state.policy))
                    row["pretrain/held_out_loss"] = float(_held_out_loss(state.policy, held))
                run.log(row)
                progress.advance(n, loss=loss)
            if stop.requested or done == config.updates:
                checkpoints.save(run.checkpoints, done, state, {})
                stop.leave_if_requested(f"pretraining stopped at {done:,} updates")
    state.policy.save(run.path / "policy", task=setup.task, view=setup.view(), meaning=meaning)
    return state.policy


def _experience(
    sets: Sequence[Sequence[Episode]], weights: Sequence[float], spec: Spec, encode: Encode
) -> Experience:
    return Experience.of(sets, weights, encode, spec=spec, gamma=1.0)


def _encoding(policy: Policy) -> Encode:
    return functools.partial(encode, policy.encoder)


def _unencoded(observations: Observations) -> NDArray[np.float32]:
    """No features: each step computes its own."""
    return np.zeros((len(next(iter(observations.values()))), 0), np.float32)


def _hold_out(
    sets: Sequence[Sequence[Episode]], config: PretrainConfig, seed: int
) -> tuple[list[list[Episode]], list[Episode]]:
    """The training episodes by set, and the held-out episodes, if any."""
    parts = [split(episodes, config.held_out, seed) for episodes in sets]
    return [kept for kept, _ in parts], [episode for _, held in parts for episode in held]


@eqx.filter_jit
def _held_out_loss(policy: Policy, held: Experience) -> Array:
    """The loss of the averaged policy, with the same noise each time for a smooth curve."""
    rows = held.demonstrations.rows
    n = min(rows.shape[0], _HELD_OUT_ROWS)
    evenly = rows[np.linspace(0, rows.shape[0] - 1, n).round().astype(int)]
    states, plans = held.store.states(evenly), held.store.plans(evenly)
    diffusion = policy.diffusion
    return jnp.mean(diffusion.losses(diffusion.network, states, plans, jax.random.key(0)))


_HELD_OUT_ROWS = 4096
"""Largest number of held-out pairs in the loss."""


_BLOCK = 250
"""Number of gradient steps between two rows of metrics."""
