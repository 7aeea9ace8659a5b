"""DPPO: its data, its update against the formulas written out, and that it learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import small
from scipy import stats

from otpr.agents.dppo.agent import DPPO, Draws, _replay
from otpr.agents.dppo.config import DPPOConfig
from otpr.agents.dppo.decisions import Decisions, advantages, decisions_of
from otpr.agents.dppo.tuned_diffusion import TunedDiffusion
from otpr.agents.parts.agent import Round
from otpr.data.episodes import Episode
from otpr.data.experience import Collected
from otpr.diffusion import NoiseSchedule, sample
from otpr.errors import OtprError
from otpr.policies.acting import decision_keys
from otpr.policies.denoising import Diffusion
from otpr.policies.policy import Policy
from tiny import arrays, assert_same_arrays, policy

ACTION_SEED = 3
CONFIG = DPPOConfig(
    batch_size=64, decisions=256, value_iterations=1, critic_width=32, policy_learning_rate=1e-3
)


def untrained(*, levels: int = 6, seed: int = 0) -> Policy:
    """Its states are of two observations; of three actions planned it executes two."""
    base = policy(observation_dim=3, action_dim=2, history=2, horizon=3, execute=2, seed=seed)
    return base.with_generator(Diffusion(base.diffusion.network, NoiseSchedule.cosine(levels)))


def created(config: DPPOConfig = CONFIG, base: Policy | None = None) -> DPPO:
    return small.created(config, base=base or untrained())


def with_network(agent: DPPO, network: Any) -> DPPO:
    return eqx.tree_at(lambda a: a.trained.model, agent, network)


def collected(episodes: list[Episode]) -> list[Collected]:
    return [Collected(each, small.features(each)) for each in episodes]


# --------------------------------------------------------------------------------------- decisions


@pytest.mark.parametrize(("history", "execute"), [(1, 3), (2, 3), (3, 1)])
def test_decisions_of_an_episode_are_its_chunks(history: int, execute: int):
    episodes = [small.episode(7, 5), small.episode(6, 8, terminated=False)]
    spec = dataclasses.replace(small.BASE.spec, history=history, execute=execute)
    decisions = decisions_of(collected(episodes), spec, 0.9)
    places = [(each, t) for each in episodes for t in range(0, len(each), execute)]
    walked = [small.walked(each, t, spec, 0.9) for each, t in places]
    np.testing.assert_array_equal(decisions.state, [each.state for each in walked])
    np.testing.assert_array_equal(decisions.next_state, [each.next_state for each in walked])
    np.testing.assert_allclose(decisions.reward, [each.reward for each in walked], rtol=1e-6)
    np.testing.assert_allclose(decisions.discount, [each.discount for each in walked], rtol=1e-6)
    np.testing.assert_array_equal(decisions.last, [t + execute >= len(each) for each, t in places])
    np.testing.assert_array_equal(decisions.seed, [each.seed for each, _ in places])
    np.testing.assert_array_equal(decisions.number, [t // execute for _, t in places])


def test_advantages_are_the_weighted_sum_of_errors_to_the_episode_end():
    rng = np.random.default_rng(1)
    lengths = ((9, True), (8, False), (2, True), (5, False))
    episodes = [small.episode(n, n, terminated=terminated) for n, terminated in lengths]
    decisions = decisions_of(collected(episodes), small.BASE.spec, 0.9)
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
    """Decisions of the exploring policy at random observations, and what it executes."""
    rng = np.random.default_rng(seed)
    observations = {"state": rng.normal(size=(n, 2, 3)).astype(np.float32)}
    seeds, number = rng.integers(0, 2**31, n).astype(np.uint32), np.uint32(7)
    chunks, _ = agent.exploring().act_batch(observations, decision_keys(ACTION_SEED, seeds, number))
    states = np.asarray(jax.vmap(agent.base.state)(observations))
    decisions = Decisions.zeros(n, 6)._replace(
        state=states, next_state=states[::-1], seed=seeds, number=np.full(n, number, np.uint32)
    )
    return decisions, np.asarray(chunks)


@pytest.mark.parametrize("tuned_steps", [3, 10])
def test_draws_done_again_are_those_that_acted(tuned_steps: int):
    agent = created(dataclasses.replace(CONFIG, tuned_steps=tuned_steps))
    decisions, chunks = acted(agent, 40)
    chains = _replay(agent, decisions, jnp.asarray(ACTION_SEED))[0]
    assert chains.shape == (40, min(tuned_steps, 6) + 1, 3, 2)
    np.testing.assert_allclose(np.clip(chains[:, -1, :2], -1, 1), chunks, atol=1e-5)
    assert np.abs(chains[:, -1]).max() > 1  # the chain keeps what clipping takes away
    # another key leads elsewhere
    assert np.abs(_replay(agent, decisions, jnp.asarray(4))[0][:, -1, :2] - chunks).max() > 0.1


def reference_log_densities(agent: DPPO, network, states, chains) -> np.ndarray:
    """Entry by entry, by Ho et al.'s eq. 6 and 7 and SciPy's normal density."""
    schedule = agent.base.diffusion.schedule
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
    agent = created(config)
    decisions, _ = acted(agent, 5)
    chains, given, *_ = _replay(agent, decisions, jnp.asarray(ACTION_SEED))
    expected = reference_log_densities(agent, agent.network, jnp.asarray(decisions.state), chains)
    np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)
    # entropy of Gaussians of at least this deviation: the draws are its own
    assert np.mean(given) < -np.log(config.least_std * np.sqrt(2 * np.pi))


def test_gradient_step_is_that_of_the_losses_written_out():
    """Finite differences of a surrogate in NumPy, along Adam's first step: its sign for every weight."""
    config = dataclasses.replace(
        CONFIG, tuned_steps=3, denoising_discount=0.5, clip=0.03, first_clip=0.01, clip_rate=2.0
    )
    agent = created(config, untrained(levels=5))
    decisions, _ = acted(agent, 8)
    states = jnp.asarray(decisions.state)
    chains, old, *_ = _replay(agent, decisions, jnp.asarray(ACTION_SEED))
    rng = np.random.default_rng(2)
    estimates, returns = rng.normal(size=(2, 8)).astype(np.float32)
    # a policy that has moved since, so that some ratios are clipped and some are not
    moved = jax.tree.map(
        lambda x: x + 0.01 * jax.random.normal(jax.random.key(9), x.shape) if eqx.is_array(x) else x,
        agent.network,
    )
    agent = with_network(agent, moved)
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

    expected, _ = reference.adam_step(moved, surrogate, config.policy_learning_rate)
    reference.assert_close(after.network, expected)

    def value_loss(value):
        return jnp.mean((reference.mlp(value, states, jax.nn.relu)[:, 0] - returns) ** 2)

    value, loss = reference.adam_step(agent.value, value_loss, config.learning_rate)
    assert metrics["critic/loss"] == pytest.approx(loss, rel=1e-5)
    reference.assert_close(after.value, value)


# --------------------------------------------------------------------------------------- networks


def test_the_fine_tuned_network_takes_the_last_steps_and_no_other():
    new, old = (untrained(seed=seed).diffusion for seed in (1, 0))
    by_four = dataclasses.replace(new, sampler="ddim", sampler_steps=4)
    generator = TunedDiffusion(by_four, old.network, 2, 0.0)
    state, key = jnp.asarray([0.1, -0.4, 0.7, 0.2, 0.0, -1.0]), jax.random.key(2)

    def predict(plans, k):  # levels 5, 3, 2, 0
        network = new.network if int(k) <= 2 else old.network
        return jax.vmap(lambda plan: network(state, plan, k))(plans)

    with jax.disable_jit():
        expected = sample(predict, old.schedule, (3, 3, 2), key, method="ddim", steps=4)
    np.testing.assert_allclose(generator.propose(state, key, 3), expected, atol=1e-5)


@pytest.mark.parametrize("tuned_steps", [2, 6])
def test_deployed_policy_saved_and_loaded_acts_bit_for_bit(tuned_steps: int, tmp_path: Path):
    agent = created(dataclasses.replace(CONFIG, tuned_steps=tuned_steps))
    deployed = with_network(agent, untrained(seed=1).diffusion.network).deployed()
    assert isinstance(deployed.generator, Diffusion) == (tuned_steps == 6)
    for name, each in (("deployed", deployed), ("exploring", agent.exploring())):
        small.assert_comes_back_from_disk(each, tmp_path / name)
    observation = np.asarray([[0.3, 0.1, -0.2], [0.2, 0.0, 1.0]], np.float32)
    assert np.abs(deployed.act(observation, 0) - agent.deployed().act(observation, 0)).max() > 1e-2


# --------------------------------------------------------------------------------------- rounds

BANDIT = dataclasses.replace(
    CONFIG, batch_size=128, decisions=512, clip=0.1, first_clip=0.05, learning_rate=3e-3
)


def bandit_round(policy: Policy, n: int, seed: int) -> tuple[Round, float]:
    """Episodes of one step, which pays on the observation's side; the share within the best mode."""
    rng = np.random.default_rng(seed)
    observation = rng.uniform(-1, 1, n).astype(np.float32)
    seeds = rng.integers(0, 2**31, n).astype(np.uint32)
    keys = decision_keys(ACTION_SEED, seeds, np.uint32(0))
    action = np.asarray(policy.act_batch({"state": observation[:, None, None]}, keys)[0])[:, 0, 0]
    episodes = [
        dataclasses.replace(each, seed=int(seed))
        for each, seed in zip(bandit.one_step(observation, action), seeds, strict=True)
    ]
    data = Round([Collected(each, bandit.features(each.observations)) for each in episodes], ACTION_SEED)
    return data, float(np.mean(np.abs(action - bandit.MODE * np.sign(observation)) < 0.25))


@pytest.mark.long
def test_dppo_moves_the_mass_to_the_best_mode():
    assert 0.4 < bandit_round(bandit.base(), 1000, seed=99)[1] < 0.6
    agent = bandit.new_agent(BANDIT, seed=0)
    for i in range(12):
        data, _ = bandit_round(agent.exploring(), 512, seed=i)
        agent, updates, _ = agent.learn_round(data)
        assert updates == 40
    assert bandit_round(agent.deployed(), 1000, seed=99)[1] > 0.75


@pytest.mark.long
def test_v_learns_first_and_then_the_policy_too():
    agent = bandit.new_agent(BANDIT, seed=0)
    for i in range(2):
        before = agent
        agent, _, metrics = agent.learn_round(bandit_round(agent.exploring(), 512, i)[0])
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


@pytest.mark.long
def test_rounds_that_are_not_enough_are_kept_until_they_are():
    agent = bandit.new_agent(BANDIT, seed=0)
    data, _ = bandit_round(agent.exploring(), 600, seed=0)
    episodes = data.collected
    at_once, updates, _ = agent.learn_round(data)
    assert updates == 40
    for part in (slice(0, 200), slice(200, 511)):
        agent, updates, metrics = agent.learn_round(Round(episodes[part], ACTION_SEED))
        assert (updates, metrics) == (0, {})
    # every episode of the next round broke
    agent, updates, _ = agent.learn_round(Round([], ACTION_SEED))
    assert updates == 0
    agent, updates, metrics = agent.learn_round(Round(episodes[511:], ACTION_SEED))
    assert (updates, int(metrics["policy/decisions"]), int(agent.collected_size)) == (40, 600, 0)
    learnt = [
        {name: array for name, array in arrays(each).items() if not name.startswith(".collected.")}
        for each in (agent, at_once)
    ]
    assert_same_arrays(*learnt)


def test_iteration_ends_where_the_policy_has_moved_enough():
    config = dataclasses.replace(BANDIT, target_kl=1e-9, policy_learning_rate=1e-2)
    agent = bandit.new_agent(config, seed=0)
    for expected in (40, 2):  # V alone has no limit; the first step's policy is the one that acted
        data, _ = bandit_round(agent.exploring(), 512, seed=0)
        agent, updates, _ = agent.learn_round(data)
        assert updates == expected


def test_the_policy_that_acted_is_where_an_iteration_starts_with_states_of_two_observations():
    """Its densities of what it did are the same when done again from the episodes: no divergence yet."""
    config = dataclasses.replace(
        CONFIG, batch_size=12, decisions=12, epochs=1, value_iterations=0, tuned_steps=3, first_clip=1e-4
    )
    agent, rng = created(config), np.random.default_rng(3)
    episodes = []
    for steps, seed in ((9, 11), (8, 12), (6, 13)):  # five, four and three decisions
        observations = rng.normal(size=(steps + 1, 3)).astype(np.float32)
        actions = []
        for number in range(-(-steps // 2)):
            window = [max(2 * number - back, 0) for back in (1, 0)]
            key = decision_keys(ACTION_SEED, np.asarray([seed], np.uint32), np.uint32(number))
            actions += list(agent.exploring().act_batch({"state": observations[window][None]}, key)[0][0])
        walked = small.episode(steps, seed)
        acted = np.asarray(actions[:steps], np.float32)
        episodes.append(dataclasses.replace(walked, observations={"state": observations}, actions=acted))
    # the chain that is found again led to what was executed
    decisions = decisions_of(collected(episodes), agent.base.spec, config.gamma)
    chains = np.asarray(_replay(agent, decisions, jnp.asarray(ACTION_SEED))[0])
    at = 0
    for each in episodes:
        for t in range(0, len(each), 2):
            found = np.clip(chains[at, -1, : len(each) - t][:2], -1, 1)
            np.testing.assert_allclose(found, each.actions[t : t + 2], atol=1e-5)
            at += 1
    assert at == 12
    after, updates, metrics = agent.learn_round(Round(collected(episodes), ACTION_SEED))
    assert updates == 1
    assert metrics["policy/kl"] == pytest.approx(0, abs=1e-5)
    assert metrics["policy/clipped_share"] == 0
    assert not reference.same(after.network, agent.network)


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
    [({"tuned_steps": 7}, ValueError), ({"sampler": "dpmm"}, OtprError), ({"sampler_steps": 9}, OtprError)],
)
def test_a_generator_that_cannot_be_is_refused(changes: dict[str, object], error: type[Exception]):
    generator = created().explorer()
    if "tuned_steps" in changes:
        with pytest.raises(error):
            dataclasses.replace(generator, **changes)
    else:
        with pytest.raises(error):
            dataclasses.replace(generator, tuned=dataclasses.replace(generator.tuned, **changes))
