"""What a policy is asked and what it answers: several entries, several observations, parts of plans."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.data.episodes import Episode
from otpr.data.store import EpisodeStore
from otpr.diffusion import NoiseSchedule
from otpr.errors import OtprError
from otpr.networks.mlp import NoiseMLP
from otpr.policies.acting import act_within, decision_keys, recent
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder, encode
from otpr.policies.generators import plan_shape
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.proposer import Proposer
from otpr.spec import Entry, Spec
from tiny import TASK, arrays, assert_same_arrays, chooser, policy

RNG = np.random.default_rng(0)
ENTRIES = {"arm": Entry((3,)), "gripper": Entry((1,), "float64"), "object": Entry((2,), "float16")}


def dictionary_policy(history: int = 1) -> Policy:
    """Three vector entries of three types."""
    spec = Spec(ENTRIES, (-1.0,) * 2, (1.0,) * 2, history=history, horizon=4, execute=4)
    normalizers = {
        name: Normalizer(
            jnp.full(entry.shape, 0.1 * i, jnp.float32),
            jnp.full(entry.shape, 1.0 + i, jnp.float32),
            jnp.zeros(entry.shape) if entry.dtype == "float64" else None,
        )
        for i, (name, entry) in enumerate(ENTRIES.items())
    }
    network = NoiseMLP(6 * history, plan_shape(spec), width=16, depth=2, key=jax.random.key(0))
    return Policy(VectorEncoder(normalizers), Diffusion(network, NoiseSchedule.cosine(4)), None, spec)


def observation(history: int | None = None) -> dict[str, np.ndarray]:
    leading = () if history is None else (history,)
    return {
        name: RNG.normal(size=(*leading, *entry.shape)).astype(entry.dtype) for name, entry in ENTRIES.items()
    }


PLAIN, ENTRYWISE = policy(), dictionary_policy()
REMEMBERING = policy(observation_dim=5, action_dim=2, history=3, horizon=6, execute=2)
HALF = policy(execute=4, chooser=chooser(39, 16, u=0.5))  # half of each plan is scored and executed

# ------------------------------------------------------------------------------------------ several entries


def test_the_order_in_which_entries_are_given_does_not_matter():
    seen = observation()
    actions = ENTRYWISE.act(seen, 3)
    assert actions.shape == (4, 2)
    np.testing.assert_array_equal(ENTRYWISE.act(dict(reversed(seen.items())), 3), actions)
    for name in ENTRIES:  # each of them counts
        other = seen | {name: seen[name] + np.ones((), seen[name].dtype)}
        assert np.abs(ENTRYWISE.act(other, 3) - actions).max() > 1e-4


def test_entries_lie_side_by_side_in_the_order_of_their_names_each_with_its_own_normalizer():
    seen = observation()
    expected = [
        (seen[name].astype(np.float32) - np.float32(0.1 * i)) / np.float32(1.0 + i)
        for i, name in enumerate(("arm", "gripper", "object"))
    ]
    features = encode(ENTRYWISE.encoder, {name: entry[None] for name, entry in seen.items()})
    np.testing.assert_allclose(features[0], np.concatenate(expected), rtol=1e-5)
    assert ENTRYWISE.encoder.feature_dim == ENTRYWISE.state_dim == 6


def test_a_flat_policy_takes_its_entry_by_name_too():
    seen = RNG.normal(size=39)
    np.testing.assert_array_equal(PLAIN.act({"state": seen}, 3), PLAIN.act(seen, 3))


def test_a_policy_of_several_entries_comes_back_from_disk(tmp_path: Path):
    acting = dictionary_policy(history=2)
    acting.save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert loaded.spec == acting.spec
    assert_same_arrays(arrays(loaded), arrays(acting))
    np.testing.assert_array_equal(loaded.act(seen := observation(2), 1), acting.act(seen, 1))


def bad(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**observation(), **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("acting", "given", "message"),
    [
        (
            ENTRYWISE,
            np.zeros(6),
            "must be a dictionary with the entries 'arm', 'gripper', 'object', given ndarray",
        ),
        (
            ENTRYWISE,
            bad(arm=None),
            "has the entries 'gripper', 'object', the policy expects 'arm', 'gripper', 'object'",
        ),
        (
            ENTRYWISE,
            bad(camera=np.zeros(2)),
            "has the entries 'arm', 'camera', 'gripper', 'object', the policy expects 'arm',",
        ),
        (ENTRYWISE, {}, "observation has the entries none, the policy expects 'arm'"),
        (ENTRYWISE, bad(arm=np.zeros(4)), r"entry 'arm' has shape \(4,\), the policy expects \(3,\)\.$"),
        (ENTRYWISE, bad(gripper=0.0), r"entry 'gripper' has shape \(\), the policy expects \(1,\)\.$"),
        (ENTRYWISE, bad(arm=np.array([0, np.inf, np.nan])), r"entry 'arm' is not finite at indices \[1, 2\]"),
        (ENTRYWISE, bad(object=np.array([0, 1e6])), r"entry 'object' is not finite at indices \[1\]"),
        (
            ENTRYWISE,
            bad(arm=["a", "b", "c"]),
            r"entry 'arm' is no array of numbers \(could not .*'a'\); the policy expects vector \(3,\)",
        ),
        (
            PLAIN,
            {"state": {"x": 1.0}},
            r"observation is no array of numbers \(.*dict.*\); the policy expects",
        ),
        (PLAIN, [[1.0, 2.0], [3.0]], r"observation is no array of numbers \(.*\); the policy expects vector"),
        (PLAIN, {"position": np.zeros(39)}, "has the entries 'position', the policy expects 'state'"),
        (
            REMEMBERING,
            np.zeros(5),
            r"has shape \(5,\), the policy expects \(3, 5\) \(the last 3 observations, oldest first\)",
        ),
        (REMEMBERING, np.zeros((2, 5)), r"observation has shape \(2, 5\), the policy expects \(3, 5\)"),
        (
            REMEMBERING,
            np.where(np.arange(15).reshape(3, 5) == 7, np.nan, 0),
            r"observation is not finite at indices \[\[1, 2\]\]",
        ),
    ],
)
def test_observations_that_do_not_fit_are_refused(acting: Policy, given: Any, message: str):
    with pytest.raises(ValueError, match=message):
        acting.act(given, 0)


def test_pictures_must_be_bytes():
    entries = {"camera": Entry((2, 2, 3), "uint8", "image"), "state": Entry((2,))}
    seeing = Policy(
        ENTRYWISE.encoder, ENTRYWISE.generator, None, Spec(entries, (-1.0,) * 2, (1.0,) * 2, horizon=4)
    )
    with pytest.raises(ValueError, match="'camera' is float64, the policy expects uint8, as of every image"):
        seeing.act({"camera": np.zeros((2, 2, 3)), "state": np.zeros(2)}, 0)
    with pytest.raises(ValueError, match=r"'camera' has shape \(3, 2, 2\), the policy expects \(2, 2, 3\)"):
        seeing.act({"camera": np.zeros((3, 2, 2), np.uint8), "state": np.zeros(2)}, 0)


# ------------------------------------------------------------------------------------- several observations


def test_the_state_is_the_features_of_the_last_observations_oldest_first():
    seen = RNG.normal(size=(3, 5)).astype(np.float32)
    assert isinstance(REMEMBERING.encoder, VectorEncoder)
    normalizer = REMEMBERING.encoder.normalizers["state"]
    state = np.concatenate([np.asarray(normalizer(row)) for row in seen])
    np.testing.assert_allclose(REMEMBERING.state({"state": seen}), state, atol=1e-6)
    assert REMEMBERING.state_dim == 15
    propose_key, _ = jax.random.split(jax.random.key(8))
    plan = REMEMBERING.generator.propose(jnp.asarray(state), propose_key, 1)[0]
    np.testing.assert_allclose(REMEMBERING.act(seen, 8), plan[:2], atol=1e-5)
    assert np.abs(REMEMBERING.act(seen[::-1], 8) - REMEMBERING.act(seen, 8)).max() > 1e-4


def test_decisions_of_an_episode_have_the_states_that_are_learnt_from():
    """The store's states are those that acting makes of the last observations; the first one repeats."""
    seen = RNG.normal(size=(8, 5)).astype(np.float32)
    steps = RNG.uniform(-1, 1, (7, 2)).astype(np.float32)
    episode = Episode({"state": seen}, steps, np.zeros(7, np.float32), False, True, False, 0)
    store = EpisodeStore.empty(REMEMBERING.spec, 0.99, 5, 20)
    store = store.add(encode(REMEMBERING.encoder, episode.observations), episode)
    states = store.states(jnp.arange(8))
    for t in range(8):
        window = recent(list(seen[: t + 1]), 3)
        np.testing.assert_allclose(states[t], REMEMBERING.state({"state": window}), atol=1e-6)


def test_before_an_episodes_first_observation_it_repeats():
    rows = RNG.normal(size=(4, 5))
    np.testing.assert_array_equal(recent(list(rows), 1), rows[3])
    for n, expected in [(1, [0, 0, 0]), (2, [0, 0, 1]), (3, [0, 1, 2]), (4, [1, 2, 3])]:
        np.testing.assert_array_equal(recent(list(rows[:n]), 3), rows[expected])
    seen = [observation(), observation()]
    both = recent(seen, 2)
    assert both.keys() == ENTRIES.keys()
    for name in ENTRIES:
        np.testing.assert_array_equal(both[name], [seen[0][name], seen[1][name]])
    assert dictionary_policy(history=2).act(both, 1).shape == (4, 2)


@pytest.mark.parametrize("acting", [PLAIN, REMEMBERING, HALF], ids=["plain", "remembering", "choosing"])
def test_decisions_together_are_those_of_each_by_itself(acting: Policy):
    n, shape = 4, (acting.spec.history, acting.encoder.feature_dim)
    seen = RNG.normal(size=(n, *shape)).astype(np.float32)
    keys = decision_keys(5, np.arange(n, dtype=np.uint32), 2)
    actions, metrics = acting.act_batch({"state": seen}, keys)
    assert actions.shape == (n, acting.spec.execute, acting.spec.action_dim)
    assert np.abs(actions).max() <= 1
    assert all(values.shape == (n,) for values in metrics.values())
    assert bool(metrics) == (acting.chooser is not None)
    for i in range(n):
        alone, _ = acting.act_batch({"state": seen[i : i + 1]}, keys[i : i + 1])
        np.testing.assert_allclose(actions[i], alone[0], atol=1e-5)
    assert len(np.unique(np.asarray(actions), axis=0)) == n
    # as `act` has it, but that the key comes of a seed
    one, _ = acting.act_batch({"state": seen[:1]}, jax.random.key(3)[None])
    given = seen[0] if acting.spec.history > 1 else seen[0, 0]
    np.testing.assert_array_equal(acting.act(given, 3), one[0])


@pytest.mark.parametrize("acting", [PLAIN, REMEMBERING], ids=["plain", "remembering"])
def test_a_policy_is_a_proposer(acting: Policy):
    """The same key and observation give the same plans, whatever is asked beside them."""
    proposer: Proposer = acting
    spec, b, n = proposer.spec, 3, 5
    seen = RNG.normal(size=(b, spec.history, acting.encoder.feature_dim)).astype(np.float32)
    keys = jax.random.split(jax.random.key(1), b)
    plans = np.asarray(proposer.propose({"state": seen}, keys, n))
    assert plans.shape == (b, n, spec.horizon, spec.action_dim)
    assert np.abs(plans).max() <= 1
    assert len(np.unique(plans.reshape(b * n, -1), axis=0)) == b * n
    np.testing.assert_array_equal(proposer.propose({"state": seen}, keys, n), plans)
    turned = proposer.propose({"state": seen[::-1]}, keys[::-1], n)
    np.testing.assert_allclose(turned[::-1], plans, atol=1e-5)


class Fixed:
    """A proposer that is no policy: it always offers the same plans, whoever asks."""

    def __init__(self, spec: Spec, plans: np.ndarray):
        self.spec, self.plans = spec, plans

    def propose(self, observations: Any, keys: jax.Array, n: int, prefixes: Any = None) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(self.plans[:n]), (len(keys), n, *self.plans.shape[1:]))


def test_a_chooser_chooses_among_the_plans_of_any_proposer():
    chooses = dataclasses.replace(policy(chooser=chooser()), candidates=4)
    plans = RNG.uniform(-1, 1, (4, 8, 4)).astype(np.float32)
    observation = {"state": RNG.normal(size=(1, 39)).astype(np.float32)}
    found = act_within(chooses, observation, jax.random.key(0), 1e9, proposer=Fixed(chooses.spec, plans))
    assert any(np.array_equal(found, plan) for plan in plans)
    greedy = chooses.choosing(dataclasses.replace(chooser(), rule="highest"), 4)
    found = act_within(greedy, observation, jax.random.key(0), 1e9, proposer=Fixed(greedy.spec, plans))
    assert greedy.chooser is not None
    excess, _ = greedy.chooser.scores(greedy.state(observation), greedy.chunks(jnp.asarray(plans)))
    np.testing.assert_array_equal(found, plans[int(jnp.argmax(excess))])


# ------------------------------------------------------------------------------------------- parts of plans


def test_fewer_or_more_actions_of_the_same_plan_can_be_executed():
    seen = RNG.normal(size=39)
    for acting in (PLAIN, HALF):
        whole = acting.executing(8).act(seen, 3)
        assert whole.shape == (8, 4)
        for execute in (1, 4):
            np.testing.assert_array_equal(acting.executing(execute).act(seen, 3), whole[:execute])
            assert acting.executing(execute).spec.execute == execute
    with pytest.raises(OtprError, match=r"execute \(9\) must not exceed horizon \(8\)"):
        PLAIN.executing(9)


def test_a_chooser_scores_what_it_always_did_whatever_is_executed(tmp_path: Path):
    assert HALF.chooser is not None
    plans = jax.random.uniform(jax.random.key(0), (6, 8, 4), minval=-1)
    for execute in (2, 8):
        np.testing.assert_array_equal(HALF.executing(execute).chunks(plans), plans[:, :4].reshape(6, 16))
    HALF.executing(2).save(tmp_path / "policy", task=TASK)
    loaded = load_policy(tmp_path / "policy")
    assert loaded.chooser is not None
    assert (loaded.spec.execute, loaded.chooser.chunk_dim) == (2, 16)
    seen = RNG.normal(size=39)
    np.testing.assert_array_equal(loaded.act(seen, 3), HALF.act(seen, 3)[:2])


def test_with_a_budget_of_time_the_part_that_is_executed_comes_back():
    seen = RNG.normal(size=39)
    whole = HALF.executing(8).act(seen, 3, budget_seconds=60.0)
    np.testing.assert_array_equal(HALF.act(seen, 3, budget_seconds=60.0), whole[:4])


# ---------------------------------------------------------------------------------------------- the encoder


@pytest.mark.parametrize("n", [1, 255, 256, 257, 700])
def test_features_do_not_depend_on_what_is_encoded_beside_them(n: int):
    seen = {
        name: RNG.normal(scale=30, size=(n, *entry.shape)).astype(entry.dtype)
        for name, entry in ENTRIES.items()
    }
    together = encode(ENTRYWISE.encoder, seen)
    assert together.shape == (n, 6)
    assert together.dtype == np.float32
    for i in {0, n // 2, n - 1}:
        alone = encode(ENTRYWISE.encoder, {name: rows[i : i + 1] for name, rows in seen.items()})
        assert alone.tobytes() == together[i].tobytes()


def test_each_entry_is_fitted_by_itself():
    spec = Spec({"a": Entry((2,)), "b": Entry((1,))}, (-1.0,), (1.0,))
    seen = {"b": RNG.normal(5, 2, (400, 1)), "a": RNG.normal(-3, 0.5, (400, 2))}
    encoder = VectorEncoder.fit(spec, seen)
    features = encode(encoder, seen)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-3)
    np.testing.assert_allclose(encoder.normalizers["b"].mean, seen["b"].mean(axis=0), rtol=1e-5)


def test_an_image_is_refused():
    spec = Spec({"camera": Entry((8, 8, 3), "uint8", "image")}, (-1.0,), (1.0,))
    with pytest.raises(OtprError, match="entry 'camera' is an image; only vectors can be encoded"):
        VectorEncoder.fit(spec, {"camera": np.zeros((2, 8, 8, 3), np.uint8)})
