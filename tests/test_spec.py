"""The spec: what it refuses, how it compares, and its way to JSON and back."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otpr.errors import OtprError
from otpr.spec import Entry, Spec, vector_type, zeros

CAMERA = Entry((64, 48, 3), "uint8", "image")
SPEC = Spec(
    {"wrist": CAMERA, "state": Entry((7,))},
    (-1.0, -0.05),
    (1.0, 0.05),
    control_rate=20.0,
    history=2,
    horizon=8,
    execute=4,
)


def test_entries_are_in_alphabetical_order_however_given():
    other = dataclasses.replace(SPEC, observation={"state": Entry((7,)), "wrist": CAMERA})
    assert list(SPEC.observation) == list(other.observation) == ["state", "wrist"]
    assert other == SPEC
    assert hash(SPEC) == hash(other)


def test_flat_is_one_vector_with_actions_of_unit_bounds():
    flat = Spec.flat(39, 4, horizon=4, execute=2)
    assert flat.observation == {"state": Entry((39,), "float32", "vector")}
    assert (flat.action_low, flat.action_high) == ((-1.0,) * 4, (1.0,) * 4)
    assert (flat.only_vector, flat.chunk_dim, flat.action_dim) == ("state", 8, 4)
    assert SPEC.only_vector is None
    assert Spec({"wrist": CAMERA}, (-1,), (1,)).only_vector is None


@given(
    st.dictionaries(st.text(min_size=1), st.integers(1, 50), min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(-100, -1), st.floats(1, 100)), min_size=1, max_size=5),
    st.one_of(st.none(), st.floats(0.1, 1000)),
    st.integers(1, 4),
    st.integers(1, 16),
)
def test_json_and_back_is_the_same(entries, bounds, rate, history, horizon):
    low, high = zip(*bounds, strict=True)
    spec = Spec({name: Entry((n,)) for name, n in entries.items()}, low, high, rate, history, horizon, 1)
    again = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert hash(again) == hash(spec)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"observation": {}}, "at least one observation"),
        ({"execute": 9}, "execute (9) must not exceed horizon (8)"),
        ({"history": 0}, "history"),
        ({"horizon": 2.0}, "horizon"),
        ({"action_low": (-1.0,)}, "a lower and an upper bound"),
        ({"action_low": (2.0, -0.05)}, "low below high"),
        ({"action_high": (np.inf, 1.0)}, "finite"),
        ({"control_rate": 0.0}, "control_rate"),
    ],
)
def test_what_nothing_can_be_is_refused(change, word):
    with pytest.raises(OtprError) as error:
        dataclasses.replace(SPEC, **change)
    assert word in str(error.value)


@pytest.mark.parametrize(
    ("shape", "dtype", "kind"),
    [
        ((3, 3), "float32", "vector"),
        ((3,), "uint8", "vector"),
        ((8, 8, 3), "float32", "image"),
        ((0,), "float32", "vector"),
        ((8, 8), "uint8", "image"),
        ((3,), "float32", "sound"),
    ],
)
def test_entries_that_do_not_fit_their_kind_are_refused(shape, dtype, kind):
    with pytest.raises(OtprError, match="observation entry"):
        Entry(shape, dtype, kind)


def test_an_error_lists_every_difference_with_both_sides():
    other = Spec({"state": Entry((9,)), "front": CAMERA}, (-1.0, -1.0), (1.0, 1.0), 10.0, 1, 8, 8)
    with pytest.raises(OtprError) as error:
        SPEC.check(other, "The policy in A", "the task b/c", "Name its own task.")
    text = str(error.value)
    assert text.startswith("The policy in A and the task b/c do not fit together")
    assert text.endswith("Name its own task.")
    for line in (
        "observation 'front': nothing against image (64, 48, 3) uint8",
        "observation 'state': vector (7,) float32 against vector (9,) float32",
        "observation 'wrist': image (64, 48, 3) uint8 against nothing",
        "action bounds: [-1, 1] [-0.05, 0.05] against [-1, 1]",
        "control rate: 20 Hz against 10 Hz",
        "history: 2 against 1",
        "execute: 4 against 8",
    ):
        assert f"\n  {line}\n" in text
    assert "horizon" not in text


def test_a_control_rate_that_is_not_known_is_not_compared():
    assert SPEC.differences(dataclasses.replace(SPEC, control_rate=None)) == []


def test_the_part_of_a_task_has_no_plan():
    assert SPEC.of_task().differences(dataclasses.replace(SPEC, history=1, horizon=1, execute=1)) == []
    assert "horizon" not in "\n".join(SPEC.of_task().lines())
    assert "horizon       8" in SPEC.lines()


@pytest.mark.parametrize(
    "document", [None, {}, {**SPEC.to_json(), "more": 1}, {**SPEC.to_json(), "observation": 3}]
)
def test_documents_that_are_no_spec_are_refused(document):
    with pytest.raises(ValueError, match="spec"):
        Spec.from_json(document)


def test_zeros_have_the_leading_axes_and_each_entrys_type():
    made = zeros(SPEC.observation, 5, 2)
    assert {name: (array.shape, array.dtype) for name, array in made.items()} == {
        "state": ((5, 2, 7), np.float32),
        "wrist": ((5, 2, 64, 48, 3), np.uint8),
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), "float32"),
        (("float32",), "float32"),
        (("float16", "uint8", "bool"), "float32"),
        (("int16",), "float32"),
        (("float64",), "float64"),
        (("float32", "float64"), "float64"),
        (("int32",), "float64"),
        (("uint8", "int64"), "float64"),
        (("longdouble",), "float64"),
    ],
)
def test_a_vector_is_float64_where_float32_would_round_it(given, expected):
    assert vector_type(*map(np.dtype, given)) == expected


def test_the_types_of_vectors_are_not_compared_and_kinds_are():
    one, other = (
        Spec.flat(7, 2),
        dataclasses.replace(Spec.flat(7, 2), observation={"state": Entry((7,), "float64")}),
    )
    assert one.differences(other) == []
    image = dataclasses.replace(one, observation={"state": Entry((7, 7, 3), "uint8", "image")})
    assert one.differences(image) == [
        "observation 'state': vector (7,) float32 against image (7, 7, 3) uint8"
    ]


def test_plans_may_begin_before_the_present():
    spec = Spec.flat(3, 2, history=2, horizon=8, execute=4, offset=1)
    assert spec.executed == slice(1, 5)
    assert spec.of_task().offset == 0
    assert Spec.from_json(spec.to_json()) == spec
    assert "execute       4, after the first 1" in spec.lines()
    assert spec.differences(dataclasses.replace(spec, offset=2)) == ["offset: 1 against 2"]
    with pytest.raises(OtprError, match=r"execute \(8\) must not exceed horizon \(8\) less offset \(1\)"):
        dataclasses.replace(spec, execute=8)
    with pytest.raises(OtprError, match="offset must be a whole number of at least 0, given -1"):
        dataclasses.replace(spec, offset=-1)


def test_an_offset_of_0_is_not_written():
    """So that documents of tasks and data sets are what they were before there was one."""
    assert "offset" not in Spec.flat(3, 2).to_json()
