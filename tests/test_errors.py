from __future__ import annotations

import pytest

from otpr.errors import OtprError, unknown_name

METAWORLD = [f"metaworld/{name}-v3" for name in ("push", "pick-place", "peg-insert-side", "door-open")]


@pytest.mark.parametrize(
    "given", ["metaworld/peg-insert-side-v2", "metaworld/peg_insert_side-v3", "peg-insert-side"]
)
def test_misspelt_name_gets_the_nearest_right_one_first(given: str):
    message = str(unknown_name("task", given, METAWORLD))
    assert message.startswith(f"Unknown task {given!r}. Did you mean 'metaworld/peg-insert-side-v3'")
    assert message.endswith("?")


def test_several_near_names_are_offered_nearest_first_and_no_more_than_three():
    error = unknown_name(
        "field", "batch_siz", ["batch_size", "batch_sizes", "batch_sides", "batch_site", "seed"]
    )
    assert (
        str(error) == "Unknown field 'batch_siz'. Did you mean 'batch_size' or 'batch_sizes' or 'batch_site'?"
    )


def test_few_names_none_near_are_all_listed_in_order():
    error = unknown_name("preset", "xyz", iter(["release", "paper", "default"]))
    assert str(error) == "Unknown preset 'xyz'. Known: default, paper, release."


def test_many_names_none_near_are_not_all_listed():
    error = unknown_name("task", "????", [f"name-{i:02d}" for i in range(13)])
    assert str(error) == (
        "Unknown task '????'. 13 are known, from 'name-00' to 'name-12'; `otpr info SUITE` lists tasks, "
        "`--help` lists settings."
    )


def test_unknown_name_is_returned_for_the_caller_to_raise():
    assert isinstance(unknown_name("task", "a", ["b"]), OtprError)
