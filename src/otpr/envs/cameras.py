"""Small, fast and reproducible frames of a simulator's named cameras, as input of policies.

Frames are rendered without shadows, reflections, antialiasing, haze and sky, because on a CPU these take ten
times as long as the rest. Equal states give equal frames, byte by byte, in any process of one machine.
Another driver or GPU may give different frames.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otpr.envs.opengl import OffscreenContext, no_opengl
from otpr.errors import OtprError, unknown_name

SMALLEST, LARGEST = 16, 1024
"""Bounds of the height and width of a frame, in pixels."""

_LEFT_OUT = ("SHADOW", "REFLECTION", "HAZE", "SKYBOX")
"""MuJoCo's `mjtRndFlag`s that are switched off."""

_UPLOADED = re.compile("(mesh|tex|mat|hfield|skin|flex)_|geom_(type|size|dataid|matid)$")
"""Arrays of a model that are uploaded to OpenGL once, with MuJoCo's context."""


@dataclass(frozen=True)
class Camera:
    """A camera by the simulator's name for it, and the size of its frames.

    Attributes:
        name: e.g. `"corner2"`.
        height: height of a frame in pixels, from 16 to 1024.
        width: width of a frame in pixels, from 16 to 1024.

    Raises:
        OtprError: the name is empty, or the size is out of range.
    """

    name: str
    height: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        """Check name and size."""
        if not self.name:
            raise OtprError("A camera needs a name, e.g. 'corner2'; given an empty one.")
        if not all(SMALLEST <= size <= LARGEST for size in (self.height, self.width)):
            raise OtprError(
                f"The frames of a camera are {SMALLEST} to {LARGEST} pixels high and wide; given "
                f"{self.height} x {self.width} for {self.name!r}."
            )

    @classmethod
    def parse(cls, text: str) -> Camera:
        """Parse `"NAME"` or `"NAME:HEIGHTxWIDTH"`, e.g. `"corner2:64x64"`.

        Raises:
            OtprError: the text has another form, or the size is out of range.
        """
        name, colon, size = text.partition(":")
        match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", size)
        if not name or (colon and not match):
            raise OtprError(
                "A camera is written NAME or NAME:HEIGHTxWIDTH, e.g. 'corner2' or 'corner2:64x64'; "
                f"given {text!r}."
            )
        return cls(name, int(match[1]), int(match[2])) if match else cls(name)

    def __str__(self) -> str:
        """The camera in the form that `parse` reads, with the size."""
        return f"{self.name}:{self.height}x{self.width}"


@dataclass(frozen=True)
class Scene:
    """A simulator's scene for rendering.

    Attributes:
        model: the simulator's `mujoco.MjModel`.
        data: the simulator's `mujoco.MjData`.
        hidden_groups: groups of geoms that are not drawn, e.g. collision shapes.
        upside_down: cameras mounted upside down, whose frames are rotated by 180 degrees.
        prepare: called before each rendering; it must not change the simulation.
    """

    model: Any
    data: Any
    hidden_groups: tuple[int, ...] = ()
    upside_down: frozenset[str] = frozenset()
    prepare: Callable[[], None] | None = None


def camera_names(scene: Scene) -> tuple[str, ...]:
    """The cameras that have a name, in the model's order."""
    names = (scene.model.camera(index).name for index in range(scene.model.ncam))
    return tuple(name for name in names if name)


class Eyes:
    """Renders cameras of one simulator.

    A simulator may replace its model or data, e.g. at a reset, so `scene` is called at every rendering. A new
    model object is uploaded to OpenGL again unless its meshes and textures are there already.

    All Eyes of a process share one OpenGL context and must be used from one thread. They also share uploads
    of models with the same meshes, textures and materials, such as those of one task: 10 to 200 MB, which
    take about a second to upload. Other renderers are not disturbed (see `OffscreenContext`).

    Args:
        scene: returns the scene to render; a simulator's `scene`.
        cameras: at least one, none named twice.

    Raises:
        OtprError: a camera is unknown (the message suggests the nearest names) or named twice, none is given,
            or OpenGL is missing (the message says what to install).
    """

    def __init__(self, scene: Callable[[], Scene], cameras: Sequence[Camera]) -> None:
        names = [camera.name for camera in cameras]
        if not names:
            raise OtprError("Nothing can be seen without a camera: name at least one.")
        if twice := [name for name in names if names.count(name) > 1]:
            raise OtprError(f"The camera {twice[0]!r} is named twice; name each once, with one size.")
        self.cameras = tuple(cameras)
        self._scene = scene
        self._shared: _Shared | None = None
        self._open(scene())

    def _open(self, scene: Scene) -> None:
        """Prepare the rendering of a scene with a new model."""
        mujoco: Any = importlib.import_module("mujoco")
        known = camera_names(scene)
        for camera in self.cameras:
            if camera.name not in known:
                raise unknown_name("camera", camera.name, known)
        height = max(camera.height for camera in self.cameras)
        width = max(camera.width for camera in self.cameras)
        shared = _shared()
        upload = shared.upload(scene.model, height, width)
        self.close()  # after the new upload, because the two models may share one
        self._shared, self._upload, self._model = shared, upload, scene.model
        # Capacity for everything that MuJoCo draws by default: geoms, sites, lines of tendons and
        # rangefinders.
        model = scene.model
        room = model.ngeom + model.nsite + 2 * model.nwrap + model.nsensor + 100
        self._drawn = mujoco.MjvScene(model, room)
        for flag in _LEFT_OUT:
            self._drawn.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = False
        self._options = mujoco.MjvOption()
        for group in scene.hidden_groups:
            self._options.geomgroup[group] = False
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED

    def look(self) -> dict[str, NDArray[np.uint8]]:
        """Render each camera: (height, width, 3), upright, by the camera's name.

        Raises:
            RuntimeError: the Eyes are closed.
            OtprError: the simulator has a new model, which lacks a camera.
        """
        if self._shared is None:
            raise RuntimeError("These eyes are closed: make others.")
        scene = self._scene()
        if scene.model is not self._model:
            self._open(scene)
        if scene.prepare is not None:
            scene.prepare()
        with self._shared.current():
            return {camera.name: self._frame(scene, camera) for camera in self.cameras}

    def _frame(self, scene: Scene, camera: Camera) -> NDArray[np.uint8]:
        mujoco: Any = importlib.import_module("mujoco")
        context, size = self._upload.context, mujoco.MjrRect(0, 0, camera.width, camera.height)
        self._view.fixedcamid = scene.model.camera(camera.name).id
        mujoco.mjv_updateScene(
            scene.model, scene.data, self._options, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._drawn
        )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        mujoco.mjr_render(size, self._drawn, context)
        pixels = np.empty((camera.height, camera.width, 3), np.uint8)
        mujoco.mjr_readPixels(pixels, None, size, context)
        # OGBench has a light that OpenGL rejects. Clear the error, or the next upload would report it.
        mujoco.mjr_getError()
        # OpenGL's rows run upwards.
        upright = pixels[:, ::-1] if camera.name in scene.upside_down else pixels[::-1]
        return np.ascontiguousarray(upright)

    def close(self) -> None:
        """Free all resources; may be called repeatedly."""
        if self._shared is not None:
            self._shared.release(self._upload)
            self._shared = None


@dataclass
class _Upload:
    """A MuJoCo context with meshes and textures, and the number of Eyes that use it."""

    key: bytes
    context: Any
    users: int = 0


class _Shared:
    """The OpenGL context and the uploads that all Eyes of a process share."""

    def __init__(self) -> None:
        self._opengl = OffscreenContext()
        self._uploads: dict[bytes, _Upload] = {}

    def current(self) -> contextlib.AbstractContextManager[None]:
        """See `OffscreenContext.current`."""
        return self._opengl.current()

    def upload(self, model: Any, height: int, width: int) -> _Upload:
        """An upload for a model and frames up to a size. The caller releases it."""
        mujoco: Any = importlib.import_module("mujoco")
        with _plain(model, height, width), self.current():
            key = _fingerprint(model)
            if key not in self._uploads:
                try:
                    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
                except mujoco.FatalError as error:
                    raise no_opengl(error) from error
                self._uploads[key] = _Upload(key, context)
        upload = self._uploads[key]
        upload.users += 1
        return upload

    def release(self, upload: _Upload) -> None:
        """Release an upload; the last user frees it."""
        upload.users -= 1
        if not upload.users:
            del self._uploads[upload.key]
            with self.current():
                upload.context.free()


@functools.cache
def _shared() -> _Shared:
    return _Shared()


@contextlib.contextmanager
def _plain(model: Any, height: int, width: int) -> Generator[None]:
    """Temporarily make a model request small buffers without shadows and antialiasing.

    The buffers are created with MuJoCo's context and keep their sizes.
    """
    wanted = [
        (model.vis.quality, {"offsamples": 0, "shadowsize": 0}),
        (model.vis.global_, {"offheight": height, "offwidth": width}),
    ]
    before = [(part, {name: getattr(part, name) for name in values}) for part, values in wanted]
    try:
        _set(wanted)
        yield
    finally:
        _set(before)


def _set(parts: Sequence[tuple[Any, dict[str, int]]]) -> None:
    for part, values in parts:
        for name, value in values.items():
            setattr(part, name, value)


def _fingerprint(model: Any) -> bytes:
    """A fingerprint that is equal for models with equal contexts."""
    digest = hashlib.blake2b(digest_size=16)
    visual = model.vis
    for settings in (visual.global_, visual.map, visual.quality, visual.rgba, model.stat):
        digest.update(repr(settings).encode())
    for name in filter(_UPLOADED.match, dir(model)):
        array = np.ascontiguousarray(getattr(model, name))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.digest()
