"""The agent as a whole: it learns what it should, and its parts do what the paper says."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from otpr.data.chunks import Transitions, take
from otpr.data.replay import Replay
from otpr.policies.normalization import Normalizer

from otpr.agents.otpr.agent import OTPR, PRESETS, OTPRConfig, TransportProblem, partners, resampled
from otpr.agents.otpr.batches import draw_problem
from otpr.data.experience import Experience
from otpr.data.mixture import Mixture
from otpr.diffusion import NoiseSchedule, denoising_losses
from otpr.networks.mlp import NoiseNetwork
from otpr.policies.generators import Diffusion
from otpr.policies.policy import Policy
from otpr.training.learning import follow, update_block
from tiny import batch_keys

MODE = 0.5
CONFIG = OTPRConfig(
    critic_width=32,
    potentials_width=32,
    batch_size=64,
    learning_rate=3e-3,
    policy_learning_rate=1e-3,
    target_rate=0.05,
    ema_rate=0.02,
    demonstration_share=0.25,
    pairs=512,
    ot_block=64,
    ot_batch=64,
    ot_blocks=12,
    potentials_steps=150,
    candidates=8,
)


def one_step(observation, action, reward) -> Transitions:
    """Episodes of a single step that ends them: a contextual bandit."""
    n = len(reward)
    return Transitions(
        observation=np.asarray(observation, np.float32).reshape(n, 1),
        chunk=np.asarray(action, np.float32).reshape(n, 1),
        reward=np.asarray(reward, np.float32),
        discount=np.zeros(n, np.float32),
        next_observation=np.zeros((n, 1), np.float32),
        return_to_go=np.asarray(reward, np.float32),
    )


def reward_of(observation: np.ndarray, action: np.ndarray) -> np.ndarray:
    """The best mode is the one on the observation's side."""
    return (observation * action > 0).astype(np.float32)


@pytest.fixture(scope="module")
def demonstrations() -> Transitions:
    """Half of the experts go to one mode, half to the other, whatever they observe."""
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, 400)
    action = np.where(np.arange(400) % 2, MODE, -MODE) + 0.05 * rng.normal(size=400)
    return Transitions(*map(jnp.asarray, one_step(observation, action, reward_of(observation, action))))


@pytest.fixture(scope="module")
def base(demonstrations: Transitions) -> Policy:
    """Imitation of the demonstrations."""
    schedule = NoiseSchedule.cosine(10)
    network = NoiseNetwork(1, 1, width=64, depth=2, key=jax.random.key(0))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def train(arrays, key):
        def step(carry, key):
            arrays, state = carry
            batch = take(demonstrations, key, 128)

            def loss(arrays):
                network = eqx.combine(arrays, static)
                return jnp.mean(denoising_losses(network, schedule, batch.observation, batch.chunk, key))

            updates, state = optimizer.update(jax.grad(loss)(arrays), state)
            return (optax.apply_updates(arrays, updates), state), None

        (arrays, _), _ = jax.lax.scan(step, (arrays, optimizer.init(arrays)), jax.random.split(key, 1500))
        return arrays

    arrays, static = eqx.partition(network, eqx.is_array)
    network = eqx.combine(train(arrays, jax.random.key(1)), static)
    normalizer = Normalizer(jnp.zeros(1), jnp.ones(1))
    return Policy(Diffusion(network, schedule), normalizer, None, chunk_length=1, action_dim=1, candidates=1)


def sample(policy: Policy, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations, and one action of the policy for each."""
    observations = np.random.default_rng(seed).uniform(-1, 1, (n, 1)).astype(np.float32)
    chunks, _ = policy.act_batch(observations, jax.random.split(jax.random.key(seed), n))
    return observations[:, 0], np.asarray(chunks)[:, 0, 0]


def good_share(policy: Policy) -> float:
    """Share of 512 actions that lie within the best mode, not merely on its side."""
    observation, action = sample(policy, 512, seed=99)
    return float(np.mean(np.abs(action - MODE * np.sign(observation)) < 0.25))


def successful(data: Transitions) -> Transitions:
    rows = np.flatnonzero(np.asarray(data.reward) > 0)
    return Transitions(*(np.asarray(field)[rows] for field in data))


def fine_tune(base: Policy, demonstrations: Transitions, config: OTPRConfig) -> OTPR:
    agent = OTPR.create(base, demonstrations, config, jax.random.key(3))
    experience = Experience(
        Replay.create(1024, 1, 1),
        Replay.create(1024, 1, 1).add(successful(demonstrations)),
        Mixture.single(demonstrations),
        demonstrations,
    )
    for i in range(8):
        observation, action = sample(agent.deployed(), 64, seed=i)
        data = one_step(observation, action, reward_of(observation, action))
        experience = Experience(
            experience.replay.add(data),
            experience.successes.add(successful(data)),
            Mixture.single(demonstrations),
            demonstrations,
        )
        agent, _ = update_block(agent, experience, batch_keys(100), i > 0)
        agent, _ = follow(agent, experience)
    return agent


@pytest.mark.parametrize("measure", ["successes", "replay"])
def test_otpr_moves_the_mass_to_the_best_mode(measure, base, demonstrations):
    before = good_share(base)
    assert 0.4 < before < 0.6
    tuned = fine_tune(base, demonstrations, dataclasses.replace(CONFIG, target_measure=measure))
    assert good_share(tuned.deployed()) > 0.9
    # the score network itself, one sample; a quarter of its batch is demonstrations of both modes
    assert good_share(tuned.policy) > before + 0.2


def test_imitation_alone_does_not(base, demonstrations):
    imitator = dataclasses.replace(CONFIG, pairing="imitation", target_measure="replay", candidates=1)
    imitated = fine_tune(base, demonstrations, imitator)
    assert abs(good_share(imitated.policy) - good_share(base)) < 0.1


@pytest.fixture(scope="module")
def experience(demonstrations: Transitions) -> Experience:
    rng = np.random.default_rng(5)
    observation, action = rng.uniform(-1, 1, 200), rng.uniform(-1, 1, 200)
    data = one_step(observation, action, reward_of(observation, action))
    empty = Replay.create(512, 1, 1)
    return Experience(
        empty.add(data),
        Replay.create(512, 1, 1).add(successful(data)),
        Mixture.single(demonstrations),
        demonstrations,
    )


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_learns_finite_numbers_and_changes_the_policy(preset, base, demonstrations, experience):
    fields = ("critic_width", "potentials_width", "batch_size", "pairs")
    small = {field: getattr(CONFIG, field) for field in fields}
    small |= {"ot_block": 32, "ot_batch": 16, "potentials_steps": 5, "ot_blocks": 1, "keypoints": 8}
    agent = OTPR.create(
        base, demonstrations, dataclasses.replace(PRESETS[preset], **small), jax.random.key(0)
    )
    agent, potentials_metrics = follow(agent, experience)
    tuned, metrics = update_block(agent, experience, batch_keys(3), True)
    assert all(np.isfinite(value).all() for value in {**potentials_metrics, **metrics}.values())
    before, after = (jax.tree.leaves(eqx.filter(a.policy.generator, eqx.is_array)) for a in (agent, tuned))
    assert any((x != y).any() for x, y in zip(before, after, strict=True))
    # warm potentials go on, cold ones are made anew: only then do two rounds without a step differ
    begun = agent._begin_round(demonstrations)
    same = jax.tree.map(
        lambda x, y: bool((x == y).all()),
        eqx.filter(begun.potentials, eqx.is_array),
        eqx.filter(agent.potentials, eqx.is_array),
    )
    assert all(jax.tree.leaves(same)) == PRESETS[preset].warm_start


def test_a_problem_masks_its_keypoints(base, demonstrations, experience):
    config = dataclasses.replace(CONFIG, keypoint_share=0.25)
    agent = OTPR.create(base, demonstrations, config, jax.random.key(0))
    problem = draw_problem(experience, agent, jax.random.key(1), 64)
    mask = np.asarray(problem.mask)
    keypoint_rows = np.flatnonzero(mask.sum(axis=1) == 1)
    assert len(keypoint_rows) == 16
    expert = {
        (round(float(s), 5), round(float(a), 5))
        for s, a in zip(demonstrations.observation[:, 0], demonstrations.chunk[:, 0], strict=True)
    }
    for row in keypoint_rows:
        column = int(np.flatnonzero(mask[row])[0])
        assert mask[:, column].sum() == 1
        # what belongs together in the mask belonged together in a demonstration
        pair = (round(float(problem.states[row, 0]), 5), round(float(problem.actions[column, 0]), 5))
        assert pair in expert
    free = np.setdiff1d(np.arange(64), keypoint_rows)
    assert mask[free].sum(axis=1).tolist() == [48] * 48
    unmasked = draw_problem(
        experience, OTPR.create(base, demonstrations, CONFIG, jax.random.key(0)), jax.random.key(1), 64
    )
    assert unmasked.mask is None


def test_the_product_measure_draws_partners_by_compatibility_and_skips_states_without_one():
    states, actions = jnp.arange(3.0)[:, None], jnp.asarray([[10.0], [20.0], [30.0]])
    H = jnp.asarray([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    problem = TransportProblem(states, actions, None)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: partners(problem, H, key))(keys)
    assert (np.asarray(drawn.weights) == [1, 0, 1]).all()
    chunks = np.asarray(drawn.chunks[:, :, 0])
    assert (chunks[:, 2] == 10).all()
    assert not (chunks[:, 0] == 10).any()
    # three quarters, within four standard deviations of a binomial
    assert abs(np.mean(chunks[:, 0] == 30) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)


def test_occurring_pairs_are_drawn_by_compatibility_and_stay_pairs():
    n = 4000
    states = jnp.arange(float(n))[:, None]
    H = jnp.where(jnp.arange(n) % 4 == 0, 3.0, jnp.where(jnp.arange(n) % 4 == 1, 1.0, 0.0))
    drawn = resampled(states, -states, H, jax.random.key(0))
    rows = np.asarray(drawn.states[:, 0]).astype(int)
    assert (np.asarray(drawn.chunks[:, 0]) == -rows).all()
    assert (np.asarray(drawn.weights) == 1).all()
    assert set(rows % 4) == {0, 1}
    assert abs(np.mean(rows % 4 == 0) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)
    assert drawn.support == pytest.approx(0.5)
    assert drawn.effective_share == pytest.approx((3 + 1) ** 2 / (9 + 1) / 4)


def test_top_q_keypoints_are_the_best_of_several_draws(base, demonstrations, experience):
    def mean_q_of_keypoints(strategy):
        config = dataclasses.replace(
            CONFIG, potentials_method="ascent", keypoint_share=0.5, keypoint_strategy=strategy
        )
        agent = OTPR.create(base, demonstrations, config, jax.random.key(0))
        problem = draw_problem(experience, agent, jax.random.key(1), 128)
        rows, columns = np.nonzero(np.asarray(problem.mask & (problem.mask.sum(1, keepdims=True) == 1)))
        assert len(rows) == 64
        return float(agent.target_critic.minimum(problem.states[rows], problem.actions[columns]).mean())

    critic = OTPR.create(base, demonstrations, CONFIG, jax.random.key(0)).target_critic
    spread = float(critic.minimum(base.normalizer(demonstrations.observation), demonstrations.chunk).std())
    assert mean_q_of_keypoints("top-q") > mean_q_of_keypoints("all") + 0.5 * spread


def test_the_critic_learns_what_was_achieved_and_bootstraps_time_outs_only(base, demonstrations):
    """Two states in a row, the second pays. Ending before it is worth 0, a time-out before it V(second)."""
    n = 64
    config = dataclasses.replace(
        CONFIG, return_bound=False, expectile=0.5, demonstration_share=0.5, target_rate=0.2
    )
    first, second = np.full((n, 1), -0.5), np.full((n, 1), 0.5)

    def transitions(observation, reward, discount, following):
        return Transitions(
            observation=observation.astype(np.float32),
            chunk=np.zeros((n, 1), np.float32),
            reward=np.full(n, reward, np.float32),
            discount=np.full(n, discount, np.float32),
            next_observation=following.astype(np.float32),
            return_to_go=np.full(n, reward, np.float32),
        )

    pays = transitions(second, 1.0, 0.0, second)

    def value_of_first(discount, bound):
        settings = dataclasses.replace(config, return_bound=bound)
        agent = OTPR.create(base, demonstrations, settings, jax.random.key(0))
        waits = transitions(first, 0.0, discount, second)
        if bound:
            waits = waits._replace(return_to_go=np.full(n, 0.7, np.float32))
        buffers = Replay.create(n, 1, 1)
        expert = Transitions(*map(jnp.asarray, pays))
        data = Experience(
            buffers.add(waits), Replay.create(n, 1, 1).add(waits), Mixture.single(expert), expert
        )
        agent, _ = update_block(agent, data, batch_keys(1000), False)
        return float(agent.critic.minimum(jnp.full((1, 1), -0.5), jnp.zeros((1, 1)))[0])

    assert value_of_first(0.9, bound=False) == pytest.approx(0.9, abs=0.05)  # timed out: gamma V(s')
    assert value_of_first(0.0, bound=False) == pytest.approx(0.0, abs=0.05)  # terminated
    assert value_of_first(0.0, bound=True) == pytest.approx(0.7, abs=0.05)  # but 0.7 was achieved from there


def test_a_batch_without_compatibility_is_imitated_and_the_metric_says_so(base, demonstrations, experience):
    agent = OTPR.create(base, demonstrations, CONFIG, jax.random.key(0))
    tuned, _ = follow(agent, experience)
    # potentials so low that no pair is compatible
    barren = eqx.tree_at(
        lambda a: a.potentials.state_network.layers[-1].bias, tuned, replace_fn=lambda b: b - 1e3
    )
    for each, expected in ((agent, 0.0), (barren, 0.0)):
        _, metrics = update_block(each, experience, batch_keys(1), True)
        assert metrics["policy/support"] == expected
        assert metrics["policy/effective_share"] == pytest.approx(1.0)
    _, metrics = update_block(tuned, experience, batch_keys(1), True)
    assert 0 < metrics["policy/support"] <= 1
