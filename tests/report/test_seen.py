"""The frames that a report shows are those that the policy saw."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from otpr.data.episodes import Episode
from otpr.data.experience_files import ExperienceWriter
from otpr.envs import Setup
from otpr.spec import Entry, Spec
from otpr_bench.report.seen import FRAMES, strips

SPEC = Spec(
    {
        "grey": Entry((4, 5, 1), "uint8", "image"),
        "state": Entry((2,)),
        "top": Entry((4, 6, 3), "uint8", "image"),
    },
    (-1.0,),
    (1.0,),
)


def episode(seed: int, steps: int, every: int) -> Episode:
    generator = np.random.default_rng(seed)
    looked = np.arange(0, steps + 1, every, dtype=np.int32)
    return Episode(
        observations={
            "grey": generator.integers(0, 256, (len(looked), 4, 5, 1), np.uint8),
            "state": generator.normal(size=(steps + 1, 2)).astype(np.float32),
            "top": generator.integers(0, 256, (len(looked), 4, 6, 3), np.uint8),
        },
        actions=np.zeros((steps, 1), np.float32),
        rewards=np.zeros(steps, np.float32),
        terminated=False,
        truncated=True,
        success=seed == 4,
        seed=seed,
        looked=looked,
    )


def test_first_and_last_episode_are_shown(tmp_path: Path) -> None:
    writer = ExperienceWriter(tmp_path / "experience", Setup("a/b"), SPEC)
    rounds = [
        [episode(1, 40, 4), episode(2, 40, 4)],
        [episode(3, 8, 4)],
        [episode(5, 6, 3), episode(4, 6, 3)],
    ]
    for one in rounds:
        writer.add(one)
    shown = list(strips(tmp_path))
    assert [(strip.camera, strip.when) for strip in shown] == [
        ("grey", "the first episode of the run, failure"),
        ("top", "the first episode of the run, failure"),
        ("grey", "the last episode of the run, success"),
        ("top", "the last episode of the run, success"),
    ]
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(s.source.partition(",")[2])))) for s in shown
    ]
    first, last = rounds[0][0].observations["top"], rounds[2][1].observations["top"]
    assert pictures[1].shape == (4, 6 * FRAMES, 3)
    np.testing.assert_array_equal(pictures[1][:, :6], first[0])
    np.testing.assert_array_equal(pictures[1][:, -6:], first[-1])
    np.testing.assert_array_equal(pictures[3], np.concatenate(last, axis=1))  # there are but three
    np.testing.assert_array_equal(
        pictures[2], np.concatenate(rounds[2][1].observations["grey"], axis=1)[..., 0]
    )


def test_runs_without_images_show_none(tmp_path: Path) -> None:
    assert list(strips(tmp_path)) == []
    ExperienceWriter(tmp_path / "experience", Setup("a/b"), Spec.flat(2, 1))
    assert list(strips(tmp_path)) == []
