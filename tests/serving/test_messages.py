"""The format of openpi's messages, against bytes that its own packer wrote."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as arrays
import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest
from hypothesis import given

from otpr.serving.messages import MessageError, pack, unpack
from tests.serving.renew import REQUEST

STORED = (Path(__file__).parent / "request.msgpack").read_bytes()
"""What renew.py packed, by openpi-client 0.1.2."""

TYPES = ["?", "i1", "u1", "<i2", ">i4", "<i8", "<u8", "<f2", ">f4", "<f8"]


def assert_same(one: Any, other: Any) -> None:
    """Equal in values, types and shapes, at any depth."""
    if isinstance(other, dict):
        assert one.keys() == other.keys()
        for name in other:
            assert_same(one[name], other[name])
    elif isinstance(other, np.ndarray | np.generic):
        assert type(one) is type(other)
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_array_equal(one, other)
    else:
        assert one == other


def test_what_openpis_packer_wrote_is_read_and_written_alike():
    found = unpack(STORED)
    assert_same(found, REQUEST)
    assert pack(REQUEST) == STORED


@given(
    arrays.arrays(st.sampled_from(TYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
def test_arrays_of_every_type_and_shape_come_back(array: np.ndarray):
    assert_same(unpack(pack({"array": array}))["array"], array)


# a float64 is a Python float as well, and crosses as one
@given(st.sampled_from(TYPES[:-1]).flatmap(lambda name: arrays.from_dtype(np.dtype(name), allow_nan=False)))
def test_scalars_come_back(scalar: np.generic):
    assert_same(unpack(pack(scalar)), scalar.astype(scalar.dtype.newbyteorder("=")))


@pytest.mark.parametrize("value", [np.array([None]), np.array(["text"]), np.array([1j]), object(), {1, 2}])
def test_what_may_not_cross_is_not_sent(value: Any):
    with pytest.raises(TypeError, match="cannot be sent"):
        pack({"value": value})


def array_of(**changes: Any) -> bytes:
    """An array of two float32, some of its entries changed."""
    entries = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({name.encode(): value for name, value in entries.items()})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b"", "incomplete input"),
        (STORED[:-1], "incomplete input"),
        (STORED + b"\x00", "extra data"),
        (b"\xc1", "FormatError"),
        (b"\xdd\xff\xff\xff\xff", "4294967295 exceeds"),  # a list of 4 billion
        (b"\xc6\x40\x00\x00\x00", "incomplete input"),  # a gigabyte of bytes
        (b"\x91" * 100_000, "StackError"),
        (pickle.dumps({"state": 1}), "cannot be unpacked"),
        (b"\xa2\xff\xff", "utf-8"),
        (msgpack.packb({1: 2}), "map key"),
        (msgpack.packb(msgpack.ExtType(5, b"code")), "extension"),
        (array_of(dtype="|O"), "'|O'; expected booleans or numbers"),
        (array_of(dtype="<U2"), "'<U2'; expected booleans or numbers"),
        (array_of(dtype="<c8"), "'<c8'; expected booleans or numbers"),
        (array_of(dtype=[["a", "<f4"]]), "expected booleans or numbers"),
        (array_of(dtype="|b4"), "no type '|b4'"),
        (array_of(shape=[3]), "has 8 bytes; expected 12"),
        (array_of(shape=[2**40]), "has 8 bytes; expected 4,398,046,511,104"),
        (array_of(data=b"", shape=[2**40, 2**40, 0]), "too big"),
        (array_of(shape=[-2]), r"shape of an array is \[-2\]"),
        (array_of(shape=[True, 2]), "shape of an array"),
        (array_of(shape=[1] * 9), "up to 8 lengths"),
        (array_of(shape=2), "shape of an array is 2"),
        (array_of(data="texttext"), "the data of an array are str; expected bytes"),
        (array_of(more=1), "an array has the keys"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "1", b"dtype": "<f4"}), "a scalar is '1'"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "|i1"}), "out of bounds"),
    ],
)
def test_what_is_no_message_is_refused_in_words(message: bytes, said: str):
    with pytest.raises(MessageError, match=said.replace("|", r"\|")):
        unpack(message)


@given(st.integers(0, len(STORED) - 1), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_and_nothing_else(place: int, byte: int):
    changed = STORED[:place] + bytes([byte]) + STORED[place + 1 :]
    with contextlib.suppress(MessageError):
        unpack(changed)
