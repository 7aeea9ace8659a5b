"""What a served policy takes and answers, without a socket."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from otpr.diffusion import NoiseSchedule
from otpr.errors import OtprError
from otpr.networks.mlp import NoiseMLP
from otpr.policies.acting import act_key
from otpr.policies.denoising import Diffusion
from otpr.policies.encoder import Normalizer, VectorEncoder
from otpr.policies.generators import plan_shape
from otpr.policies.loading import load_policy
from otpr.policies.policy import Policy
from otpr.policies.units import in_units
from otpr.policies.vision import VisionEncoder, vector_part
from otpr.serving.messages import pack, unpack
from otpr.serving.service import Refused, Service
from otpr.spec import Entry, Spec
from tiny import TASK, chooser, policy

FIXTURES = Path(__file__).parents[1] / "fixtures"
STATE = np.linspace(-1, 1, 39, dtype=np.float32)


def asked(service: Service, request: Any) -> dict[str, Any]:
    return service.answer(request if isinstance(request, bytes | str) else pack(request), time.perf_counter())


def refusal(service: Service, request: Any) -> str:
    with pytest.raises(Refused) as refused:
        asked(service, request)
    assert str(refused.value).endswith(service.expected)
    return str(refused.value).removesuffix(service.expected)


def of(policy: Policy) -> Service:
    return Service(policy, {})


def with_spec(entries: dict[str, Entry], low: tuple[float, ...], high: tuple[float, ...]) -> Policy:
    """A policy of few weights whose observation has these vector entries."""
    n = sum(entry.shape[0] for entry in entries.values())
    small = policy(observation_dim=n, action_dim=len(low))
    normalizers = {
        name: Normalizer(jnp.zeros(entry.shape), jnp.ones(entry.shape)) for name, entry in entries.items()
    }
    spec = dataclasses.replace(small.spec, observation=entries, action_low=low, action_high=high)
    return dataclasses.replace(small, encoder=VectorEncoder(normalizers), spec=spec)


def test_the_answer_is_that_of_the_policy_with_the_seed():
    shown = policy(execute=4)
    reply = asked(of(shown), {"state": STATE, "seed": 7})
    np.testing.assert_array_equal(reply["actions"], shown.act(STATE, 7))
    assert (reply["actions"].shape, reply["actions"].dtype, reply["seed"]) == ((4, 4), np.float64, 7)
    assert reply["server_timing"].keys() == {"wait_ms", "infer_ms"}


def test_without_a_seed_each_draw_is_another_and_can_be_repeated():
    service = of(policy())
    first, second = (asked(service, {"state": STATE}) for _ in range(2))
    assert first["seed"] != second["seed"]
    again = asked(service, {"state": STATE, "seed": first["seed"]})
    np.testing.assert_array_equal(again["actions"], first["actions"])


@pytest.mark.parametrize(
    "given",
    [
        {"observation/state": STATE},
        {"state": STATE.astype(np.float64)},
        {"state": STATE.astype(">f4")},
        {"state": STATE.tolist(), "prompt": "insert the peg"},
        {"state": STATE, "seed": np.uint8(7), "budget_ms": None},
    ],
)
def test_one_observation_in_many_forms(given: dict[str, Any]):
    service = of(policy())
    expected = asked(service, {"state": STATE, "seed": 7})["actions"]
    np.testing.assert_array_equal(asked(service, {"seed": 7, **given})["actions"], expected)


def test_openpis_names_stand_for_what_they_can_mean_alone():
    names = Service(with_spec({"joints": Entry((3,))}, (-1,), (1,)), {}).metadata["names"]
    assert sorted(names["joints"]) == ["joints", "observation/joints", "observation/state"]
    two = Service(with_spec({"arm": Entry((3,)), "hand": Entry((2,))}, (-1,), (1,)), {})
    assert sorted(two.metadata["names"]["arm"]) == ["arm", "observation/arm"]
    said = refusal(two, {"observation/state": np.zeros(3), "hand": np.zeros(2)})
    assert said == "The request has an entry 'observation/state', which this policy does not know.\n"
    # an entry's own name goes before what could only stand for it
    own = with_spec({"observation/state": Entry((3,)), "x": Entry((2,))}, (-1,), (1,))
    assert Service(own, {}).metadata["names"]["observation/state"][-1] == "observation/state"


def test_a_history_is_sent_whole_or_one_stands_for_all():
    shown = policy(history=2, execute=4)
    service, older = of(shown), STATE[::-1]
    both = asked(service, {"state": np.stack([older, STATE]), "seed": 3})
    np.testing.assert_array_equal(both["actions"], shown.act(np.stack([older, STATE]), 3))
    one = asked(service, {"state": STATE, "seed": 3})
    np.testing.assert_array_equal(one["actions"], shown.act(np.stack([STATE, STATE]), 3))
    assert "the last 2 observations, oldest first" in refusal(service, {"state": np.zeros((3, 39))})


def test_actions_are_in_the_units_of_the_environment_and_within_its_bounds():
    low, high = (-1.0, 0.1, -30.0), (1.0, 0.7, 10.0)
    spec = Spec({"state": Entry((2,))}, low, high)
    unit = np.array([[-1, -1, -1], [1, 1, 1], [1 / 3, 0, 0.5], [1e-9, 0, 0]], np.float32)
    found = in_units(unit, spec)
    np.testing.assert_array_equal(found[0], low)
    np.testing.assert_array_equal(found[1], high)
    np.testing.assert_allclose(found[2], [1 / 3, 0.4, 0.0], atol=1e-7)
    assert found[3, 0] == unit[3, 0]  # bounds of [-1, 1] change no bit
    assert (found >= np.array(low)).all() and (found <= np.array(high)).all()


def test_a_budget_ends_the_choice_and_counts_from_the_arrival():
    shown = policy(chooser=chooser())
    service = of(shown)
    service.warm()
    plenty = asked(service, {"state": STATE, "seed": 5, "budget_ms": 1e6})["actions"]
    np.testing.assert_array_equal(plenty, shown.act(STATE, 5, budget_seconds=1e3))
    late = service.answer(pack({"state": STATE, "seed": 5, "budget_ms": 1e6}), time.perf_counter() - 2e3)
    np.testing.assert_array_equal(late["actions"], shown.act(STATE, 5, budget_seconds=0))
    assert late["server_timing"]["wait_ms"] > 1.9e6


def test_metadata_say_what_the_policy_takes_and_gives(tmp_path: Path):
    saved = policy(history=2, execute=4, chooser=chooser(78, 16))
    saved.save(tmp_path / "run" / "policy", task=TASK)
    found = unpack(pack(Service.of(tmp_path / "run").metadata))
    assert (found["server"], found["policy"], found["task"]) == ("otpr", "run", TASK)
    assert Spec.from_json(found["spec"]) == saved.spec
    assert found["actions"] == {"shape": [4, 4], "low": [-1.0] * 4, "high": [1.0] * 4}
    sums = (tmp_path / "run" / "policy" / "SHA256SUMS").read_bytes()
    assert found["checksum"] == hashlib.sha256(sums).hexdigest()
    assert (found["bounds_stated"], found["unused"], found["candidates"]) == (True, ["prompt"], 6)
    json.dumps(found)  # it is plain


@pytest.mark.parametrize("name", sorted(folder.name for folder in FIXTURES.glob("policy-*")))
def test_policies_of_earlier_formats_are_served(name: str):
    service, shown = Service.of(FIXTURES / name), load_policy(FIXTURES / name)
    assert (service.metadata["checksum"] is None) == (name == "policy-1")
    request = {
        entry: np.zeros(of_one.shape, of_one.dtype) for entry, of_one in shown.spec.observation.items()
    }
    service.warm()
    assert asked(service, request)["actions"].shape == (shown.spec.execute, shown.spec.action_dim)


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (b"garbage", "The message cannot be read: "),
        ("text", "The message is a text; requests are binary messages."),
        ([1, 2], "The message is list, not a map."),
        ({}, "The request lacks the observation entry 'state'."),
        ({"state": STATE, b"state": STATE}, "The request has an entry b'state', which this policy does not"),
        (
            {"state": STATE, "images": {}},
            "The request has an entry 'images', which this policy does not know.",
        ),
        ({"state": STATE, "observation/state": STATE}, "The request has the entry 'state' twice, under two"),
        ({"state": STATE[:3]}, "observation has shape (3,), the policy expects (39,)."),
        ({"state": STATE[None]}, "observation has shape (1, 39), the policy expects (39,)."),
        ({"state": STATE * np.nan}, "observation is not finite at indices [0, 1, 2"),
        ({"state": np.full(39, 1e300)}, "observation is not finite at indices [0, 1, 2"),
        ({"state": "39 numbers"}, "observation entry 'state' is of type <U10, not of numbers."),
        ({"state": np.zeros(39, bool)}, "observation entry 'state' is of type bool, not of numbers."),
        ({"state": [[1], [2, 3]]}, "observation entry 'state' is no array: "),
        (pack({"state": STATE})[:-3], "The message cannot be read: it cannot be unpacked as msgpack"),
        ({"state": [None] * 39}, "observation entry 'state' is of type object, not of numbers."),
        ({"state": STATE, "seed": -1}, "seed must not be negative, given -1."),
        ({"state": STATE, "seed": 1.5}, "seed must be a whole number, given 1.5."),
        ({"state": STATE, "budget_ms": 0}, "budget_ms is 0; it must be above 0 and finite."),
        ({"state": STATE, "budget_ms": float("nan")}, "budget_ms is nan; it must be above 0 and finite."),
        ({"state": STATE, "budget_ms": "soon"}, "budget_ms is str, not a number."),
    ],
)
def test_what_is_no_request_is_refused_with_what_was_given_and_expected(request_: Any, said: str):
    service = of(policy())
    assert refusal(service, request_).startswith(said)


def test_an_entry_that_a_request_has_no_name_for_is_refused():
    with pytest.raises(OtprError, match="an entry 'seed', which is another field of a request"):
        Service(with_spec({"seed": Entry((3,)), "x": Entry((2,))}, (-1,), (1,)), {})


def test_weights_that_are_not_finite_are_no_fault_of_the_request():
    bad = eqx.tree_at(
        lambda p: p.diffusion.network.body.mlp.layers[-1].bias,
        policy(),
        replace_fn=lambda bias: bias * jnp.nan,
    )
    with pytest.raises(OtprError, match="its weights hold NaN"):
        asked(of(bad), {"state": STATE})


def test_a_camera_is_sent_as_it_is():
    entries = {"joints": Entry((3,)), "front": Entry((32, 40, 3), "uint8", "image")}
    spec = Spec(entries, (-1.0,), (1.0,), history=2, horizon=4, execute=2)
    vectors = VectorEncoder.fit(vector_part(spec), {"joints": np.eye(3, dtype=np.float32)})
    encoder = VisionEncoder.new(
        spec,
        vectors,
        network="small",
        shared=False,
        sizes={"channels": 8, "depth": 1, "features": 6},
        key=jax.random.key(0),
    )
    network = NoiseMLP(2 * encoder.feature_dim, plan_shape(spec), width=8, depth=1, key=jax.random.key(1))
    shown = Policy(encoder, Diffusion(network, NoiseSchedule.cosine(3)), None, spec)
    service = of(shown)
    picture = np.random.default_rng(0).integers(0, 256, (32, 40, 3), np.uint8)
    reply = asked(service, {"observation/image": picture, "observation/state": np.zeros(3), "seed": 1})
    seen = {"front": np.stack([picture] * 2), "joints": np.zeros((2, 3))}
    np.testing.assert_array_equal(reply["actions"], shown.act(seen, 1))
    said = refusal(service, {"front": picture / 255, "joints": np.zeros(3)})
    assert said == "observation entry 'front' is float64, the policy expects uint8, as of every image.\n"
    assert service.largest > 2 * picture.nbytes


def test_what_will_be_executed_until_the_reply_is_in_the_units_of_the_environment():
    low, high = (-1.0, 0.1, -30.0), (1.0, 0.7, 10.0)
    shown = dataclasses.replace(with_spec({"state": Entry((3,))}, low, high).executing(4))
    service, seen = of(shown), {"state": np.zeros(3)}
    service.warm()
    unit = np.random.default_rng(0).uniform(-1, 1, (2, 3)).astype(np.float32)
    reply = asked(service, {**seen, "seed": 3, "prefix": in_units(unit, shown.spec)})
    expected = in_units(shown.act(np.zeros(3), 3, prefix=unit), shown.spec)
    np.testing.assert_allclose(reply["actions"], expected, atol=1e-4)
    said = refusal(service, {**seen, "prefix": np.zeros((5, 3)) + 0.1})
    assert said.startswith("prefix has shape (5, 3); the policy takes at most 4 actions of 3 numbers")
    said = refusal(service, {**seen, "prefix": np.zeros((2, 3))})
    assert said == "prefix is not finite, or leaves the bounds: [-1.0, 0.1, -30.0] to [1.0, 0.7, 10.0].\n"
    assert refusal(service, {**seen, "prefix": "soon"}) == "prefix is of type <U4, not of numbers.\n"


def test_plans_to_choose_from_are_those_that_the_generator_draws():
    shown = policy(chooser=chooser(), execute=8)
    service = of(shown)
    reply = asked(service, {"state": STATE, "seed": 3, "plans": 5})
    expected = shown.propose({"state": STATE[None, None]}, act_key(3)[None], 8)[0, :5]
    np.testing.assert_array_equal(reply["plans"], expected)
    assert "actions" not in reply
    for wrong in (0, 257, 1.5, True, "many"):
        said = refusal(service, {"state": STATE, "plans": wrong})
        assert said == f"plans is {wrong!r}, not a whole number in 1..256.\n"
    assert refusal(service, {"state": STATE[:2], "plans": 1}).startswith("observation has shape (2,)")


@pytest.mark.parametrize("more", [{"budget_ms": 5.0}, {"prefix": np.zeros((1, 3))}])
def test_what_is_for_actions_is_refused_with_plans(more: dict[str, Any]):
    (name,) = more
    said = refusal(of(policy(execute=8)), {"state": STATE, "plans": 2, **more})
    assert said.startswith(f"The request has 'plans' and {name!r}, which is for actions. Send one.")
