"""Every algorithm with a base as LeRobot has them: a U-Net, past actions in its plans, scaled plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_algorithms import LOOP, TASK, demonstrations, small

from otpr.agents import algorithm_names
from otpr.diffusion import NoiseSchedule
from otpr.envs import ChunkedVectorEnv
from otpr.networks.unet import UNet
from otpr.policies.denoising import Diffusion
from otpr.policies.generators import plan_shape
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.training.run_directory import read_rows
from tiny import arrays, policy, sitting

QUICK = dataclasses.replace(LOOP, env_steps=80, eval_episodes=1, final_eval_episodes=1)


def base() -> Policy:
    made = policy(observation_dim=4, action_dim=2, history=2, horizon=4, execute=2, offset=1)
    sizes = {"down_dims": (8, 16), "kernel_size": 3, "groups": 4, "step_dim": 8}
    network = UNet(made.state_dim, plan_shape(made.spec), **sizes, key=jax.random.key(0))
    low, high = jnp.array([-0.5, -1.2]), jnp.array([0.9, 1.0])
    schedule = NoiseSchedule.of("linear", 6, 0.05, 0.6)
    generator = Diffusion(
        network,
        schedule,
        "ddpm",
        3,
        spacing="leading",
        clipped_noise=False,
        low=low,
        high=high,
    )
    return made.with_generator(generator)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", algorithm_names())
def test_algorithm_learns_from_it_and_leaves_a_policy_that_acts(algorithm: str, tmp_path: Path) -> None:
    config, given = small(algorithm), base()
    execute = config.acting_spec(given.spec).execute
    with ChunkedVectorEnv(TASK, QUICK.num_envs, execute, processes=False, history=2) as env:
        job = sitting(tmp_path / "run", given, demonstrations(), env, agent=config, loop=QUICK)
    for row in read_rows(tmp_path / "run"):
        assert all(np.isfinite(x) for x in row.values() if isinstance(x, float)), row
    saved = load_policy(tmp_path / "run")
    seen = demonstrations()[0].observations["state"][:2]
    np.testing.assert_array_equal(saved.act(seen, 1), job.agent.deployed().act(seen, 1))
    first = arrays(given.generator)
    last = arrays(job.agent.deployed().generator)
    assert algorithm == "bc" or first.keys() != last.keys() or any((first[n] != last[n]).any() for n in first)
