"""An OpenGL context without a window, which leaves the contexts of other renderers alone."""

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
"""Values of MUJOCO_GL, beside "egl" and "osmesa", that MuJoCo takes; they say how windows are made."""

_ADVICE = (
    "On Linux install libegl1 (Debian, Ubuntu: apt-get install libegl1), or install libosmesa6 and set "
    "MUJOCO_GL=osmesa before Python starts. If it is installed, another package may have loaded PyOpenGL for "
    "windows: set PYOPENGL_PLATFORM=egl before Python starts (docs/cameras.md#which-opengl)."
)


class OffscreenContext:
    """An OpenGL context of MuJoCo's, made current only for as long as something is drawn.

    It is one of EGL on Linux, whether or not there is a screen, and of CGL on macOS; with MUJOCO_GL=osmesa,
    as it is when the context is made, one of OSMesa. Nothing depends on whether MUJOCO_GL was set when MuJoCo
    was imported.

    Other renderers in the process are not disturbed: the context that was current before is current again
    afterwards, and where none was, none is. That matters, because Gymnasium's renderers draw into whatever
    context is current, and closing a `mujoco.Renderer` deletes objects of whatever context is current.
    A context must not be used by several threads at once. It lives as long as the process: one is enough.

    Raises:
        OtprError: there is no OpenGL that works (the message says what to install), MUJOCO_GL is set to a
            value that MuJoCo does not know, or it forbids rendering.
    """

    def __init__(self) -> None:
        backend = backend_name()
        try:
            module: Any = importlib.import_module(f"mujoco.{backend}")
            with _KEEPERS[backend]():
                self._context: Any = module.GLContext(16, 16)  # what is drawn has buffers of its own
        # Each OpenGL fails in its own way: ImportError, AttributeError, RuntimeError, errors of PyOpenGL, ...
        except Exception as error:
            raise no_opengl(error) from error
        self._keeper = _KEEPERS[backend]
        # Never collected: at the end of the process other packages may have shut EGL down before, and then
        # destroying a context prints a traceback.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._context))

    @contextlib.contextmanager
    def current(self) -> Generator[None]:
        """Have this context current, and afterwards the one that was current before."""
        with self._keeper():
            self._context.make_current()
            yield


def backend_name() -> str:
    """Which of MuJoCo's modules makes the context: "egl", "osmesa" or "cgl".

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
    """What to tell where OpenGL fails by `error`."""
    return OtprError(f"Cameras cannot be rendered here ({type(error).__name__}: {error}). {_ADVICE}")


@contextlib.contextmanager
def _egl_kept() -> Generator[None]:
    """On leaving, make current what was current on entering."""
    mujoco_egl: Any = importlib.import_module("mujoco.egl")
    egl: Any = mujoco_egl.egl_ext
    # Freeing any context of MuJoCo's makes OpenGL ES the thread's interface, to which none of ours belongs.
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
    importlib.import_module("mujoco.osmesa")  # tells PyOpenGL what to load
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
