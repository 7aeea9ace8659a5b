"""Frames against closed forms, against themselves in other processes, and beside other renderers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from otpr.envs import make_env
from otpr.envs.cameras import Camera, Eyes, Scene, _shared, camera_names
from otpr.envs.opengl import OffscreenContext, backend_name
from otpr.errors import OtprError

ROOT = Path(__file__).parents[2]

try:
    _shared()
    why_not = ""
except OtprError as error:
    why_not = str(error)
needs_opengl = pytest.mark.skipif(bool(why_not), reason=why_not)

# ---------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize("text", ["corner2", "corner2:64x64", "robot0_eye_in_hand:16x1024", "a/b.c-d:100x17"])
def test_a_camera_is_written_as_it_is_read(text: str) -> None:
    camera = Camera.parse(text)
    assert str(camera) == (text if ":" in text else f"{text}:64x64")
    assert Camera.parse(str(camera)) == camera
    assert camera.name == text.split(":")[0]


def test_height_comes_first() -> None:
    assert Camera.parse("front:32x48") == Camera("front", height=32, width=48)


@pytest.mark.parametrize(
    "text", ["", ":64x64", "front:", "front:64", "front:64x", "front:64X64", "front:-64x64", "front:64x64:2"]
)
def test_what_is_no_camera_is_refused(text: str) -> None:
    with pytest.raises(OtprError, match="NAME:HEIGHTxWIDTH"):
        Camera.parse(text)


@pytest.mark.parametrize("size", ["15x64", "64x15", "1025x64", "64x1025", "0x0", "999999999x64"])
def test_sizes_out_of_range_are_refused(size: str) -> None:
    with pytest.raises(OtprError, match="16 to 1024 pixels"):
        Camera.parse(f"front:{size}")


# ------------------------------------------------------------------------------- a small model, closed forms

MODEL = """
<mujoco>
  <visual>
    <headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/>
    <global offwidth="200" offheight="100"/>
    <quality offsamples="4" shadowsize="256"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" rgb1="0 1 0" width="8" height="8"/>
    <texture name="checks" type="2d" builtin="checker" rgb1="1 1 1" rgb2="{dark}" width="64" height="64"/>
    <material name="checks" texture="checks"/>
  </asset>
  <worldbody>
    <camera name="front" pos="0 -2 0" xyaxes="1 0 0 0 0 1" fovy="45"/>
    <camera name="hung" pos="0 -2 0" xyaxes="-1 0 0 0 0 -1" fovy="45"/>
    <camera pos="0 0 2"/>
    <camera name="far" pos="1.2 -2.5 1" xyaxes="1 .4 0 -.1 .2 1" fovy="45"/>
    <body pos="0.31 0 0.27"><joint name="up" type="slide" axis="0 0 1"/>
      <geom type="box" size=".23 .0002 .12" rgba="1 0 0 1" mass="1"/></body>
    <geom type="box" pos="-.5 0 -.3" size=".1 .0002 .1" rgba="0 0 1 1" group="1"/>
    <geom type="plane" pos="0 0 -.8" size="2 2 .1" material="checks"/>
    <site name="mark" type="sphere" pos="0 0 5" size=".05" rgba="1 1 0 1"/>
  </worldbody>
</mujoco>
"""


class Toy:
    """A simulator of a red and a blue box over a floor."""

    def __init__(self, dark: str = "0 0 0", **options: Any) -> None:
        self.options = options
        self.build(dark)

    def build(self, dark: str = "0 0 0") -> None:
        self.model: Any = mujoco.MjModel.from_xml_string(MODEL.format(dark=dark))
        self.data: Any = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)

    def scene(self) -> Scene:
        return Scene(self.model, self.data, **self.options)

    def move(self, up: float) -> None:
        self.data.qpos[0] = up
        mujoco.mj_forward(self.model, self.data)


@pytest.fixture
def opened() -> Iterator[Any]:
    """Makes Eyes that are closed at the end, whereupon nothing is left in OpenGL."""
    made: list[Eyes] = []

    def opened(toy: Toy, *cameras: str) -> Eyes:
        made.append(Eyes(toy.scene, [Camera.parse(text) for text in cameras]))
        return made[-1]

    yield opened
    for eyes in made:
        eyes.close()
    assert not _shared()._uploads


def projected(height: int, width: int, centre: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """Which pixels' centres see an upright rectangle, 2 m before the camera "front": a pinhole's (h, w)."""
    metres_a_pixel = 2 * 2 * np.tan(np.radians(45 / 2)) / height
    x = (np.arange(width) + 0.5 - width / 2) * metres_a_pixel
    z = (height / 2 - np.arange(height) - 0.5) * metres_a_pixel
    inside = (np.abs(x - centre[0]) < half[0])[None, :], (np.abs(z - centre[1]) < half[1])[:, None]
    return inside[0] & inside[1]


def is_colour(frame: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (frame == np.array(colour, np.uint8)).all(-1)


@needs_opengl
class TestFrames:
    @pytest.mark.parametrize("size", [(64, 64), (50, 31), (16, 120), (300, 400)])
    def test_things_are_where_a_pinhole_sees_them(self, opened: Any, size: tuple[int, int]) -> None:
        toy = Toy()
        eyes = opened(toy, f"front:{size[0]}x{size[1]}")
        for up in (0.0, 0.11):
            toy.move(up)
            frame = eyes.look()["front"]
            assert (frame.shape, frame.dtype, frame.flags.c_contiguous) == ((*size, 3), np.uint8, True)
            red = projected(*size, (0.31, 0.27 + up), (0.23, 0.12))
            np.testing.assert_array_equal(is_colour(frame, (255, 0, 0)), red)
            np.testing.assert_array_equal(
                is_colour(frame, (0, 0, 255)), projected(*size, (-0.5, -0.3), (0.1, 0.1))
            )
            assert red.any()

    def test_where_nothing_is_it_is_black(self, opened: Any) -> None:
        frame = opened(Toy(), "front").look()["front"]
        assert is_colour(frame[:20, :20], (0, 0, 0)).all()  # the model's sky is green
        assert not is_colour(frame[-10:], (0, 0, 0)).all()  # the floor

    def test_a_camera_that_hangs_upside_down_is_turned(self, opened: Any) -> None:
        as_it_hangs = opened(Toy(), "front", "hung").look()
        np.testing.assert_array_equal(
            is_colour(as_it_hangs["hung"], (255, 0, 0))[::-1, ::-1],
            is_colour(as_it_hangs["front"], (255, 0, 0)),
        )
        turned = opened(Toy(upside_down=frozenset({"hung"})), "front", "hung").look()
        np.testing.assert_array_equal(turned["front"], as_it_hangs["front"])
        np.testing.assert_array_equal(turned["hung"], as_it_hangs["hung"][::-1, ::-1])
        assert turned["hung"].flags.c_contiguous

    def test_groups_are_hidden(self, opened: Any) -> None:
        frame = opened(Toy(hidden_groups=(1,)), "front").look()["front"]
        assert not is_colour(frame, (0, 0, 255)).any()
        assert is_colour(frame, (255, 0, 0)).any()

    def test_preparing_comes_before_each_look(self, opened: Any) -> None:
        toy = Toy()
        heights = iter([0.0, 0.2])
        toy.options["prepare"] = lambda: toy.data.site("mark").xpos.__setitem__(
            slice(None), [-0.3, 0, next(heights)]
        )
        eyes = opened(toy, "front", "far")
        for height in (0.0, 0.2):
            rows, columns = np.nonzero(is_colour(eyes.look()["front"], (255, 255, 0)))
            centre = projected(64, 64, (-0.3, height), (0.03, 0.03)).nonzero()
            assert abs(rows.mean() - centre[0].mean()) < 0.6 and abs(columns.mean() - centre[1].mean()) < 0.6

    def test_a_camera_sees_the_same_alone_and_beside_others(self, opened: Any) -> None:
        toy = Toy()
        together = opened(toy, "far:40x56", "hung:90x16", "front:200x300").look()
        assert list(together) == ["far", "hung", "front"]
        for camera in ("far:40x56", "hung:90x16", "front:200x300"):
            ((name, alone),) = opened(toy, camera).look().items()
            np.testing.assert_array_equal(alone, together[name])

    def test_a_model_that_is_replaced_is_seen(self, opened: Any) -> None:
        toy, fresh = Toy(), Toy("1 0 1")
        eyes = opened(toy, "far")
        before = eyes.look()["far"]
        (upload,) = _shared()._uploads.values()
        toy.build()
        np.testing.assert_array_equal(eyes.look()["far"], before)
        assert list(_shared()._uploads.values()) == [upload]
        toy.build("1 0 1")
        np.testing.assert_array_equal(eyes.look()["far"], opened(fresh, "far").look()["far"])
        assert (eyes.look()["far"] != before).any()

    def test_the_model_is_left_as_it_was(self, opened: Any) -> None:
        toy = Toy()
        asked = [repr(part) for part in (toy.model.vis.quality, toy.model.vis.global_)]
        opened(toy, "far").look()
        assert [repr(part) for part in (toy.model.vis.quality, toy.model.vis.global_)] == asked

    def test_what_equal_models_upload_is_shared_and_others_is_not(self, opened: Any) -> None:
        equal, other = (Toy(), Toy()), Toy(dark="1 0 1")
        equal[1].move(0.1)
        seen = []
        for toy, uploads in ((equal[0], 1), (equal[1], 1), (other, 2)):
            seen.append((opened(toy, "far"), toy))
            assert len(_shared()._uploads) == uploads
        opened(equal[0], "far:65x64")
        assert len(_shared()._uploads) == 3
        together = [eyes.look()["far"] for eyes, _ in seen]
        for eyes, _ in seen:
            eyes.close()
        for frame, (_, toy) in zip(together, seen, strict=True):
            np.testing.assert_array_equal(opened(toy, "far").look()["far"], frame)
        assert len({frame.tobytes() for frame in together}) == 3


@needs_opengl
class TestErrors:
    def test_unknown_cameras_are_answered_with_near_ones(self, opened: Any) -> None:
        with pytest.raises(OtprError, match=r"Unknown camera 'frnt'\. Did you mean 'front'"):
            opened(Toy(), "far", "frnt")
        with pytest.raises(OtprError, match="Known: far, front, hung"):
            opened(Toy(), "xyz")

    def test_none_and_twice(self, opened: Any) -> None:
        with pytest.raises(OtprError, match="at least one"):
            opened(Toy())
        with pytest.raises(OtprError, match="'far' is named twice"):
            opened(Toy(), "far", "front", "far:32x32")

    def test_closed_eyes_see_nothing(self) -> None:
        eyes = Eyes(Toy().scene, [Camera("far")])
        eyes.close()
        eyes.close()
        with pytest.raises(RuntimeError, match="closed"):
            eyes.look()

    def test_a_new_model_without_the_camera(self, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        toy = Toy()
        eyes = opened(toy, "far")
        monkeypatch.setattr(sys.modules[__name__], "MODEL", MODEL.replace('name="far"', 'name="near"'))
        toy.build()
        with pytest.raises(OtprError, match="Unknown camera 'far'"):
            eyes.look()


def test_nameless_cameras_are_not_offered() -> None:
    assert camera_names(Toy().scene()) == ("front", "hung", "far")


@pytest.mark.parametrize("wish", ["off", "disable", "0", "False"])
def test_mujoco_gl_may_forbid_rendering(monkeypatch: pytest.MonkeyPatch, wish: str) -> None:
    monkeypatch.setenv("MUJOCO_GL", wish)
    with pytest.raises(OtprError, match=f"MUJOCO_GL={wish.lower()} forbids rendering"):
        OffscreenContext()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other backends")
@pytest.mark.parametrize(
    ("wish", "backend"), [(None, "egl"), ("", "egl"), ("EGL", "egl"), ("glfw", "egl"), (" osmesa", "osmesa")]
)
@pytest.mark.parametrize("display", [None, ":0"])
def test_the_backend(
    monkeypatch: pytest.MonkeyPatch, wish: str | None, backend: str, display: str | None
) -> None:
    for name, value in (("MUJOCO_GL", wish), ("DISPLAY", display)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert backend_name() == backend


def test_a_backend_that_nobody_knows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(OtprError, match="must be egl or osmesa, or not be set, for cameras; given 'vulkan'"):
        OffscreenContext()


# ------------------------------------------------------------------------------------- in other processes


def python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    }
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**kept, **environment},
    )


WITHOUT_EGL = """
import os
from otpr.envs import make_env
from otpr.envs.cameras import Camera, Eyes
from otpr.errors import OtprError
env = make_env("fetch/push")
os.environ["PYOPENGL_PLATFORM"] = "glx"
for _ in range(2):
    try:
        Eyes(env.simulator.scene, [Camera("external_camera_0")])
    except OtprError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other backends")
def test_where_egl_does_not_load_the_error_says_what_to_install() -> None:
    result = python(WITHOUT_EGL)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith(
            "Cameras cannot be rendered here (ImportError: Cannot use EGL rendering platform"
        )
        assert "install libegl1" in line


DIGEST = """
from tests.envs.test_cameras import digests
print(*digests())
"""
SEEN = [("fetch/pick-and-place", "external_camera_0"), ("metaworld/push-v3", "corner2")]


def random_actions(env: Any, steps: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)


def digests() -> list[str]:
    """Of a few frames of each task."""
    found = []
    for task_id, camera in SEEN:
        env = make_env(task_id)
        eyes = Eyes(env.simulator.scene, [Camera(camera, 64, 80)])
        env.reset(seed=3)
        frames = [eyes.look()[camera]]
        for action in random_actions(env, 5):
            env.step(action)
            frames.append(eyes.look()[camera])
        eyes.close()
        env.close()
        assert len({frame.tobytes() for frame in frames}) == len(frames)
        found.append(hashlib.sha256(b"".join(frame.tobytes() for frame in frames)).hexdigest())
    return found


@needs_opengl
def test_another_process_sees_the_same() -> None:
    result = python(DIGEST)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == digests()


LEFT_OPEN = """
import atexit, mujoco.egl
from tests.envs.test_cameras import Toy
from otpr.envs.cameras import Camera, Eyes
eyes = Eyes(Toy().scene, [Camera("far")])
eyes.look()
# as packages do that have a display of their own for rendering
atexit.register(mujoco.egl.egl_ext.eglTerminate, mujoco.egl.EGL_DISPLAY)
"""


@needs_opengl
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other backends")
def test_a_process_ends_silently_with_its_eyes_open() -> None:
    result = python(LEFT_OPEN)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


# Two films, one by Gymnasium's renderer and one by MuJoCo's, with and without eyes in the same process.
FILMS = """
import contextlib, json, sys
import mujoco, numpy as np
from otpr.envs import make_env
from otpr.envs.cameras import Camera, Eyes
from tests.envs.test_cameras import Toy, random_actions

def looks(eyes, looking):
    return [one.look() for one in eyes] if looking else []

def films(looking):
    toys, env, other = [Toy(), Toy()], make_env("fetch/push", "rgb_array"), make_env("fetch/push")
    for seed, one in enumerate((env, other)):
        one.reset(seed=seed)
    eyes = []
    if looking:  # before the renderers are made
        eyes.append(Eyes(toys[0].scene, [Camera("far")]))
        looks(eyes, looking)
    renderer = mujoco.Renderer(toys[0].model, 64, 96)
    frames = []
    for step, action in enumerate(random_actions(env, 4)):
        looks(eyes, looking)
        frames.append(env.render())
        looks(eyes, looking)
        renderer.update_scene(toys[0].data, "far")
        looks(eyes, looking)
        frames.append(renderer.render().copy())
        if looking and step == 1:  # after the renderers were made
            eyes.append(Eyes(other.simulator.scene, [Camera("external_camera_0", 100, 100)]))
            eyes.append(Eyes(env.simulator.scene, [Camera("external_camera_0")]))
        if looking and step == 2:
            eyes.pop().close()
        env.step(action)
        toys[0].move(0.05 * (step + 1))
    before = looks(eyes, looking)
    renderer.close()
    between = looks(eyes, looking)
    env.close()
    after = looks(eyes, looking)
    for one in eyes:
        one.close()
    return frames, [before, between, after]

plain, _ = films(False)
watched, seen = films(True)
print(json.dumps({
    "films": [bool((one == other).all()) for one, other in zip(plain, watched, strict=True)],
    "still": len({frame.tobytes() for frame in plain}) < len(plain),
    "eyes": [bool((one[name] == other[name]).all()) for look in seen[1:]
             for one, other in zip(seen[0], look, strict=True) for name in one],
    "dark": [int(frame.max()) for look in seen for one in look for frame in one.values()],
}))
"""


@needs_opengl
def test_films_in_the_same_process_are_the_same_and_do_not_blind_the_eyes() -> None:
    result = python(FILMS, MUJOCO_GL=backend_name())
    assert (result.returncode, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert found["films"] == [True] * 8
    assert not found["still"]
    assert found["eyes"] == [True] * 4
    assert min(found["dark"]) > 200


# ---------------------------------------------------------------------------------------- every simulator

LIGHT = ["adroit/relocate", "fetch/slide", "metaworld/door-open-v3"]
HEAVY = ["kitchen/mixed", "ogbench/scene-task1", "robosuite/lift"]
ALL = [*LIGHT, *(pytest.param(task_id, marks=pytest.mark.slow) for task_id in HEAVY)]


@needs_opengl
@pytest.mark.parametrize("task_id", ALL)
def test_looking_changes_nothing_and_a_seed_fixes_what_is_seen(task_id: str) -> None:
    env = make_env(task_id)

    def episode(seed: int, eyes: Eyes | None) -> tuple[np.ndarray, list[bytes]]:
        observations, frames = [env.reset(seed=seed)[0]], []
        for action in [None, *random_actions(env, 12)]:
            if action is not None:
                observations.append(env.step(action)[0])
            if eyes is not None:
                frames += [frame.tobytes() for frame in eyes.look().values()]
        return np.stack(observations), frames

    unseen, _ = episode(5, None)
    names = camera_names(env.simulator.scene())[:2]
    eyes = Eyes(env.simulator.scene, [Camera(name) for name in names])
    seen, frames = episode(5, eyes)
    np.testing.assert_array_equal(seen, unseen)
    episode(6, eyes)
    again, same_frames = episode(5, eyes)
    np.testing.assert_array_equal(again, unseen)
    assert same_frames == frames
    assert len(set(frames)) > len(frames) / 2
    eyes.close()
    env.close()


def documented(suite: str) -> dict[str, list[str]]:
    """The cameras of a suite as docs/cameras.md lists them: by task, or "all"."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "cameras.md").read_text().splitlines()
        if line.startswith(f"| `{suite}")
    ]
    return {row[0].strip("`"): [name.strip(" `") for name in row[1].split(",")] for row in rows}


OTHER_LISTS = [f"robosuite/{name}" for name in ("can", "square", "tool-hang", "transport")]


@pytest.mark.parametrize(
    "task_id",
    ["adroit/pen", *ALL, *(pytest.param(task_id, marks=pytest.mark.slow) for task_id in OTHER_LISTS)],
)
def test_cameras_are_listed_and_those_that_hang_upside_down_are_turned(task_id: str) -> None:
    env = make_env(task_id)
    scene = env.simulator.scene()  # before the first reset
    env.reset(seed=0)
    listed = documented(task_id.split("/")[0])
    assert list(camera_names(scene)) == listed.get(task_id, listed.get(task_id.split("/")[0]))
    scene = env.simulator.scene()
    upwards = {
        name: scene.data.cam_xmat[scene.model.camera(name).id].reshape(3, 3)[2, 1]
        for name in camera_names(scene)
    }
    assert {name for name, up in upwards.items() if up < -0.2} == set(scene.upside_down)
    env.close()
