"""An offscreen OpenGL context that does not disturb other renderers."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import platform
from collections.abc import Generator
from typing import Any

from otpr.errors import OtprError

_OFF = ("disable", "disabled", "off", "false", "0")
_WINDOWS = ("", "enable", "enabled", "on", "true", "1", "glfw", "glx", "cgl")
"""Values of MUJOCO_GL other than "egl" and "osmesa" that MuJoCo accepts; they select a window system."""

_ADVICE = (
    "On Linux install libegl1 (Debian, Ubuntu: apt-get install libegl1), or install libosmesa6 and set "
    "MUJOCO_GL=osmesa before Python starts. If it is installed, another package may have loaded PyOpenGL for "
    "windows: set PYOPENGL_PLATFORM=egl before Python starts (docs/cameras.md#which-opengl)."
)


class OffscreenContext:
    """A MuJoCo OpenGL context that is current only while something is drawn.

    It uses EGL on Linux, with or without a screen, and CGL on macOS, or OSMesa if MUJOCO_GL=osmesa when the
    context is created. The value of MUJOCO_GL at the import of MuJoCo does not matter.

    The previously current context, or none, is restored afterwards. This matters because Gymnasium's
    renderers draw into the current context, and closing a `mujoco.Renderer` deletes objects of the current
    context. A context must not be used by several threads at once. It lives as long as the process, so create
    only one.

    Raises:
        OtprError: OpenGL does not work (the message says what to install), or MUJOCO_GL has an unknown value
            or forbids rendering.
    """

    def __init__(self) -> None:
        backend = backend_name()
        try:
            module: Any = importlib.import_module(f"mujoco.{backend}")
            with _KEEPERS[backend]():
                self._context: Any = module.GLContext(16, 16)  # frames have their own buffers
        # Implementations fail differently: ImportError, AttributeError, RuntimeError, errors of PyOpenGL, ...
        except Exception as error:
            raise no_opengl(error) from error
        self._keeper = _KEEPERS[backend]
        # Never garbage-collected: other packages may shut EGL down first at the end of the process, and
        # destroying a context then prints a traceback.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))

    @contextlib.contextmanager
    def current(self) -> Generator[None]:
        """Make this context current, and restore the previous one afterwards."""
        with self._keeper():
            self._context.make_current()
            yield


def backend_name() -> str:
    """The MuJoCo module that creates the context: "egl", "osmesa" or "cgl".

    Raises:
        OtprError: MUJOCO_GL has a value that MuJoCo does not know, or one that forbids rendering.
    """
    wish = os.environ.get("MUJOCO_GL", "").lower().strip()
    if wish in _OFF:
        raise OtprError(f"MUJOCO_GL={wish} forbids rendering. Unset it to look through cameras.")
    if wish not in (*_WINDOWS, "egl", "osmesa"):
        raise OtprError(f"MUJOCO_GL must be egl or osmesa, or not be set, for cameras; given {wish!r}.")
    if platform.system() == "Darwin":
        return "cgl"
    return "osmesa" if wish == "osmesa" else "egl"


def no_opengl(error: Exception) -> OtprError:
    """The message for a failure of OpenGL."""
    return OtprError(f"Cameras cannot be rendered here ({type(error).__name__}: {error}). {_ADVICE}")


@contextlib.contextmanager
def _egl_kept() -> Generator[None]:
    """On leaving, make current what was current on entering."""
    mujoco_egl: Any = importlib.import_module("mujoco.egl")
    egl: Any = mujoco_egl.egl_ext
    # Freeing a MuJoCo context switches the thread's API to OpenGL ES, which these contexts do not use.
    egl.eglBindAPI(egl.EGL_OPENGL_API)
    before = (
        egl.eglGetCurrentDisplay(),
        egl.eglGetCurrentSurface(egl.EGL_DRAW),
        egl.eglGetCurrentSurface(egl.EGL_READ),
        egl.eglGetCurrentContext(),
    )
    try:
        yield
    finally:
        egl.eglBindAPI(egl.EGL_OPENGL_API)
        if before[-1]:
            egl.eglMakeCurrent(*before)
        elif egl.eglGetCurrentContext():
            none = (egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)
            egl.eglMakeCurrent(egl.eglGetCurrentDisplay(), *none)


@contextlib.contextmanager
def _osmesa_kept() -> Generator[None]:
    """On leaving, make current what was current on entering."""
    importlib.import_module("mujoco.osmesa")  # selects PyOpenGL's platform
    gl: Any = importlib.import_module("OpenGL.GL")
    osmesa: Any = importlib.import_module("OpenGL.osmesa")
    before = osmesa.OSMesaGetCurrentContext()
    width, height, _, buffer = osmesa.OSMesaGetColorBuffer(before) if before else (0, 0, 0, None)
    try:
        yield
    finally:
        osmesa.OSMesaMakeCurrent(before or None, buffer, gl.GL_FLOAT, width, height)


@contextlib.contextmanager
def _cgl_kept() -> Generator[None]:
    """On leaving, make current what was current on entering."""
    cgl: Any = importlib.import_module("mujoco.cgl.cgl")
    current = cgl._CGL.CGLGetCurrentContext
    current.argtypes, current.restype = (), cgl.CGLContextObj
    before = current()
    try:
        yield
    finally:
        cgl.CGLSetCurrentContext(before)


_KEEPERS: dict[str, Any] = {"egl": _egl_kept, "osmesa": _osmesa_kept, "cgl": _cgl_kept}
