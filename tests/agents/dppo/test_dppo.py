"""DPPO: its data, its update against the formulas written out, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from otpr.data.chunks import Transitions
from otpr.policies.normalization import Normalizer
from scipy import stats

from otpr.agents.dppo.agent import DPPO, Draws, _replay
from otpr.agents.dppo.config import DPPOConfig
from otpr.agents.dppo.decisions import Decisions, advantages, decisions_of
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.agents.parts.agent import Round
from otpr.data.episodes import Episode
from otpr.diffusion import NoiseSchedule, sample
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.acting import decision_keys
from otpr.policies.generators import Diffusion
from otpr.policies.policy import Policy, load_policy
from tiny import arrays, assert_same_arrays

ACTION_SEED = 3
CONFIG = DPPOConfig(
    batch_size=64, decisions=256, value_iterations=1, critic_width=32, policy_learning_rate=1e-3
)
NO_KEYPOINTS = Transitions(*[np.zeros(0)] * 6)


def episode(rng: np.random.Generator, steps: int, *, terminated: bool, seed: int = 0) -> Episode:
    return Episode(
        observations=rng.normal(size=(steps + 1, 3)).astype(np.float32),
        actions=rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=terminated,
        seed=seed,
    )


def untrained(*, levels: int = 6, observation_dim: int = 3, chunk_dim: int = 4, seed: int = 0) -> Policy:
    """Of two actions a chunk, sampled by few steps."""
    network = NoiseNetwork(observation_dim, chunk_dim, width=16, depth=2, key=jax.random.key(seed))
    normalizer = Normalizer(jnp.linspace(-0.2, 0.3, observation_dim), jnp.linspace(0.5, 1.5, observation_dim))
    generator = Diffusion(network, NoiseSchedule.cosine(levels))
    return Policy(generator, normalizer, None, chunk_length=2, action_dim=chunk_dim // 2, candidates=1)


# --------------------------------------------------------------------------------------- decisions


def test_decisions_of_an_episode_are_its_chunks():
    rng = np.random.default_rng(0)
    first, second = episode(rng, 7, terminated=True, seed=5), episode(rng, 6, terminated=False, seed=8)
    decisions = decisions_of([first, second], 3, 0.9)
    np.testing.assert_array_equal(decisions.observation, np.r_[first.observations[[0, 3, 6]],
                                                               second.observations[[0, 3]]])  # fmt: skip
    np.testing.assert_array_equal(decisions.next_observation, np.r_[first.observations[[3, 6, 7]],
                                                                    second.observations[[3, 6]]])  # fmt: skip
    r, q = first.rewards, second.rewards
    expected = [r[0] + 0.9 * r[1] + 0.81 * r[2], r[3] + 0.9 * r[4] + 0.81 * r[5], r[6]]
    expected += [q[0] + 0.9 * q[1] + 0.81 * q[2], q[3] + 0.9 * q[4] + 0.81 * q[5]]
    np.testing.assert_allclose(decisions.reward, expected, rtol=1e-6)
    np.testing.assert_allclose(decisions.discount, [0.729, 0.729, 0, 0.729, 0.729], rtol=1e-6)
    np.testing.assert_array_equal(decisions.last, [False, False, True, False, True])
    np.testing.assert_array_equal(decisions.seed, [5, 5, 5, 8, 8])
    np.testing.assert_array_equal(decisions.number, [0, 1, 2, 0, 1])


def test_advantages_are_the_weighted_sum_of_errors_to_the_episode_end():
    rng = np.random.default_rng(1)
    episodes = [episode(rng, n, terminated=t) for n, t in ((9, True), (8, False), (2, True), (5, False))]
    decisions = decisions_of(episodes, 2, 0.9)
    values, next_values = rng.normal(size=(2, len(decisions.reward))).astype(np.float32)
    given = advantages(decisions, values, next_values, 0.8)
    at = 0
    for n, terminated in ((5, True), (4, False), (1, True), (3, False)):
        for t in range(n):
            expected, weight = 0.0, 1.0
            for i in range(at + t, at + n):
                future = 0.0 if terminated and i == at + n - 1 else decisions.discount[i] * next_values[i]
                expected += weight * (decisions.reward[i] + future - values[i])
                weight *= 0.8 * decisions.discount[i]
            assert given[at + t] == pytest.approx(expected, abs=1e-5)
        at += n
    assert at == len(given)


# --------------------------------------------------------------------------------------- the update


def acted(agent: DPPO, n: int, *, seed: int = 0) -> tuple[Decisions, np.ndarray]:
    """Decisions of the exploring policy at random observations, and its chunks."""
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(n, 3)).astype(np.float32)
    seeds, number = rng.integers(0, 2**31, n).astype(np.uint32), np.uint32(7)
    chunks, _ = agent.exploring().act_batch(
        jnp.asarray(observations), decision_keys(ACTION_SEED, seeds, number)
    )
    room = Decisions.zeros(n, 3)
    decisions = room._replace(
        observation=observations,
        next_observation=observations[::-1],
        seed=seeds,
        number=np.full(n, number, np.uint32),
    )
    return decisions, np.asarray(chunks).reshape(n, -1)


@pytest.mark.parametrize("tuned_steps", [3, 10])
def test_draws_done_again_are_those_that_acted(tuned_steps: int):
    config = dataclasses.replace(CONFIG, tuned_steps=tuned_steps)
    agent = DPPO.create(untrained(), NO_KEYPOINTS, config, jax.random.key(0))
    decisions, chunks = acted(agent, 40)
    _, chains, *_ = _replay(agent, decisions, jnp.asarray(ACTION_SEED))
    assert chains.shape == (40, min(tuned_steps, 6) + 1, 4)
    np.testing.assert_allclose(np.clip(chains[:, -1], -1, 1), chunks, atol=1e-5)
    assert np.abs(chains[:, -1]).max() > 1  # the chain keeps what clipping takes away
    # another key leads elsewhere
    assert np.abs(_replay(agent, decisions, jnp.asarray(4))[1][:, -1] - chunks).max() > 0.1


def reference_log_densities(agent: DPPO, network, states, chains) -> np.ndarray:
    """Entry by entry, by Ho et al.'s eq. 6 and 7 and SciPy's normal density."""
    schedule = agent.policy.diffusion.schedule
    alpha_bar = np.append(1.0, np.asarray(schedule.alpha_bar, np.float64))  # of level k at k + 1
    t = chains.shape[1] - 1
    result = np.zeros(chains.shape[:2])[:, 1:]
    for i in range(len(states)):
        for j in range(t):
            k = t - 1 - j
            ab, ab_next = alpha_bar[k + 1], alpha_bar[k]
            chunk = np.asarray(chains[i, j], np.float64)
            noise = np.asarray(network(states[i], chains[i, j], jnp.asarray(k)), np.float64)
            clean = np.clip((chunk - np.sqrt(1 - ab) * noise) / np.sqrt(ab), -1, 1)
            alpha = ab / ab_next
            mean = np.sqrt(ab_next) * (1 - alpha) / (1 - ab) * clean
            mean += np.sqrt(alpha) * (1 - ab_next) / (1 - ab) * chunk
            std = max(np.sqrt((1 - ab_next) / (1 - ab) * (1 - alpha)), agent.config.least_std)
            log_density = stats.norm.logpdf(np.asarray(chains[i, j + 1], np.float64), mean, std)
            result[i, j] = np.clip(log_density, -5, 2).mean()
    return result


def test_log_densities_are_those_of_the_gaussian_steps():
    config = dataclasses.replace(CONFIG, tuned_steps=4)
    agent = DPPO.create(untrained(), NO_KEYPOINTS, config, jax.random.key(0))
    decisions, _ = acted(agent, 5)
    states, chains, given, *_ = _replay(agent, decisions, jnp.asarray(ACTION_SEED))
    np.testing.assert_allclose(
        given, reference_log_densities(agent, agent.network, states, chains), rtol=1e-3, atol=1e-4
    )
    # entropy of Gaussians of at least this deviation: the draws are its own
    assert np.mean(given) < -np.log(config.least_std * np.sqrt(2 * np.pi))


def test_gradient_step_is_that_of_the_losses_written_out():
    """Finite differences of a surrogate in NumPy, along Adam's first step: its sign for every weight."""
    config = dataclasses.replace(
        CONFIG, tuned_steps=3, denoising_discount=0.5, clip=0.03, first_clip=0.01, clip_rate=2.0
    )
    agent = DPPO.create(untrained(levels=5), NO_KEYPOINTS, config, jax.random.key(0))
    decisions, _ = acted(agent, 8)
    states, chains, old, *_ = _replay(agent, decisions, jnp.asarray(ACTION_SEED))
    rng = np.random.default_rng(2)
    estimates, returns = rng.normal(size=(2, 8)).astype(np.float32)
    # a policy that has moved since, so that some ratios are clipped and some are not
    moved = jax.tree.map(
        lambda x: x + 0.01 * jax.random.normal(jax.random.key(9), x.shape) if eqx.is_array(x) else x,
        agent.network,
    )
    policy = dataclasses.replace(agent.policy, generator=agent.policy.diffusion.with_network(moved))
    agent = dataclasses.replace(agent, policy=policy)
    draws = Draws(states, chains, old, jnp.asarray(estimates), jnp.asarray(returns))
    after, metrics = agent.update_from(draws, True)

    old = np.asarray(old, np.float64)
    normal = (estimates - estimates.mean()) / (estimates.std() + 1e-8)
    clip = np.array([0.01 + 0.02 * (np.exp(2 * x) - 1) / (np.exp(2) - 1) for x in (0, 0.5, 1)])
    weight = np.array([0.25, 0.5, 1.0])
    ratio = np.exp(reference_log_densities(agent, moved, states, chains) - old)
    outside = np.abs(ratio - 1) > clip
    assert 0 < outside.mean() < 1
    terms = -normal[:, None] * weight * ratio, -normal[:, None] * weight * np.clip(ratio, 1 - clip, 1 + clip)
    assert metrics["policy/loss"] == pytest.approx(np.maximum(*terms).mean(), rel=1e-2, abs=2e-5)
    assert metrics["policy/clipped_share"] == pytest.approx(outside.mean(), abs=0.05)
    assert metrics["policy/kl"] == pytest.approx((ratio - 1 - np.log(ratio)).mean(), rel=5e-2)

    # the gradient of the same in JAX: only terms of which the maximum is the unclipped one have any
    active = jnp.asarray(terms[0] >= terms[1])

    def surrogate(network):
        log_ratio = agent.log_densities(network, states, chains) - jnp.asarray(old)
        return jnp.mean(jnp.where(active, -normal[:, None] * weight * jnp.exp(log_ratio), 0.0))

    optimizer = optax.adam(config.policy_learning_rate)
    updates, _ = optimizer.update(eqx.filter_grad(surrogate)(moved), agent.policy_state)
    expected = eqx.apply_updates(moved, updates)
    for given, wanted in zip(arrays(after.network).values(), arrays(expected).values(), strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-5)

    def value_loss(value):
        return jnp.mean((jax.vmap(value)(states) - returns) ** 2)

    loss, gradient = eqx.filter_value_and_grad(value_loss)(agent.value)
    assert metrics["critic/loss"] == pytest.approx(float(loss), rel=1e-5)
    updates, _ = optax.adam(config.learning_rate).update(gradient, agent.value_state)
    for given, wanted in zip(
        arrays(after.value).values(), arrays(eqx.apply_updates(agent.value, updates)).values(), strict=True
    ):
        np.testing.assert_allclose(given, wanted, atol=1e-5)


# --------------------------------------------------------------------------------------- networks


def test_the_fine_tuned_network_takes_the_last_steps_and_no_other():
    new, old = (untrained(seed=seed).diffusion for seed in (1, 0))
    generator = TunedDiffusion(new.network, old.network, old.schedule, "ddim", 4, 2, 0.0)
    state, key = jnp.asarray([0.1, -0.4, 0.7]), jax.random.key(2)

    def predict(chunks, k):  # levels 5, 3, 2, 0
        network = new.network if int(k) <= 2 else old.network
        return jax.vmap(lambda chunk: network(state, chunk, k))(chunks)

    with jax.disable_jit():
        expected = sample(predict, old.schedule, (3, 4), key, method="ddim", steps=4)
    np.testing.assert_allclose(generator.propose(state, key, 3), expected, atol=1e-5)


@pytest.mark.parametrize("tuned_steps", [2, 6])
def test_deployed_policy_saved_and_loaded_acts_bit_for_bit(tuned_steps: int, tmp_path: Path):
    config = dataclasses.replace(CONFIG, tuned_steps=tuned_steps)
    agent = DPPO.create(untrained(), NO_KEYPOINTS, config, jax.random.key(0))
    other = untrained(seed=1).diffusion.network
    policy = dataclasses.replace(agent.policy, generator=agent.policy.diffusion.with_network(other))
    deployed = dataclasses.replace(agent, policy=policy).deployed()
    assert isinstance(deployed.generator, Diffusion) == (tuned_steps == 6)
    observation = np.asarray([0.3, 0.1, -0.2], np.float32)
    for name, each in (("deployed", deployed), ("exploring", agent.exploring())):
        each.save(tmp_path / name, task="gym/Pendulum-v1")
        loaded = load_policy(tmp_path / name)
        for seed in range(3):
            np.testing.assert_array_equal(loaded.act(observation, seed), each.act(observation, seed))
    assert np.abs(deployed.act(observation, 0) - agent.deployed().act(observation, 0)).max() > 1e-2


# --------------------------------------------------------------------------------------- rounds

BANDIT = dataclasses.replace(
    CONFIG, batch_size=128, decisions=512, clip=0.1, first_clip=0.05, learning_rate=3e-3
)


def bandit_round(policy: Policy, n: int, seed: int) -> tuple[list[Episode], float]:
    """Episodes of one step, which pays on the observation's side; the share within the best mode."""
    rng = np.random.default_rng(seed)
    observations = rng.uniform(-1, 1, (n, 1)).astype(np.float32)
    seeds = rng.integers(0, 2**31, n).astype(np.uint32)
    keys = decision_keys(ACTION_SEED, seeds, np.uint32(0))
    chunks = np.asarray(policy.act_batch(jnp.asarray(observations), keys)[0])[:, 0]
    rewards = bandit.reward_of(observations, chunks)
    episodes = [
        Episode(
            observations=np.stack([observations[i]] * 2),
            actions=chunks[i : i + 1],
            rewards=rewards[i],
            terminated=True,
            truncated=False,
            success=bool(rewards[i, 0]),
            seed=int(seeds[i]),
        )
        for i in range(n)
    ]
    return episodes, float(np.mean(np.abs(chunks - bandit.MODE * np.sign(observations)) < 0.25))


def test_dppo_moves_the_mass_to_the_best_mode():
    assert 0.4 < bandit_round(bandit.base(), 1000, seed=99)[1] < 0.6
    agent = DPPO.create(bandit.base(), NO_KEYPOINTS, BANDIT, jax.random.key(0))
    for i in range(12):
        episodes, _ = bandit_round(agent.exploring(), 512, seed=i)
        agent, updates, _ = agent.learn_round(Round(episodes, ACTION_SEED))
        assert updates == 40
    assert bandit_round(agent.deployed(), 1000, seed=99)[1] > 0.75


def test_v_learns_first_and_then_the_policy_too():
    agent = DPPO.create(bandit.base(), NO_KEYPOINTS, BANDIT, jax.random.key(0))
    for i in range(2):
        before = agent
        agent, _, metrics = agent.learn_round(Round(bandit_round(agent.exploring(), 512, i)[0], ACTION_SEED))
        assert ("policy/loss" in metrics) == (i == 1)
        changed = {
            name: any((x != y).any() for x, y in zip(arrays(old).values(), arrays(new).values(), strict=True))
            for name, old, new in (
                ("network", before.network, agent.network),
                ("value", before.value, agent.value),
                ("base", before.base, agent.base),
            )
        }
        assert changed == {"network": i == 1, "value": True, "base": False}


def test_rounds_that_are_not_enough_are_kept_until_they_are():
    agent = DPPO.create(bandit.base(), NO_KEYPOINTS, BANDIT, jax.random.key(0))
    episodes, _ = bandit_round(agent.exploring(), 600, seed=0)
    at_once, updates, _ = agent.learn_round(Round(episodes, ACTION_SEED))
    assert updates == 40
    for part in (slice(0, 200), slice(200, 511)):
        agent, updates, metrics = agent.learn_round(Round(episodes[part], ACTION_SEED))
        assert (updates, metrics) == (0, {})
    # every episode of the next round broke
    agent, updates, _ = agent.learn_round(Round([], ACTION_SEED))
    assert updates == 0
    agent, updates, metrics = agent.learn_round(Round(episodes[511:], ACTION_SEED))
    assert (updates, int(metrics["policy/decisions"]), int(agent.collected_size)) == (40, 600, 0)
    names = ("policy", "value", "iterations", "policy_state", "value_state", "key")
    assert_same_arrays(
        {name + k: v for name in names for k, v in arrays(getattr(agent, name)).items()},
        {name + k: v for name in names for k, v in arrays(getattr(at_once, name)).items()},
    )


def test_iteration_ends_where_the_policy_has_moved_enough():
    config = dataclasses.replace(BANDIT, target_kl=1e-9, policy_learning_rate=1e-2)
    agent = DPPO.create(bandit.base(), NO_KEYPOINTS, config, jax.random.key(0))
    for expected in (40, 2):  # V alone has no limit; the first step's policy is the one that acted
        episodes, _ = bandit_round(agent.exploring(), 512, seed=0)
        agent, updates, _ = agent.learn_round(Round(episodes, ACTION_SEED))
        assert updates == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"update_ratio": 0.5}, "update_ratio must be 0, got 0.5"),
        ({"warmup_updates": 10}, "warmup_updates must be 0"),
        ({"offline_updates": 10}, "offline_updates must be 0"),
        ({"batch_size": 351}, r"batch_size \(351\) must not exceed decisions \(350\)"),
        ({"least_std": 0.0}, "least_std must be a positive number"),
        ({"clip": -0.1}, "clip must be"),
        ({"denoising_discount": 1.5}, "denoising_discount must lie"),
        ({"advantage_share": 1.5}, "advantage_share must lie"),
    ],
)
def test_settings_that_make_no_algorithm_are_refused(changes: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DPPOConfig(), **changes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"tuned_steps": 7}, ValueError), ({"sampler": "dpmm"}, Exception), ({"sampler_steps": 9}, ValueError)],
)
def test_a_generator_that_cannot_be_is_refused(changes: dict[str, object], error: type[Exception]):
    generator = DPPO.create(untrained(), NO_KEYPOINTS, CONFIG, jax.random.key(0)).explorer()
    with pytest.raises(error):
        dataclasses.replace(generator, **changes)
