"""Frames of named cameras as policies see them, against MuJoCo's renderer with the model's own settings."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable, Generator
from typing import Any

from benchmarks.rows import Row
from benchmarks.sizes import Sizes
from benchmarks.timing import in_turns, medians, ratio
from otpr.envs import make_env
from otpr.envs.cameras import Camera, Eyes, Scene

SUBJECTS = {
    "metaworld/peg-insert-side-v3": "corner2",
    "ogbench/cube-single": "front",
    "robosuite/can": "agentview",
    "fetch/pick-and-place": "external_camera_0",
    "adroit/pen": "fixed",
    "kitchen/mixed": "left_cap",
}
"""A task of each suite, and one of its cameras."""


def rendering(sizes: Sizes) -> list[Row]:
    """Time of a frame of MuJoCo's renderer over that of a policy's, of one camera in one size."""
    os.environ.setdefault("MUJOCO_GL", "egl")  # for MuJoCo's own, which reads it when it is imported
    return [_row(task_id, Camera(name), sizes.frames, sizes.turns) for task_id, name in SUBJECTS.items()]


def _row(task_id: str, camera: Camera, frames: int, turns: int) -> Row:
    with contextlib.closing(make_env(task_id)) as env:
        env.reset(seed=0)
        simulator: Any = env.simulator
        started = time.perf_counter()
        with contextlib.closing(Eyes(simulator.scene, [camera])) as eyes:
            made = time.perf_counter() - started
            with _renderer(simulator.scene(), camera) as render:
                calls = {"default": _times(frames, render), "policy": _times(frames, eyes.look)}
                times = in_turns(calls, turns)
    per_frame = {name: value / frames for name, value in medians(times).items()}
    return Row(
        f"rendering_{task_id.partition('/')[0]}",
        ratio(times["default"], times["policy"]),
        "x",
        "milliseconds a frame of MuJoCo's renderer with the model's own settings / of a policy's",
        per_frame,
        note=f"`{task_id}`, `{camera}`, {1e3 * per_frame['policy']:.1f} ms",
        details={"seconds to make": made},
    )


def _times(count: int, call: Callable[[], Any]) -> Callable[[], None]:
    def repeated() -> None:
        for _ in range(count):
            call()

    return repeated


@contextlib.contextmanager
def _renderer(scene: Scene, camera: Camera) -> Generator[Callable[[], Any]]:
    """MuJoCo's own renderer of a camera: with shadows, reflections, a sky and the model's samples a pixel."""
    mujoco: Any = importlib.import_module("mujoco")
    options = mujoco.MjvOption()
    for group in scene.hidden_groups:
        options.geomgroup[group] = False
    with contextlib.closing(mujoco.Renderer(scene.model, camera.height, camera.width)) as renderer:

        def render() -> Any:
            renderer.update_scene(scene.data, camera.name, options)
            return renderer.render()

        yield render
