from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest

from otpr.errors import OtprError
from otpr.training import video

PICTURE = (7, 90, 200)


class CountingEnv(gymnasium.Env):
    """Succeeds after `seed` steps, or is truncated after 10; 60 steps are a second; pictures of odd size."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 60}

    def __init__(self, broken: Exception | None = None) -> None:
        self.broken = broken
        self.backend: list[str | None] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.goal, self.step_number = seed, 0
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray):
        self.step_number += 1
        success = self.step_number == self.goal
        truncated = not success and self.step_number == 10
        observation = np.full(2, self.step_number, np.float32)
        return observation, float(success), success, truncated, {"success": success}

    def render(self):
        self.backend.append(os.environ.get("MUJOCO_GL"))
        if self.broken:
            raise self.broken
        return np.full((101, 151, 3), PICTURE, np.uint8)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> CountingEnv:
    made = CountingEnv()
    monkeypatch.setattr(video, "make_env", lambda task, render_mode: made)
    return made


def still(observation: np.ndarray, seed: int) -> np.ndarray:
    return np.zeros((4, 1), np.float32)


def decode(path: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    run = subprocess.run(ffmpeg, capture_output=True, check=True)
    facts = re.search(rb"Video: h264.* yuv420p.*?, (\d+)x(\d+).*?, ([\d.]+) fps", run.stderr)
    assert facts, run.stderr
    width, height = int(facts[1]), int(facts[2])
    frames = np.frombuffer(run.stdout, np.uint8).reshape(-1, height, width, 3)
    return {"size": (width, height), "fps": float(facts[3])}, list(frames)


def border_colours(frames: list[np.ndarray]) -> list[str]:
    names = {"running": video.RUNNING, "success": video.SUCCESS, "failure": video.FAILURE}
    corners = [frame[-6:, :6].reshape(-1, 3).mean(axis=0) for frame in frames]
    return [min(names, key=lambda name: float(np.abs(corner - names[name]).sum())) for corner in corners]


def test_film_has_every_episode_at_real_speed_with_its_outcome(env: CountingEnv, tmp_path: Path):
    path = tmp_path / "videos" / "film.mp4"
    line = video.record("fake", still, [5, 999], path)
    assert line == f"Video: {path} (1 of 2 episodes succeeded)"
    facts, frames = decode(path)
    # 60 steps a second at 30 frames: every second step is drawn, and the last frame stays for 30.
    assert facts["fps"] == 30.0
    assert border_colours(frames) == ["running"] * 3 + ["success"] * 30 + ["running"] * 5 + ["failure"] * 30
    # 151 x 101, the border, and one more for an even number.
    assert facts["size"] == (151 + 16 + 1, 101 + 32 + 1)
    assert np.abs(frames[0][60, 80].astype(int) - PICTURE).max() < 12
    assert env.closed
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


def test_policy_sees_the_observation_and_a_new_seed_every_decision(env: CountingEnv, tmp_path: Path):
    seen = []

    def act(observation: np.ndarray, seed: int) -> np.ndarray:
        seen.append((float(observation[0]), seed))
        return np.zeros((4, 1), np.float32)

    video.record("fake", act, [9], tmp_path / "film.mp4")
    assert seen == [(0.0, 9), (4.0, video.decision_seed(9, 1)), (8.0, video.decision_seed(9, 2))]


def test_policy_sees_as_many_observations_as_its_history(env: CountingEnv, tmp_path: Path):
    """Those of the last steps, whether decided then or not; the first repeats before it."""
    seen: list[list[float]] = []

    def act(observations: np.ndarray, seed: int) -> np.ndarray:
        seen.append(observations[:, 0].tolist())
        return np.zeros((2, 1), np.float32)

    video.record("fake", act, [9], tmp_path / "film.mp4", history=3)
    assert seen[:3] == [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [2.0, 3.0, 4.0]]


def test_decision_seeds_are_distinct_and_in_range():
    seeds = [
        video.decision_seed(episode, decision)
        for episode in range(2**31 - 50, 2**31)
        for decision in range(100)
    ]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**31


@pytest.mark.parametrize(
    "error", [RuntimeError("no context"), AttributeError("eglQueryString"), ImportError("GL")]
)
def test_where_rendering_fails_one_line_says_so_and_an_older_film_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
):
    broken = CountingEnv(error)
    monkeypatch.setattr(video, "make_env", lambda task, render_mode: broken)
    path = tmp_path / "film.mp4"
    path.write_bytes(b"older")
    line = video.record("fake", still, [5], path)
    assert line.startswith(
        f"No video: rendering failed ({type(error).__name__}: {error}). On Linux without a screen"
    )
    assert "\n" not in line
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
    assert broken.closed


def test_where_opengl_keeps_the_simulator_from_loading_one_line_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def make_env(task: str, render_mode: str) -> gymnasium.Env:
        raise AttributeError("glGetError")

    monkeypatch.setattr(video, "make_env", make_env)
    line = video.record("fake", still, [5], tmp_path / "film.mp4")
    assert line.startswith("No video: the simulator does not start (AttributeError: glGetError). ")


def test_unknown_task_is_an_error(tmp_path: Path):
    with pytest.raises(OtprError, match="Did you mean 'metaworld/peg-insert-side-v3'"):
        video.record("metaworld/peg-insert-sid-v3", still, [5], tmp_path / "film.mp4")


def test_where_there_is_no_encoder_one_line_says_how_to_get_it(
    env: CountingEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    line = video.record("fake", still, [5], tmp_path / "film.mp4")
    assert line.startswith("No video: there is no ffmpeg (ModuleNotFoundError")
    assert "pip install 'otpr[video]'" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "script",
    ["#!/bin/sh\necho 'no such codec' >&2; exit 1", "#!/bin/sh\ncat; echo 'no such codec' >&2; exit 1"],
)
def test_failing_encoder_is_noticed(
    env: CountingEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
):
    """Whether ffmpeg gives up at once or only at the end."""
    program = tmp_path / "ffmpeg"
    program.write_text(script + "\n")
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    line = video.record("fake", still, [5], tmp_path / "film.mp4")
    assert line.startswith("No video: ffmpeg failed (no such codec). ")
    assert list(tmp_path.iterdir()) == [program]


def test_failing_policy_is_not_mistaken_for_failing_rendering(env: CountingEnv, tmp_path: Path):
    def act(observation: np.ndarray, seed: int) -> np.ndarray:
        raise RuntimeError("a fault of the policy")

    with pytest.raises(RuntimeError, match="a fault of the policy"):
        video.record("fake", act, [5], tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []
    assert env.closed


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="EGL is a matter of Linux")
def test_egl_is_chosen_without_a_screen_and_only_while_filming(
    env: CountingEnv, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    video.record("fake", still, [1], tmp_path / "film.mp4")
    assert set(env.backend) == {"egl"}
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.parametrize(
    ("name", "value", "backend"), [("MUJOCO_GL", "osmesa", "osmesa"), ("DISPLAY", ":0", None)]
)
def test_a_chosen_backend_or_a_screen_is_left_alone(
    env: CountingEnv,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    value: str,
    backend: str | None,
):
    for variable in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    video.record("fake", still, [1], tmp_path / "film.mp4")
    assert set(env.backend) == {backend}


def test_film_without_episodes_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="at least one seed"):
        video.record("fake", still, [], tmp_path / "film.mp4")


@pytest.mark.slow
def test_real_task_is_filmed(tmp_path: Path):
    from otpr.envs import make_env, make_expert

    expert = make_expert("metaworld/peg-insert-side-v3", make_env("metaworld/peg-insert-side-v3"))
    path = tmp_path / "film.mp4"
    line = video.record("metaworld/peg-insert-side-v3", lambda seen, seed: expert.act(seen)[None], [3], path)
    assert line == f"Video: {path} (1 of 1 episodes succeeded)"
    _, frames = decode(path)
    colours = border_colours(frames)
    assert colours[-27:] == ["success"] * 27
    assert set(colours[:-27]) == {"running"}
    inside = frames[0][video.HEADER :, video.BORDER : -video.BORDER]
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) > 500
    # Upright: the wall behind is a flat grey, the floor in front is not.
    assert inside[:40].std() < inside[-80:-20].std() / 2
