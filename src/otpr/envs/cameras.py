"""What a policy sees of a simulator: small frames of named cameras, quick to render and reproducible.

A renderer of films draws shadows, reflections and smooth edges, which on a processor take ten times as long
as the rest. These frames have none of them, nor haze or a sky. Equal states give equal frames, byte by byte,
in any process of one machine; another driver or GPU may give others.
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
"""Of MuJoCo's `mjtRndFlag`s: what is not drawn."""

_UPLOADED = re.compile("(mesh|tex|mat|hfield|skin|flex)_|geom_(type|size|dataid|matid)$")
"""Arrays of a model that OpenGL is given once, when a context of MuJoCo's is made."""


@dataclass(frozen=True)
class Camera:
    """A camera, by the simulator's own name for it, and the size of its frames.

    Attributes:
        name: e.g. `"corner2"`.
        height: of a frame, in pixels, from 16 to 1024.
        width: likewise.

    Raises:
        OtprError: the name is empty, or the size is out of its range.
    """

    name: str
    height: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        """Refuse what no camera is."""
        if not self.name:
            raise OtprError("A camera needs a name, e.g. 'corner2'; given an empty one.")
        if not all(SMALLEST <= size <= LARGEST for size in (self.height, self.width)):
            raise OtprError(
                f"The frames of a camera are {SMALLEST} to {LARGEST} pixels high and wide; given "
                f"{self.height} x {self.width} for {self.name!r}."
            )

    @classmethod
    def parse(cls, text: str) -> Camera:
        """From `"NAME"` or `"NAME:HEIGHTxWIDTH"`, e.g. `"corner2:64x64"`.

        Raises:
            OtprError: it is written otherwise, or the size is out of its range.
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
        """As `parse` reads it, with the size."""
        return f"{self.name}:{self.height}x{self.width}"


@dataclass(frozen=True)
class Scene:
    """What a simulator offers to be rendered.

    Attributes:
        model: its `mujoco.MjModel`.
        data: its `mujoco.MjData`.
        hidden_groups: groups of geoms that are not drawn, e.g. collision shapes.
        upside_down: cameras that hang upside down: their frames are turned by half a turn.
        prepare: done before each look; it must not change the simulation.
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

    A simulator may replace its model or its data, at a reset say: `scene` is asked at every look. A model
    that is another object than the last one is uploaded to OpenGL anew, unless its meshes and textures are
    there already.

    The Eyes of a process share one OpenGL context, so they are for one thread, and what is uploaded for
    models with the same meshes, textures and materials, as the simulators of one task have: 10 to 200 MB, and
    about a second to make. Other renderers are not disturbed (see `OffscreenContext`).

    Args:
        scene: gives what the simulator has to be rendered now; a simulator's `scene`.
        cameras: at least one, none named twice.

    Raises:
        OtprError: a camera is unknown (the message has the nearest names) or named twice, none is given, or
            there is no OpenGL (the message says what to install).
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
        """Be ready to render a scene of another model than before."""
        mujoco: Any = importlib.import_module("mujoco")
        known = camera_names(scene)
        for camera in self.cameras:
            if camera.name not in known:
                raise unknown_name("camera", camera.name, known)
        height = max(camera.height for camera in self.cameras)
        width = max(camera.width for camera in self.cameras)
        shared = _shared()
        upload = shared.upload(scene.model, height, width)
        self.close()  # only now: the two models may share an upload
        self._shared, self._upload, self._model = shared, upload, scene.model
        # Room for all that MuJoCo draws unasked: geoms, sites, lines of tendons and of range finders.
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
        """What each camera sees now: (height, width, 3), upright, by the camera's name.

        Raises:
            RuntimeError: they are closed.
            OtprError: the simulator has another model than before, and that has not these cameras.
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
        # OGBench has a light that OpenGL refuses. Forget it: the next upload would be warned of it.
        mujoco.mjr_getError()
        # OpenGL's rows go up.
        upright = pixels[:, ::-1] if camera.name in scene.upside_down else pixels[::-1]
        return np.ascontiguousarray(upright)

    def close(self) -> None:
        """Free what they hold; it may be repeated."""
        if self._shared is not None:
            self._shared.release(self._upload)
            self._shared = None


@dataclass
class _Upload:
    """A context of MuJoCo's, which has meshes and textures, and how many Eyes use it."""

    key: bytes
    context: Any
    users: int = 0


class _Shared:
    """What the Eyes of this process share: an OpenGL context, and in it what they have uploaded."""

    def __init__(self) -> None:
        self._opengl = OffscreenContext()
        self._uploads: dict[bytes, _Upload] = {}

    def current(self) -> contextlib.AbstractContextManager[None]:
        """See `OffscreenContext.current`."""
        return self._opengl.current()

    def upload(self, model: Any, height: int, width: int) -> _Upload:
        """What suits a model and frames up to that size; to be released."""
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
        """Free it with its last user."""
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
    """Have a model ask for small buffers without shadows and smooth edges, for the time being.

    They are made with a context of MuJoCo's, and then stay as they are.
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
    """Equal for models that make equal contexts."""
    digest = hashlib.blake2b(digest_size=16)
    visual = model.vis
    for settings in (visual.global_, visual.map, visual.quality, visual.rgba, model.stat):
        digest.update(repr(settings).encode())
    for name in filter(_UPLOADED.match, dir(model)):
        array = np.ascontiguousarray(getattr(model, name))
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.digest()
