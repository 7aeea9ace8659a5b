from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otpr.data.episodes import Episode, seen_spec, validate_episodes
from otpr.errors import OtprError
from otpr.spec import Entry, Spec


def episode(steps: int = 5) -> Episode:
    generator = np.random.default_rng(steps)
    return Episode(
        observations={"state": generator.standard_normal((steps + 1, 3)).astype(np.float32)},
        actions=generator.uniform(-1, 1, (steps, 2)).astype(np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=True,
        truncated=False,
        success=True,
        seed=7,
    )


def spoilt(field: str, index: tuple[int, ...], value: float) -> Episode:
    good = episode()
    array = (good.observations["state"] if field == "observations" else getattr(good, field)).copy()
    array[index] = value
    return replace(good, **{field: {"state": array} if field == "observations" else array})


def test_good_ones_pass() -> None:
    validate_episodes([episode(1), episode(9)], source="here")
    validate_episodes([episode()], source="here", spec=Spec.flat(3, 2))
    edge = replace(episode(2), actions=np.array([[1, -1], [-1, 1]], np.float32))
    validate_episodes([edge], source="here")


def test_length_is_the_number_of_steps() -> None:
    assert len(episode(9)) == 9


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spoilt("observations", (4, 1), np.nan), "observations hold NaN or infinity, first at step 4"),
        (spoilt("actions", (2, 0), np.inf), "actions hold NaN or infinity, first at step 2"),
        (spoilt("rewards", (3,), -np.inf), "rewards hold NaN or infinity, first at step 3"),
        (spoilt("actions", (2, 1), 1.25), r"actions leave \[-1, 1\], first at step 2 with 1.25"),
        (spoilt("actions", (0, 0), -3), r"actions leave \[-1, 1\], first at step 0 with -3"),
        (
            replace(episode(), observations={"state": np.zeros((6, 4), np.float32)}),
            r"observations have shape \(6, 4\), expected \(steps, 3\)",
        ),
        (
            replace(episode(), actions=np.zeros((5, 3), np.float32)),
            r"actions have shape \(5, 3\), expected \(steps, 2\)",
        ),
        (
            replace(episode(), observations={"state": np.zeros(6, np.float32)}),
            r"observations have shape \(6,\)",
        ),
        (replace(episode(), rewards=np.zeros((5, 1), np.float32)), r"rewards have shape \(5, 1\)"),
        (
            replace(episode(), observations={"state": np.zeros((5, 3), np.float32)}),
            "observations have length 5, expected 6, one more than the 5 actions",
        ),
        (
            replace(episode(), rewards=np.zeros(4, np.float32)),
            "rewards have length 4, expected 5, as many as actions",
        ),
        (episode(0), "actions are empty"),
    ],
)
def test_bad_ones_are_refused_by_source_index_and_field(bad: Episode, message: str) -> None:
    with pytest.raises(OtprError, match=r"^some/file\.hdf5: episode 1: " + message):
        validate_episodes([episode(), bad, episode()], source="some/file.hdf5")


def test_dimensions_of_the_environment_are_expected_of_the_first_one_too() -> None:
    with pytest.raises(OtprError, match=r"^f: episode 0: observations .*expected \(steps, 39\)"):
        validate_episodes([episode()], source="f", spec=Spec.flat(39, 2))
    with pytest.raises(OtprError, match=r"^f: episode 0: actions .*expected \(steps, 4\)"):
        validate_episodes([episode()], source="f", spec=Spec.flat(3, 4))


CAMERA = Spec({"camera": Entry((4, 5, 3), "uint8", "image"), "joints": Entry((3,))}, (-1, -1), (1, 1))


def filmed(**changes: Any) -> Episode:
    entries = {"camera": np.zeros((6, 4, 5, 3), np.uint8), "joints": np.zeros((6, 3), np.float32), **changes}
    return replace(
        episode(), observations={name: array for name, array in entries.items() if array is not None}
    )


def test_what_the_arrays_tell_is_a_spec() -> None:
    assert seen_spec(filmed()) == CAMERA
    assert seen_spec(episode()) == Spec.flat(3, 2)
    validate_episodes([filmed(), filmed()], source="f")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"joints": None}, r"entries 'camera', expected 'camera', 'joints'"),
        ({"camera": np.zeros((6, 4, 5, 3))}, r"'camera' are float64, expected uint8 as of every image"),
        ({"camera": np.zeros((6, 4, 4, 3), np.uint8)}, r"'camera' have shape .*expected \(steps, 4, 5, 3\)"),
        ({"joints": np.full((6, 3), np.nan)}, r"'joints' hold NaN or infinity, first at step 0"),
    ],
)
def test_entries_are_named_where_there_are_several(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(OtprError, match=f"^f: episode 1: observations (have the )?{message}"):
        validate_episodes([filmed(), filmed(**changes)], source="f", spec=CAMERA)


def test_none_at_all_are_refused() -> None:
    with pytest.raises(OtprError, match=r"^f: holds no episodes"):
        validate_episodes([], source="f")
