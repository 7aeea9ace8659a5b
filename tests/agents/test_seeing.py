"""An encoder that learns beside an algorithm: whose losses move it, and how far.

The gradients are compared with those of the algorithms' losses written out, as functions of the encoder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import small

from otpr.agents import agent_class, agent_config, algorithm_names
from otpr.agents.parts.actor_critic import sample_chunks
from otpr.agents.parts.agent import OffPolicyAgent
from otpr.agents.parts.seeing import EncoderConfig, Seeing, Seen, check_encoder, new_agent
from otpr.data.episodes import Episode
from otpr.data.experience import Experience
from otpr.data.frames import DecisionObservations
from otpr.diffusion import NoiseSchedule
from otpr.diffusion.flow import flow_losses
from otpr.errors import OtprError
from otpr.networks.mlp import NoiseMLP
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.policy import Policy
from otpr.policies.vision import VisionEncoder
from otpr.spec import Entry, Spec
from tiny import arrays, assert_same_arrays

SPEC = Spec(
    {"camera": Entry((32, 32, 3), "uint8", "image"), "state": Entry((2,), "float32", "vector")},
    (-1.0, -1.0),
    (1.0, 1.0),
    horizon=2,
    execute=2,
)
SMALL = {
    "batch_size": 16,
    "candidates": 2,
    "critic_depth": 1,
    "critic_width": 16,
    "keypoints": 4,
    "lookahead": 3,
    "ot_batch": 8,
    "ot_block": 16,
    "pairs": 32,
    "policy_depth": 1,
    "policy_width": 16,
    "potentials_width": 16,
    "target_candidates": 2,
    "width": 16,
}
LEARNERS = [name for name in algorithm_names() if issubclass(agent_class(name), OffPolicyAgent)]
PAD = 2


def config(algorithm: str) -> Any:
    default = agent_config(algorithm)
    known = {field.name for field in dataclasses.fields(default)}
    return dataclasses.replace(default, **{name: size for name, size in SMALL.items() if name in known})


@functools.cache
def base() -> Policy:
    vectors = VectorEncoder({"state": Normalizer(jnp.full(2, 0.1), jnp.full(2, 1.5))})
    sizes = {"camera": {"channels": 4, "depth": 1, "features": 3}}
    encoder = VisionEncoder.new(
        SPEC, vectors, network="small", shared=False, sizes=sizes, key=jax.random.key(2)
    )
    network = NoiseMLP(encoder.feature_dim, plan_shape(SPEC), width=16, depth=1, key=jax.random.key(3))
    return Policy(encoder, Diffusion(network, NoiseSchedule.cosine(4)), None, SPEC)


@functools.cache
def episodes() -> list[Episode]:
    """Noise, looked at before every decision; every other one succeeds."""
    found = []
    for seed, T in enumerate((8, 5, 6, 7)):
        rng = np.random.default_rng(seed)
        looked = np.array([*range(0, T, SPEC.execute), T], np.int32)
        seen = {
            "camera": rng.integers(0, 256, (len(looked), 32, 32, 3), dtype=np.uint8),
            "state": rng.normal(size=(T + 1, 2)).astype(np.float32),
        }
        rewards = np.zeros(T, np.float32)
        rewards[-1] = solved = seed % 2 == 0
        actions = rng.uniform(-1, 1, (T, 2)).astype(np.float32)
        found.append(Episode(seen, actions, rewards, solved, not solved, solved, seed, looked))
    return found


def experience(encoder: Any, settings: Any) -> Experience:
    features = functools.partial(encode, encoder)
    spec = settings.acting_spec(SPEC)
    return Experience.of([episodes()], (), features, spec=spec, gamma=0.9)


def seeing(algorithm: str, source: str, **settings: Any) -> tuple[Seeing, Seen]:
    """An agent about to learn, and a batch of its."""
    chosen = config(algorithm)
    data = experience(base().encoder, chosen)
    options = EncoderConfig(source, random_shift=PAD, **settings)  # pyright: ignore[reportArgumentType]
    agent: Any = new_agent(base(), data, chosen, options, jax.random.key(0))
    agent = begun(agent, data)
    batch, rows = drawn(agent, data, jax.random.key(1))
    frames = DecisionObservations(episodes(), SPEC)
    seen = agent.encoder.on_device(frames.of(np.asarray(rows)))
    return agent, Seen(batch, {name: jnp.asarray(array) for name, array in seen.items()})


@eqx.filter_jit
def begun(agent: Any, data: Experience) -> Any:
    return agent.begin_block(data)


@eqx.filter_jit
def drawn(agent: Any, data: Experience, key: Any) -> Any:
    batch = agent.draw(data, key)
    return batch, agent.states_at(batch)


UPDATE = eqx.filter_jit(Seeing.update)


def gradient_of(updated: Seeing) -> Any:
    """What Adam was given in its first step: its first moment has a tenth of it."""
    return jax.tree.map(lambda moment: moment / 0.1, updated.trained.state[0].mu)


def assert_gradient(agent: Seeing, batch: Seen, updated: Seeing, loss: Callable[[Any], jax.Array]) -> None:
    """The encoder's gradient is that of a loss of the batch's states."""
    _, see_key = jax.random.split(agent.key)

    def of_encoder(encoder: VisionEncoder) -> jax.Array:
        return loss(encoder.training_states(batch.observations, PAD, see_key))

    expected = eqx.filter_jit(eqx.filter_grad(of_encoder))(agent.trained.model)
    given = gradient_of(updated)
    size = max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(expected))
    assert size > 1e-5
    reference.assert_close(given, eqx.filter(expected, eqx.is_array), atol=1e-4 * size)


def expected_losses(agent: Seeing, batch: Seen, after: Seeing) -> dict[str, Callable[[Any], jax.Array]]:
    """The losses of an algorithm's critics and of its policy as functions of the states, by what learns.

    Whatever a loss is regressed on is a number: V's and Q's targets, weights, scores, ends of a flow; and Q's
    own states, where a policy climbs it.
    """
    inner, data, done = agent.agent, batch.batch, after.agent
    keys = jax.random.split(inner.key, 4)

    def q_error(states: Any, data: Any, target: Any) -> jax.Array:
        return jnp.mean((inner.critics.q(states, data.chunk) - jax.lax.stop_gradient(target)) ** 2)

    def bounded(data: Any, next_q: Any) -> jax.Array:
        return jnp.maximum(data.reward + data.discount * next_q, data.return_to_go)

    def iql(states: Any, data: Any) -> jax.Array:
        target_q = inner.critics.target.minimum(data.state, data.chunk)
        v = jax.vmap(inner.critics.value)(states)
        weight = jnp.abs(inner.config.expectile - (target_q < v))
        target = bounded(data, jax.vmap(done.critics.value)(data.next_state))
        return jnp.mean(weight * (target_q - v) ** 2) + q_error(states, data, target)

    def imitation(states: Any, plans: Any, key: Any) -> jax.Array:
        return jnp.mean(reference.noise_errors(inner.actor.policy, states, plans, key)(inner.actor.network))

    name = inner.config.algorithm
    if name == "idql":
        fresh = data._replace(state=states_of(agent, batch))
        return {
            "critics": lambda states: iql(states, fresh),
            "policy": lambda states: imitation(states, data.plan, jax.random.split(inner.key)[1]),
        }
    if name == "otpr":
        own, expert = data.replay, data.demonstrations
        n = len(own.row) + len(expert.row)
        both = jax.tree.map(lambda *parts: jnp.concatenate(parts), own, expert)
        both = both._replace(state=states_of(agent, batch)[:n])
        plans = jnp.concatenate([data.pairs.plan, expert.plan])
        noise_key = jax.random.split(inner.key, 3)[2]
        return {
            "critics": lambda states: iql(states[:n], both),
            "policy": lambda states: imitation(
                jnp.concatenate([states[n:], states[len(own.row) : n]]), plans, noise_key
            ),
        }
    if name in ("dql", "qsm"):
        next_key = jax.random.split(inner.key, 3)[1]
        next_chunks = sample_chunks(inner.actor.policy, data.next_state, next_key)
        target = bounded(data, inner.critics.target.minimum(data.next_state, next_chunks))
        return {"critics": lambda states: q_error(states, data, target)}
    if name == "fql":
        chunks = sample_chunks(inner.deployed(), data.next_state, keys[1])
        target = bounded(data, jnp.mean(inner.critics.target(data.next_state, chunks), axis=0))
        flow, one_step = inner.flow.model, inner.one_step.model
        noise = jax.random.normal(keys[3], (len(data.row), *plan_shape(SPEC)))
        kept = states_of(agent, batch)
        ends = jax.vmap(lambda s, z: flow.from_noise(s, z[None])[0])(kept, noise)

        def policy(states: Any) -> jax.Array:
            plans = jax.vmap(one_step.unclipped)(states, noise)
            q = inner.critics.q(kept, jnp.clip(plans[:, SPEC.executed], -1, 1).reshape(len(plans), -1))
            distillation = inner.config.alpha * jnp.mean((plans - ends) ** 2) - jnp.mean(q)
            return jnp.mean(flow_losses(flow.network, states, data.plan, keys[2])) + distillation

        return {"critics": lambda states: q_error(states, data, target), "policy": policy}
    assert name == "dawr"
    first = jax.tree.map(lambda field: field[:: inner.config.lookahead], data.data)
    returns = inner.lambda_returns(data)
    advantage = returns - jax.vmap(inner.value)(states_of(agent, batch))
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-6)
    weights = jnp.minimum(jnp.exp(inner.config.beta * advantage), inner.config.largest_weight)
    errors = functools.partial(reference.noise_errors, inner.actor.policy)
    key = jax.random.split(inner.key)[1]
    return {
        "critics": lambda states: jnp.mean((returns - jax.vmap(inner.value)(states)) ** 2),
        "policy": lambda states: jnp.mean(weights * errors(states, first.plan, key)(inner.actor.network)),
    }


def states_of(agent: Seeing, batch: Seen) -> Any:
    """Those that the step is taken at."""
    _, see_key = jax.random.split(agent.key)
    see = eqx.filter_jit(VisionEncoder.training_states)
    return see(agent.trained.model, batch.observations, PAD, see_key)


def slowly(*names: str) -> list[Any]:
    """These too, but not in every run of the tests: each is a program that takes seconds to compile."""
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.long
@pytest.mark.parametrize("algorithm", ["otpr", *slowly("idql", "dql", "qsm", "fql", "dawr")])
def test_the_gradient_is_that_of_the_losses_written_out(algorithm: str) -> None:
    agent, batch = seeing(algorithm, "critics")
    updated, _ = UPDATE(agent, batch)
    losses = expected_losses(agent, batch, updated)
    assert_gradient(agent, batch, updated, losses["critics"])
    if "policy" not in losses:
        return
    for source, loss in (
        ("policy", losses["policy"]),
        ("both", lambda states: losses["critics"](states) + losses["policy"](states)),
    ):
        agent = dataclasses.replace(
            agent,
            settings=dataclasses.replace(agent.settings, encoder=source),  # pyright: ignore[reportArgumentType]
        )
        assert_gradient(agent, batch, UPDATE(agent, batch)[0], loss)


@pytest.mark.parametrize("algorithm", ["dawr", *slowly("otpr")])
def test_what_an_algorithm_learns_beside_it_is_what_it_learns_from_such_states(algorithm: str) -> None:
    """The encoder's gradient changes nothing of the algorithm's own step."""
    agent, batch = seeing(algorithm, "both")
    updated, metrics = UPDATE(agent, batch)
    given = agent.agent.with_states(batch.batch, states_of(agent, batch))
    alone, alone_metrics = eqx.filter_jit(type(agent.agent).update)(agent.agent, given)
    reference.assert_close(updated.agent, alone, atol=1e-5)
    assert metrics.keys() == alone_metrics.keys() | {"encoder/slope"}
    for name, value in alone_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("algorithm", ["qc", *slowly(*(name for name in LEARNERS if name != "qc"))])
def test_every_algorithm_that_draws_batches_trains_an_encoder(algorithm: str) -> None:
    agent, batch = seeing(algorithm, "both", encoder_learning_rate=1e-2, encoder_ema_rate=0.25)
    updated, metrics = UPDATE(agent, batch)
    assert all(np.isfinite(value).all() for value in metrics.values())
    assert {*agent.agent.critic_losses, *agent.agent.policy_losses} <= metrics.keys()
    reference.assert_moved(agent.average, updated.trained.model, updated.average, 0.25)
    before, after = arrays(agent.trained.model), arrays(updated.trained.model)
    for name, array in before.items():
        assert (after[name] != array).any() != (".vectors" in name), name
    # what acts, and what the kept states are of, waits for the states to be encoded anew
    assert_same_arrays(arrays(updated.deployed().encoder), arrays(base().encoder))
    anew = updated.acting_anew()
    for policy in (anew.deployed(), anew.exploring()):
        assert_same_arrays(arrays(policy.encoder), arrays(updated.average))


@pytest.mark.parametrize("source", ["critics", *slowly("policy")])
def test_the_encoder_waits_while_the_critics_warm_up(source: str) -> None:
    agent, batch = seeing("idql", source)
    warmed, metrics = UPDATE(agent, batch, update_policy=False)
    assert_same_arrays(arrays(warmed.trained), arrays(agent.trained))
    assert_same_arrays(arrays(warmed.average), arrays(agent.average))
    assert not reference.same(warmed.agent.critics, agent.agent.critics)  # pyright: ignore
    assert metrics.keys() & {"encoder/slope", "policy/loss"} == set()


def test_keypoints_are_states_of_the_encoder_that_acts() -> None:
    agent, _ = seeing("otpr", "both")
    other = jax.tree.map(lambda x: 0.5 * x if eqx.is_inexact_array(x) else x, base().encoder)
    moved = dataclasses.replace(agent, average=other).acting_anew()
    data = experience(other, agent.config)
    moved = moved.states_moved(data)
    rows = np.asarray(agent.agent.keypoint_rows)  # pyright: ignore
    chosen = rows[np.linspace(0, len(rows) - 1, SMALL["keypoints"]).round().astype(int)]
    np.testing.assert_array_equal(moved.agent.keypoint_states, data.store.states(chosen))  # pyright: ignore


def test_a_batch_sees_what_its_rows_say() -> None:
    agent, batch = seeing("otpr", "both")
    given = batch.batch
    rows = np.concatenate([given.replay.row, given.demonstrations.row, given.pairs.row])
    data = experience(base().encoder, agent.config)
    states = np.concatenate([given.replay.state, given.demonstrations.state, given.pairs.state])
    np.testing.assert_array_equal(states, data.store.states(rows))
    flat = {name: np.asarray(x)[:, 0] for name, x in batch.observations.items()}
    np.testing.assert_allclose(encode(base().encoder, flat), states, atol=1e-6)


def test_what_cannot_train_an_encoder_says_why() -> None:
    both = EncoderConfig("both")
    with pytest.raises(
        OtprError, match=r"--encoder both is not for dppo: it learns from the states of whole"
    ):
        check_encoder(base(), "dppo", both)
    with pytest.raises(OtprError, match=r"--encoder both is not for bc: it learns nothing.*dawr, dql, fql"):
        check_encoder(base(), "bc", both)
    with pytest.raises(OtprError, match=r"this policy sees none: its encoder is of kind 'vector'"):
        check_encoder(small.BASE, "otpr", both)
    check_encoder(small.BASE, "dppo", EncoderConfig())


def test_settings_that_train_nothing_are_refused() -> None:
    with pytest.raises(OtprError, match=r"--random-shift 2 is about an encoder that is trained"):
        EncoderConfig(random_shift=2)
    with pytest.raises(OtprError, match=r"encoder_learning_rate must lie in \(0, 1\], given 0.0"):
        EncoderConfig("both", encoder_learning_rate=0.0)
    with pytest.raises(OtprError, match=r"random_shift must be at least 0, given -1"):
        EncoderConfig("both", random_shift=-1)
