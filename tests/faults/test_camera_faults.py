"""Cameras that go wrong in the middle of an episode cost that episode, and say what was wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from otpr.envs import ChunkedVectorEnv, make_env
from otpr.errors import OtprError
from tests.faults.small import inject

SEEING = "tests.faults.faulty_envs:SeeingPoint"
DARK = "tests.faults.faulty_envs:SeeingInTheDark"
CAUSES = {
    "black": "the image 'camera' is black all over: the camera is covered, off, or nothing was rendered",
    "size": "(8, 20, 3)",
    "floats": "float64",
    "nan_image": "float64",
}


@pytest.mark.parametrize("kind", CAUSES)
def test_the_episode_is_dropped_and_the_cause_is_told(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, tmp_path, {"kind": kind, "seed": 5, "step": 2})
    with ChunkedVectorEnv(SEEING, 2, execute=1, processes=True) as env:
        env.reset([5, 6])
        for _ in range(2):
            env.step(np.zeros((2, 1, 2), np.float32))
        assert CAUSES[kind] in env.broken[0]
        assert "camera" in env.broken[0]
        # the same initial condition once more, in a process that was started anew
        first = env.reset([5, 6])
        assert not env.broken
        assert first["camera"].shape == (2, 16, 20, 3) and first["camera"].dtype == np.uint8


def test_in_this_process_it_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inject(monkeypatch, tmp_path, {"kind": "black", "seed": 5, "step": 0})
    with pytest.raises(OtprError, match=r"reset\(\): the image 'camera' is black all over.*black_frames"):
        make_env(SEEING).reset(seed=5)


def test_an_environment_may_say_that_its_images_can_be_black(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject(monkeypatch, tmp_path, {"kind": "black", "seed": 5, "step": 0})
    observation, _ = make_env(DARK).reset(seed=5)
    assert not observation["camera"].any()
