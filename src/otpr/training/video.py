"""Videos of policies."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import gymnasium
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from otpr.envs import Setup, make_env
from otpr.policies.acting import recent
from otpr.storage import writing
from otpr.training.progress import Progress

FRAMES_PER_SECOND = 30
"""Largest frame rate; a software renderer takes a quarter of a second for each frame."""

HOLD_SECONDS = 1.0
"""Seconds for which the last frame of an episode is shown with its outcome."""

BORDER, HEADER = 8, 24
"""Width of the border that shows the outcome, and height of its upper side with the text; in pixels."""

RUNNING, SUCCESS, FAILURE = (64, 64, 64), (0, 158, 115), (213, 94, 0)
"""Colours of the border, from a colour-blind safe palette."""

_ADVICE = (
    "On Linux without a screen install libegl1 (MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa); "
    "`pip install 'otpr[video]'` brings the encoder."
)

Frame = np.ndarray
Act = Callable[[Any, int], np.ndarray]


class _NoVideoError(Exception):
    """Rendering or encoding does not work on this machine; the message says why."""


def record(
    task: str | Setup,
    act: Act,
    seeds: Sequence[int],
    path: str | Path,
    *,
    history: int = 1,
) -> str:
    """Film one episode from each seed into one MP4, at the speed of the simulation.

    The border is grey while an episode runs; its last frame stays for a second, with "success" in green or
    "failure" in orange.

    Args:
        task: a task of `otpr.envs`.
        act: the policy, as `Policy.act`: from what it sees and an integer seed to the actions to execute,
            (execute, action_dim). For decision k of an episode the seed is `decision_seed(episode seed, k)`.
        seeds: reset seeds, one an episode.
        path: where the MP4 goes; the folder is made, an older film is replaced.
        history: how many observations the policy sees.

    Returns:
        One line to show: where the film is and how its episodes ended, or why there is none and how to get
        it.

    Raises:
        OtprError: the task is unknown or its simulator is missing, or the folder cannot be made.
        ValueError: no seeds are given.
    """
    if not seeds:
        raise ValueError("A film needs at least one seed.")
    path = Path(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".part-{path.name}")  # ffmpeg knows the format by the ending
    outcomes: list[bool] = []
    try:
        with (
            _rendering_backend(),
            contextlib.closing(_make_env(task)) as env,
            _Film(scratch, env.metadata["render_fps"]) as film,
            Progress(len(seeds), "filming", "episodes", closing_line=False) as progress,
        ):
            for number, seed in enumerate(seeds, start=1):
                label = f"{number}/{len(seeds)}"
                outcomes.append(_film_episode(env, act, history, seed, label, film))
                progress.advance()
        os.replace(scratch, path)
    except _NoVideoError as error:
        return f"No video: {error}. {_ADVICE}"
    finally:
        scratch.unlink(missing_ok=True)
    return f"Video: {path} ({sum(outcomes)} of {len(outcomes)} episodes succeeded)"


def decision_seed(episode_seed: int, decision: int) -> int:
    """The policy's seed, in [0, 2**31), for a decision (from 0) of the episode from `episode_seed`."""
    return (episode_seed + 1_000_003 * decision) % 2**31


def _film_episode(env: gymnasium.Env, act: Act, history: int, seed: int, label: str, film: _Film) -> bool:
    """Run one episode into `film`; whether it succeeded."""
    observation, _ = env.reset(seed=seed)
    film.add(_framed(_render(env), RUNNING, label))
    seen = [observation]
    step = decision = 0
    while True:
        for action in np.asarray(act(recent(seen, history), decision_seed(seed, decision))):
            observation, _, terminated, truncated, info = env.step(action)
            seen = [*seen, observation][-history:]
            step += 1
            if terminated or truncated:
                success = bool(info["success"])
                colour, outcome = (SUCCESS, "success") if success else (FAILURE, "failure")
                film.add(_framed(_render(env), colour, f"{label} {outcome}"), HOLD_SECONDS)
                return success
            if step % film.stride == 0:
                film.add(_framed(_render(env), RUNNING, label))
        decision += 1


def _make_env(task: str | Setup) -> gymnasium.Env:
    try:
        return make_env(task, "rgb_array")
    # MuJoCo loads the chosen OpenGL when it is imported, which is here where nothing was simulated before.
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        raise _NoVideoError(f"the simulator does not start ({type(error).__name__}: {error})") from error


def _render(env: gymnasium.Env) -> Frame:
    try:
        return np.asarray(env.render())
    # Each OpenGL fails in its own way: ImportError, AttributeError, RuntimeError, mujoco.FatalError, ...
    except Exception as error:
        raise _NoVideoError(f"rendering failed ({type(error).__name__}: {error})") from error


def _framed(picture: Frame, colour: tuple[int, int, int], label: str) -> Frame:
    """The picture (height, width, 3), uint8, in a coloured border with the label on its upper side."""
    height, width, _ = picture.shape
    # The usual video format stores colours for blocks of 2 x 2 pixels, so both sides must be even.
    size = (width + 2 * BORDER + width % 2, height + HEADER + BORDER + height % 2)
    canvas = Image.new("RGB", size, colour)
    canvas.paste(Image.fromarray(picture), (BORDER, HEADER))
    font = ImageFont.load_default(size=15)
    ImageDraw.Draw(canvas).text((BORDER, HEADER // 2), label, fill="white", font=font, anchor="lm")
    return np.asarray(canvas)


class _Film:
    """An MP4 of equally large frames, encoded by ffmpeg; whole once its context is left without an error.

    Not written through imageio_ffmpeg, which is only asked for its ffmpeg: its own writer forks the process,
    which may deadlock where JAX has its threads, and takes no notice when ffmpeg fails.
    """

    def __init__(self, path: Path, steps_per_second: int) -> None:
        self.path = path
        self.steps_per_second = steps_per_second
        self.stride = max(1, round(steps_per_second / FRAMES_PER_SECOND))
        """A frame is taken every so many steps, so that the film plays in real time."""
        self._ffmpeg: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._complaints = tempfile.TemporaryFile()
        return self

    def add(self, frame: Frame, seconds: float | None = None) -> None:
        """Append a frame (height, width, 3), uint8; for one frame's time where no `seconds` are given."""
        if self._ffmpeg is None:
            self._ffmpeg = self._start(*frame.shape[:2])
        assert self._ffmpeg.stdin is not None
        count = 1 if seconds is None else round(seconds * self.steps_per_second / self.stride)
        try:
            for _ in range(count):
                self._ffmpeg.stdin.write(frame.tobytes())
        except BrokenPipeError as error:
            raise self._failure() from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._complaints:
            if self._ffmpeg is None:
                return
            assert self._ffmpeg.stdin is not None
            if error is not None:
                self._ffmpeg.kill()
            with contextlib.suppress(BrokenPipeError):
                self._ffmpeg.stdin.close()
            if self._ffmpeg.wait() != 0 and error is None:
                raise self._failure()

    def _start(self, height: int, width: int) -> subprocess.Popen[bytes]:
        try:
            import imageio_ffmpeg

            program = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError) as error:
            raise _NoVideoError(f"there is no ffmpeg ({type(error).__name__}: {error})") from error
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        source += ["-r", f"{self.steps_per_second}/{self.stride}", "-i", "-"]
        target = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18", "-y", str(self.path)]
        return subprocess.Popen(
            [program, "-loglevel", "error", *source, *target], stdin=subprocess.PIPE, stderr=self._complaints
        )

    def _failure(self) -> _NoVideoError:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").split("\n")
        return _NoVideoError(f"ffmpeg failed ({next((line for line in lines if line), 'without a reason')})")


@contextlib.contextmanager
def _rendering_backend() -> Generator[None]:
    """Render through EGL where there is no screen and no other wish.

    Set only while filming: with MUJOCO_GL=egl and no EGL MuJoCo cannot even be imported, so a variable set
    for the whole process could cost a run that never renders. Gymnasium, which renders, reads it at the first
    frame.
    """
    headless = platform.system() == "Linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    if "MUJOCO_GL" in os.environ or not headless:
        yield
        return
    os.environ["MUJOCO_GL"] = "egl"
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)
