"""The agent as a whole: it learns what it should, and its parts do what the paper says."""

from __future__ import annotations

import dataclasses
from typing import Any

import bandit
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import small

from otpr.agents.otpr.agent import OTPR, PRESETS, partners, resampled
from otpr.agents.otpr.batches import DrawnPairs, OTPRBatch
from otpr.agents.otpr.config import OTPRConfig
from otpr.data.experience import Experience
from otpr.data.store import Transitions
from otpr.errors import OtprError
from otpr.scanning import scan_state
from otpr.training.learning import update_block
from tiny import batch_keys

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
UPDATE = eqx.filter_jit(OTPR.update)
BEGIN = eqx.filter_jit(OTPR.begin_block)


# ------------------------------------------------------------------------------------------- the bandit


@pytest.mark.long
@pytest.mark.parametrize("measure", ["successes", "replay"])
def test_otpr_moves_the_mass_to_the_best_mode(measure):
    before = bandit.good_share(bandit.base())
    assert 0.4 < before < 0.6
    tuned = bandit.learn(dataclasses.replace(CONFIG, target_measure=measure))
    assert bandit.good_share(tuned.deployed()) > 0.9
    # the score network itself, one sample; a quarter of its batch is demonstrations of both modes
    assert bandit.good_share(tuned.actor.policy) > before + 0.2


@pytest.mark.long
def test_imitation_alone_does_not():
    imitator = dataclasses.replace(CONFIG, pairing="imitation", target_measure="replay", candidates=1)
    imitated = bandit.learn(imitator)
    assert abs(bandit.good_share(imitated.actor.policy) - bandit.good_share(bandit.base())) < 0.1


@pytest.fixture(scope="module")
def experience() -> Experience:
    rng = np.random.default_rng(5)
    return bandit.added(bandit.experience(), rng.uniform(-1, 1, 200), rng.uniform(-1, 1, 200))


@pytest.mark.long
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_learns_finite_numbers_and_changes_the_policy(preset, experience):
    fields = ("critic_width", "potentials_width", "batch_size", "pairs")
    sizes = {field: getattr(CONFIG, field) for field in fields}
    sizes |= {"ot_block": 32, "ot_batch": 16, "potentials_steps": 5, "ot_blocks": 1, "keypoints": 8}
    agent = bandit.new_agent(dataclasses.replace(PRESETS[preset], **sizes))
    agent, potentials_metrics = agent.end_round(experience)
    tuned, metrics = update_block(agent, experience, batch_keys(3), True)
    assert all(np.isfinite(value).all() for value in {**potentials_metrics, **metrics}.values())
    assert not reference.same(agent.actor.policy.generator, tuned.actor.policy.generator)


@pytest.mark.long
@pytest.mark.parametrize("warm", [True, False])
def test_warm_potentials_go_on_and_cold_ones_are_made_anew(warm, experience):
    """With steps that move nothing, whatever differs after a round was made anew."""
    config = dataclasses.replace(
        CONFIG, warm_start=warm, potentials_learning_rate=1e-30, ot_blocks=1, potentials_steps=5
    )
    agent = bandit.new_agent(config)
    after, metrics = agent.end_round(experience)
    assert metrics["otpr/passes"] == 1  # it did take steps
    assert reference.same(after.transport.potentials, agent.transport.potentials) == warm
    assert after.transport.trained
    assert not agent.transport.trained


def test_the_scale_is_the_spread_of_q_at_once_and_then_follows_it_slowly(experience):
    agent = bandit.new_agent(CONFIG)
    first = agent._scaled(experience.sample_replay(jax.random.key(0), 4000)).scale
    rows = np.asarray(experience.replay.rows)[: int(experience.replay.size)]
    data = experience.store.transitions(rows)
    spread = float(np.std(reference.q(agent.critics.target, data.state, data.chunk).min(0)))
    assert first == pytest.approx(spread, rel=0.1)
    trained = eqx.tree_at(lambda a: a.transport.trained, agent, jnp.asarray(True))
    followed = trained._scaled(experience.sample_replay(jax.random.key(0), 4000)).scale
    assert followed == pytest.approx(1.0 + 0.2 * (float(first) - 1.0), rel=1e-5)


# ------------------------------------------------------------------------------ pairs by compatibility


def test_the_product_measure_draws_partners_by_compatibility_and_skips_states_without_one():
    states, plans = jnp.arange(3.0)[:, None], jnp.asarray([10.0, 20.0, 30.0])[:, None, None]
    H = jnp.asarray([[0.0, 1.0, 3.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: partners(jnp.arange(3), states, plans, H, key))(keys)
    assert (np.asarray(drawn.weights) == [1, 0, 1]).all()
    chosen = np.asarray(drawn.plans[:, :, 0, 0])
    assert (chosen[:, 2] == 10).all()
    assert not (chosen[:, 0] == 10).any()
    # three quarters, within four standard deviations of a binomial
    assert abs(np.mean(chosen[:, 0] == 30) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 4000)


def test_occurring_pairs_are_drawn_by_compatibility_and_stay_pairs():
    n = 4000
    states = jnp.arange(float(n))[:, None]
    H = jnp.where(jnp.arange(n) % 4 == 0, 3.0, jnp.where(jnp.arange(n) % 4 == 1, 1.0, 0.0))
    drawn = resampled(jnp.arange(n), states, -states[:, None], H, jax.random.key(0))
    rows = np.asarray(drawn.rows)
    assert (np.asarray(drawn.states[:, 0]) == rows).all()
    assert (np.asarray(drawn.plans[:, 0, 0]) == -rows).all()
    assert (np.asarray(drawn.weights) == 1).all()
    assert set(rows % 4) == {0, 1}
    assert abs(np.mean(rows % 4 == 0) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / n)
    assert drawn.support == pytest.approx(0.5)
    assert drawn.effective_share == pytest.approx((3 + 1) ** 2 / (9 + 1) / 4)


SMALL = dataclasses.replace(
    CONFIG, batch_size=32, pairs=64, ot_block=32, critic_width=16, potentials_width=16
)


def with_potentials(agent: OTPR, u: float) -> OTPR:
    """Potentials that count, with so much added to u."""
    return eqx.tree_at(
        lambda a: (
            a.transport.trained,
            a.transport.scale,
            a.transport.potentials.state_network.layers[-1].bias,
        ),
        agent,
        replace=(
            jnp.asarray(True),
            jnp.asarray(0.7, jnp.float32),
            agent.transport.potentials.state_network.layers[-1].bias + u,
        ),
    )


def plain_compatibility(agent: OTPR, pairs: list[Transitions]) -> np.ndarray:
    """(u + v - c)_+ / (2 epsilon) of each, c = (V - min Q) / scale."""
    s, a = (jnp.asarray([getattr(each, name) for each in pairs]) for name in ("state", "chunk"))
    value = reference.mlp(agent.critics.value, s, jax.nn.relu)[:, 0]
    cost = (value - reference.q(agent.critics.target, s, a).min(0)) / agent.transport.scale
    excess = agent.transport.potentials.u(s) + agent.transport.potentials.v(a) - cost
    return np.maximum(np.asarray(excess, np.float64), 0) / (2 * agent.config.epsilon)


@pytest.fixture(scope="module")
def seen() -> Experience:
    return small.experience()


def successes() -> list[Transitions]:
    """Every transition of an episode that succeeded, in order."""
    return [small.walked(e, t) for _, e, t in small.rows_of(small.EPISODES) if e.success]


def test_the_pairs_of_a_block_are_successes_drawn_by_compatibility(seen):
    agent = with_potentials(small.fresh(SMALL), u=0.0)
    _, draw_key, choice_key = jax.random.split(agent.key, 3)
    targets, n = successes(), SMALL.pairs
    drawn = np.asarray(jax.random.randint(draw_key, (n,), 0, len(targets)))
    H = plain_compatibility(agent, targets)[drawn]
    assert 0.1 < np.mean(H > 0) < 0.95
    chosen = jax.random.choice(choice_key, n, (n,), p=jnp.asarray(H / H.sum(), jnp.float32))
    pairs = BEGIN(agent, seen).pairs
    expected = [targets[drawn[i]] for i in np.asarray(chosen)]
    np.testing.assert_array_equal(pairs.states, [each.state for each in expected])
    np.testing.assert_array_equal(pairs.plans, [each.plan for each in expected])
    assert (np.asarray(pairs.weights) == 1).all()
    assert pairs.support == pytest.approx(np.mean(H > 0))
    assert pairs.effective_share == pytest.approx(H.sum() ** 2 / (H**2).sum() / n, rel=1e-3)


@pytest.mark.parametrize("trained", [True, False])
def test_where_every_compatibility_is_zero_pairs_are_taken_as_they_come(trained, seen):
    """Because the potentials are so low, or because there are none yet."""
    agent = small.fresh(SMALL)
    pairs = BEGIN(with_potentials(agent, u=-1e3) if trained else agent, seen).pairs
    assert pairs.support == 0
    assert (np.asarray(pairs.weights) == 1).all()
    assert pairs.effective_share == pytest.approx(1.0)
    known = {each.state.tobytes(): each.plan for each in successes()}
    for state, plan in zip(np.asarray(pairs.states), np.asarray(pairs.plans), strict=True):
        np.testing.assert_array_equal(plan, known[state.tobytes()])
    # none is preferred: most of those that succeeded are there
    assert len({state.tobytes() for state in np.asarray(pairs.states)}) > 0.7 * len(known)


@pytest.mark.long
def test_where_every_compatibility_is_zero_the_product_measure_leaves_the_demonstrations(seen):
    agent = with_potentials(small.fresh(dataclasses.replace(SMALL, pairing="product")), u=-1e3)
    begun = BEGIN(agent, seen)
    assert not np.asarray(begun.pairs.weights).any()
    assert begun.pairs.support == begun.pairs.effective_share == 0
    other = dataclasses.replace(begun, pairs=begun.pairs._replace(plans=-begun.pairs.plans))
    updates = [UPDATE(each, each.draw(seen, jax.random.key(0)))[0].actor for each in (begun, other)]
    assert reference.same(*updates)


def test_a_partner_of_the_product_measure_comes_with_its_whole_plan(seen):
    agent = with_potentials(small.fresh(dataclasses.replace(SMALL, pairing="product")), u=3.0)
    pairs = BEGIN(agent, seen).pairs
    plans = {each.plan.tobytes() for each in successes()}
    states = {small.walked(e, t).state.tobytes() for _, e, t in small.rows_of(small.EPISODES)}
    assert {plan.tobytes() for plan in np.asarray(pairs.plans)} <= plans
    assert {state.tobytes() for state in np.asarray(pairs.states)} <= states
    assert pairs.support > 0


# ----------------------------------------------------------------------------------------------- an update


def test_an_update_is_iql_and_score_matching_of_pairs_and_demonstrations(seen):
    agent = BEGIN(with_potentials(small.fresh(SMALL), u=0.0), seen)
    weights = jnp.asarray(np.random.default_rng(0).choice([0.0, 1.0], SMALL.pairs), jnp.float32)
    agent = dataclasses.replace(agent, pairs=agent.pairs._replace(weights=weights))
    batch = agent.draw(seen, jax.random.key(3))
    assert (len(batch.replay.reward), len(batch.demonstrations.reward)) == (24, 8)
    updated, metrics = UPDATE(agent, batch)
    _, rows_key, noise_key = jax.random.split(agent.key, 3)

    both = jax.tree.map(lambda *parts: np.concatenate(parts), batch.replay, batch.demonstrations)
    reference.assert_iql_step(agent.critics, updated.critics, metrics, both, SMALL)

    rows = np.asarray(jax.random.randint(rows_key, (24,), 0, SMALL.pairs))
    states = np.concatenate([np.asarray(agent.pairs.states)[rows], batch.demonstrations.state])
    plans = jnp.concatenate([agent.pairs.plans[rows], batch.demonstrations.plan])
    weight = np.append(np.asarray(weights)[rows], np.ones(8))
    errors = reference.noise_errors(agent.actor.policy, states, plans, noise_key)

    def policy_loss(network: Any) -> jax.Array:
        return jnp.mean(weight * errors(network))

    network, loss = reference.adam_step(agent.actor.network, policy_loss, SMALL.policy_learning_rate)
    reference.assert_close(updated.actor.network, network)
    assert metrics["policy/loss"] == pytest.approx(loss, rel=1e-4)
    before, after = (a.actor.policy.diffusion.network for a in (agent, updated))
    reference.assert_moved(before, updated.actor.network, after, SMALL.ema_rate)
    warmed, metrics = UPDATE(agent, batch, update_policy=False)
    assert reference.same(warmed.actor, agent.actor)
    assert "policy/loss" not in metrics


def test_the_critic_learns_what_was_achieved_and_bootstraps_time_outs_only():
    """Two states in a row, the second pays. Ending before it is worth 0, a time-out before it V(second)."""
    n, first, second = 32, -0.5, 0.5
    config = dataclasses.replace(CONFIG, expectile=0.5, target_rate=0.2)

    def repeated(state: float, reward: float, discount: float, achieved: float) -> Transitions:
        fields = ([state], [0.0], [[0.0]], reward, discount, [second], achieved)
        return Transitions(
            *(jnp.broadcast_to(jnp.asarray(f, jnp.float32), (n, *np.shape(f))) for f in fields)
        )

    pays = repeated(second, 1.0, 0.0, 1.0)
    none = DrawnPairs(jnp.zeros(0, jnp.int32), jnp.zeros((0, 1)), jnp.zeros((0, 1, 1)), jnp.zeros(0))

    @eqx.filter_jit
    def learnt(agent: OTPR, batch: OTPRBatch) -> OTPR:
        return scan_state(lambda agent, _: agent.update(batch, False), agent, length=1000)[0]

    def value_of_first(discount: float, bound: bool) -> float:
        agent = bandit.new_agent(dataclasses.replace(config, return_bound=bound))
        waits = repeated(first, 0.0, discount, 0.7 if bound else 0.0)
        critic = learnt(agent, OTPRBatch(waits, pays, none)).critics.q
        return float(critic.minimum(jnp.full((1, 1), first), jnp.zeros((1, 1)))[0])

    assert value_of_first(0.9, bound=False) == pytest.approx(0.9, abs=0.05)  # timed out: gamma V(s')
    assert value_of_first(0.0, bound=False) == pytest.approx(0.0, abs=0.05)  # terminated
    assert value_of_first(0.0, bound=True) == pytest.approx(0.7, abs=0.05)  # but 0.7 was achieved from there


@pytest.mark.long
def test_a_block_without_compatibility_is_imitated_and_the_metric_says_so(experience):
    agent = bandit.new_agent(CONFIG)
    tuned, _ = agent.end_round(experience)
    # potentials so low that no pair is compatible
    barren = eqx.tree_at(
        lambda a: a.transport.potentials.state_network.layers[-1].bias, tuned, replace_fn=lambda b: b - 1e3
    )
    for each in (agent, barren):
        _, metrics = update_block(each, experience, batch_keys(3), True)
        assert (metrics["otpr/support"] == 0).all()
        np.testing.assert_allclose(metrics["otpr/effective_share"], 1.0, rtol=1e-5)
    _, metrics = update_block(tuned, experience, batch_keys(3), True)
    assert (metrics["otpr/support"] > 0).all()
    assert (metrics["otpr/support"] <= 1).all()


# ------------------------------------------------------------------------------------------------ refusals


def test_without_a_demonstration_that_succeeded_there_is_nothing_to_transport_to():
    failed = small.demonstrated(small.BASE, [small.episode(5, 0, terminated=False)])
    with pytest.raises(OtprError, match=r"No demonstration succeeded.*target_measure=replay"):
        OTPR.create(small.BASE, failed, SMALL, jax.random.key(0))
    OTPR.create(small.BASE, failed, dataclasses.replace(SMALL, target_measure="replay"), jax.random.key(0))
