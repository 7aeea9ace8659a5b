"""Policies of other libraries with states normalised as ours: the same actions, and the same files back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import lerobot_ours
import numpy as np
import others_ours
import pytest
from decisions import WIDE
from lerobot_cases import CASES, FIXTURES
from others_cases import DIFFUSION_POLICY, DPPO

import tiny
from otpr.agents import agent_class, agent_config
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.data.episodes import Episode
from otpr.npz import read_npz
from otpr.policies.convert.exported import write_files
from otpr.policies.convert.lerobot import import_lerobot
from otpr.policies.convert.lerobot_export import export_lerobot
from otpr.policies.encoder import encode
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.renormalized import is_foreign, is_renormalized, original, renormalized
from otpr.policies.vision import VisionEncoder
from otpr.spec import STATE
from otpr.trees import read_arrays

LEROBOT = {case.name: case for case in CASES}
OTHERS = {case.name: case for case in (*DIFFUSION_POLICY, *DPPO)}
SLOW = {"cameras": pytest.mark.slow, "hybrid": pytest.mark.slow, "two-views": pytest.mark.long}
LAST_BITS = 4 * float(np.finfo(np.float32).eps)
"""How far states may differ that are the same up to rounding, relative to the largest number on the way."""

# Group normalisation divides by the deviation of as few as two numbers there: the last bit of the states
# alone moves actions by up to 1.3e-4 (300 draws).
MOVED = {"low-dim-ddim": 5e-4}
"""What actions may differ by; 1e-4 where nothing is said."""


def rows(policy: Policy, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Demonstrations' observations: numbers of several sizes, two of which hardly vary or not at all."""
    size = policy.spec.observation[STATE].shape[0]
    drawn = np.random.default_rng(0).normal(np.linspace(-2, 1, size), np.linspace(0.3, 2, size), (500, size))
    drawn[:, 0] = 0.25
    drawn[:, 1] = 0.5 + 1e-6 * drawn[:, 1]
    return {STATE: (scale * drawn).astype(policy.spec.observation[STATE].dtype)}


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in LEROBOT])
def test_lerobots_policies_act_as_before_and_go_back(name: str, tmp_path: Path) -> None:
    case = LEROBOT[name]
    policy = import_lerobot(lerobot_ours.folder_with_weights(case, tmp_path / "theirs"), WIDE).policy
    assert is_foreign(policy) and not is_renormalized(policy)
    ours = renormalized(policy, rows(policy), 1e-4)
    assert is_renormalized(ours) and not is_foreign(ours)
    expected = read_arrays(FIXTURES / name / "expected.safetensors")["actions"]
    np.testing.assert_allclose(lerobot_ours.actions(ours, case), expected, atol=1e-4)

    # stored and read, it is the same
    ours.save(tmp_path / "policy", task="toy/task")
    stored = load_policy(tmp_path / "policy")
    np.testing.assert_array_equal(lerobot_ours.actions(stored, case), lerobot_ours.actions(ours, case))

    # what goes back is what came
    keys = tuple(sorted(case.images, key=lambda key: key.split(".")[-1]))
    told = {"state_length": case.vectors["observation.state"], "image_keys": keys}
    exported = export_lerobot(ours, **told)
    assert exported.notes == []
    before = export_lerobot(policy, **told)
    assert exported.files["model.safetensors"] == before.files["model.safetensors"]
    assert exported.files["config.json"] == before.files["config.json"]
    write_files(exported, tmp_path / "back")
    again = import_lerobot(tmp_path / "back", WIDE).policy
    np.testing.assert_allclose(lerobot_ours.actions(again, case), expected, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in OTHERS])
def test_policies_of_others_act_as_before(name: str, tmp_path: Path) -> None:
    case = OTHERS[name]
    policy = others_ours.imported(case, tmp_path).policy
    assert is_foreign(policy)
    ours = renormalized(policy, rows(policy), 1e-4)
    same_states(policy, ours, others_ours.observations(case))
    expected = read_npz(others_ours.FIXTURES / name / "expected.npz")["actions"]
    np.testing.assert_allclose(others_ours.actions(ours, case), expected, atol=MOVED.get(name, 1e-4))
    np.testing.assert_allclose(others_ours.actions(original(ours), case), expected, atol=1e-4)


def same_states(theirs: Policy, ours: Policy, observations: dict[str, np.ndarray]) -> None:
    """The networks of both see the same states, up to rounding."""
    for draw in range(len(observations[STATE])):
        seen = {name: x[draw].astype(theirs.spec.observation[name].dtype) for name, x in observations.items()}
        before, states = (
            policy.state(jax.tree.map(jnp.asarray, policy.encoder.on_device(seen)))
            for policy in (theirs, ours)
        )
        assert ours.diffusion.states is not None
        largest = np.abs(np.concatenate([before, states, ours.diffusion.states.mean])).max()
        after = ours.diffusion.seen(states)
        scale = 1 / np.asarray(ours.diffusion.states.scale)
        assert (np.abs(after - before) <= LAST_BITS * largest * np.maximum(scale, 1)).all()


def test_states_are_those_of_our_normalisation() -> None:
    """Zero mean and unit deviation; numbers that hardly vary keep their unit, which theirs blows up."""
    policy = foreign()
    given = rows(policy)
    theirs, ours = encode(policy.encoder, given), encode(renormalized(policy, given, 1e-4).encoder, given)
    np.testing.assert_allclose(ours.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(ours[:, 2:].std(axis=0), 1, rtol=1e-4)
    assert np.abs(theirs[:, 1]).max() > 0.9 and np.abs(ours[:, 1]).max() < 1e-5


def test_ours_are_not_foreign() -> None:
    assert not is_foreign(tiny.policy())
    assert original(tiny.policy()) is not None and not is_renormalized(tiny.policy())


def foreign(history: int = 1) -> Policy:
    """One of ours with LeRobot's way to normalise: the range of each number is [-1, 1]."""
    made = tiny.policy(history=history)
    low, high = (end(rows(made)[STATE], axis=0) for end in (np.min, np.max))
    half = np.where(high == low, 1e-8, high - low) / 2
    least, scale = (jnp.asarray(x, jnp.float32) for x in (low, half))
    normalizer = dataclasses.replace(
        made.encoder.normalizers[STATE],  # pyright: ignore[reportAttributeAccessIssue]
        mean=least,
        scale=scale,
        shift=jnp.full(len(low), -1.0),
        limit=None,
    )
    encoder = dataclasses.replace(made.encoder, normalizers={STATE: normalizer})  # pyright: ignore
    return dataclasses.replace(made, encoder=encoder)


def states(policy: Policy) -> Any:
    seen = rows(policy)[STATE][: 4 * policy.spec.history]
    return encode(policy.encoder, {STATE: seen}).reshape(4, -1)


def created(policy: Policy) -> Any:
    """DPPO, before it has learnt anything."""
    config = dataclasses.replace(agent_config("dppo"), tuned_steps=2)
    seen = rows(policy)[STATE][:9]
    episode = Episode(
        observations={STATE: seen},
        actions=np.zeros((8, 4), np.float32),
        rewards=np.ones(8, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=0,
    )
    return agent_class("dppo").create(policy, tiny.experience(policy, [episode]), config, jax.random.key(0))


def test_losses_and_what_dppo_learns_from_are_those_of_the_policy_before() -> None:
    before = foreign(history=2)
    after = renormalized(before, rows(before), 1e-4)
    plans = jax.random.uniform(jax.random.key(1), (4, 8, 4), minval=-1.0)
    losses, chains, densities = [], [], []
    for policy in (before, after):
        diffusion = policy.diffusion
        seen = jnp.asarray(states(policy))
        losses.append(diffusion.losses(diffusion.network, seen, plans, jax.random.key(2)))
        tuned = TunedDiffusion(diffusion, diffusion.network, 2, 0.1)
        chains.append(tuned.tuned_chain(seen[0], jax.random.key(3)))
        agent = created(policy)
        both = jnp.stack([chains[0], chains[0]])
        densities.append(agent.log_densities(diffusion.network, seen[:2], both))
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    np.testing.assert_allclose(chains[1], chains[0], atol=1e-4)
    np.testing.assert_allclose(densities[1], densities[0], atol=1e-3)


def test_images_features_stay_as_they_are(tmp_path: Path) -> None:
    case = LEROBOT["image"] if "image" in LEROBOT else next(c for c in CASES if c.images)
    policy = import_lerobot(lerobot_ours.folder_with_weights(case, tmp_path / "theirs"), WIDE).policy
    ours = renormalized(policy, rows(policy))
    assert isinstance(policy.encoder, VisionEncoder) and isinstance(ours.encoder, VisionEncoder)
    seen = {name: x[:, -1] for name, x in lerobot_ours.observations(case).items()}
    vectors = policy.encoder.vectors.feature_dim  # pyright: ignore[reportOptionalMemberAccess]
    before, after = encode(policy.encoder, seen), encode(ours.encoder, seen)
    np.testing.assert_array_equal(before[:, vectors:], after[:, vectors:])
    assert np.abs(before[:, :vectors] - after[:, :vectors]).max() > 0.1
