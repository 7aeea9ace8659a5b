from __future__ import annotations

from dataclasses import replace

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
    return observing(array) if field == "observations" else replace(good, **{field: array})


def observing(*state: np.ndarray, **others: np.ndarray) -> Episode:
    """An episode of five steps with these observations; one without a name is the entry "state"."""
    return replace(episode(), observations=dict(zip(["state"], state, strict=False)) | others)


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
            observing(np.zeros((6, 4), np.float32)),
            r"observations have shape \(6, 4\), expected \(steps, 3\)",
        ),
        (
            replace(episode(), actions=np.zeros((5, 3), np.float32)),
            r"actions have shape \(5, 3\), expected \(steps, 2\)",
        ),
        (observing(np.zeros(6, np.float32)), r"observations have shape \(6,\)"),
        (replace(episode(), rewards=np.zeros((5, 1), np.float32)), r"rewards have shape \(5, 1\)"),
        (
            observing(np.zeros((5, 3), np.float32)),
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


def test_none_at_all_are_refused() -> None:
    with pytest.raises(OtprError, match=r"^f: holds no episodes"):
        validate_episodes([], source="f")


CAMERA = np.zeros((6, 8, 8, 3), np.uint8)
ARM, GRIPPER = np.zeros((6, 4), np.float32), np.ones((6, 1), np.float64)


def test_entries_of_an_episode_are_its_arrays() -> None:
    given = observing(arm=ARM, camera=CAMERA, gripper=GRIPPER)
    assert seen_spec(given).observation == {
        "arm": Entry((4,)),
        "camera": Entry((8, 8, 3), "uint8", "image"),
        "gripper": Entry((1,), "float64"),
    }
    assert seen_spec(given).action_dim == 2
    validate_episodes([given, given], source="here")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            observing(arm=ARM, camera=CAMERA),
            "observations have the entries 'arm', 'camera', expected 'arm'",
        ),
        (
            observing(ARM, arm=ARM, camera=CAMERA, gripper=GRIPPER),
            "observations have the entries 'arm', 'camera', 'gripper', 'state', expected",
        ),
        (observing(), "observations have the entries none, expected 'arm'"),
        (
            observing(arm=ARM, camera=CAMERA[:, :4], gripper=GRIPPER),
            r"observations 'camera' have shape \(6, 4, 8, 3\), expected \(steps, 8, 8, 3\)",
        ),
        (
            observing(arm=ARM, camera=CAMERA.astype(np.float32), gripper=GRIPPER),
            "observations 'camera' are float32, expected uint8 as of every image",
        ),
        (
            observing(arm=ARM, camera=CAMERA[:5], gripper=GRIPPER),
            "observations 'camera' have length 5, expected 6",
        ),
        (
            observing(arm=ARM, camera=CAMERA, gripper=GRIPPER * np.nan),
            "observations 'gripper' hold NaN or infinity, first at step 0",
        ),
    ],
)
def test_bad_entries_are_refused_by_name(bad: Episode, message: str) -> None:
    good = observing(arm=ARM, camera=CAMERA, gripper=GRIPPER)
    with pytest.raises(OtprError, match="^f: episode 1: " + message):
        validate_episodes([good, bad], source="f")


def test_arrays_that_can_be_no_entry_are_refused() -> None:
    with pytest.raises(OtprError, match=r"^f: episode 0: An observation entry of kind image .* uint8; given"):
        validate_episodes([observing(camera=np.zeros((6, 8, 8, 3), np.float32))], source="f")
    with pytest.raises(OtprError, match=r"^f: episode 0: A spec needs at least one observation entry"):
        validate_episodes([observing()], source="f")
