"""Frames of a LeRobotDataset v3.0: videos of many episodes each, and images in tables.

A feature `observation.images.NAME` of type `video` is stored in `videos/FEATURE/chunk-000/file-000.mp4` and
following; `meta/episodes` gives the file of each episode and its start time there. A feature of type `image`
is a column of PNG or JPEG files, or of their paths.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from otpr.data.convert.lerobot_tables import files_of, parquet
from otpr.data.frames import decoded, image_in_file
from otpr.data.reading import READ_LIMIT, check_readable, reading
from otpr.envs.image_spaces import Image
from otpr.errors import OtprError
from otpr.lerobot_names import image_entry

_FORMATS = {1: "gray", 3: "rgb24", 4: "rgba"}
# Number of rows of images read at once.
_ROWS = 8


@dataclass(frozen=True)
class Feature:
    """A feature with images.

    Attributes:
        key: its name in the set.
        image: the decoded frames: (height, width, channels).
        video: whether it is stored as videos.
    """

    key: str
    image: Image
    video: bool

    @property
    def name(self) -> str:
        """The observation entry's name: the key without `observation.images.`."""
        return image_entry(self.key)


def kind_of(feature: Mapping[str, Any]) -> str | None:
    """The storage of a feature's images, `"video"` or `"image"`; None if it has no images."""
    kind = feature.get("dtype")
    return kind if kind in ("video", "image") else None


def image_feature(path: Path, key: str, feature: Mapping[str, Any]) -> Feature:
    """A feature with images, from its description in `meta/info.json`.

    Raises:
        OtprError: the description lacks the size of the frames.
    """
    shape, where = feature.get("shape"), f"{path}: {key}"
    if "/" in key or not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise OtprError(f"{where}: meta/info.json gives its frames the shape {shape!r}; download it again.")
    names = feature.get("names")
    if isinstance(names, list) and sorted(map(str, names))[:1] == ["channel"]:
        names = ["channels" if name == "channel" else name for name in names]
    if (
        isinstance(names, list)
        and sorted(map(str, names)) == ["channels", "height", "width"]
        and len(shape) == 3
    ):
        shape = [shape[names.index(name)] for name in ("height", "width", "channels")]
    shape = image_in_file(tuple(shape), np.dtype(np.uint8), where).entry.shape
    if shape[-1] not in _FORMATS:
        raise OtprError(f"{where}: has frames of {shape[-1]} channels, expected 1, 3 or 4.")
    return Feature(key, Image(shape, "hwc"), kind_of(feature) == "video")


class Frames(Protocol):
    """The frames of a feature, read an episode at a time, in the order of the episodes."""

    def of(self, episode: int, times: Sequence[float], where: str) -> Iterator[NDArray[np.uint8]]:
        """The frames of an episode in blocks, (n, height, width, channels), one for each time.

        Args:
            episode: the episode's index, larger than in earlier calls.
            times: times of the steps from the episode's start, in s.
            where: the episode's name in errors.

        Raises:
            OtprError: one is missing, damaged or of another size.
        """
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


# ---------------------------------------------------------------------------------------------------- videos


def video_columns(key: str) -> tuple[str, str, str]:
    """The columns of `meta/episodes` that locate the videos of a feature."""
    return f"videos/{key}/chunk_index", f"videos/{key}/file_index", f"videos/{key}/from_timestamp"


def _pyav() -> Any:
    try:
        import av  # pyright: ignore[reportMissingImports]: may not be there
    except ImportError as error:
        raise OtprError(
            "Videos of LeRobot data need PyAV. Install it with: pip install 'otpr[lerobot]'; or leave the "
            "videos out: name the other features with --keys."
        ) from error
    return av


class Videos:
    """The frames of a feature stored as videos, each decoded once, in order.

    Args:
        path: the set's folder.
        feature: the feature.
        rows: for each episode the numbers of chunk and file, and its start time there, in s.
        rate: frames per second.

    Raises:
        OtprError: PyAV is not installed.
    """

    def __init__(self, path: Path, feature: Feature, rows: Sequence[tuple[int, int, float]], rate: float):
        _pyav()
        self._path, self._feature, self._rows, self._period = path, feature, rows, 1 / rate
        self._open: tuple[Path, _Video] | None = None

    def of(self, episode: int, times: Sequence[float], where: str) -> Iterator[NDArray[np.uint8]]:
        """See `Frames`."""
        chunk, number, start = self._rows[episode]
        if not all(type(n) is int and n >= 0 for n in (chunk, number)) or not math.isfinite(start):
            raise OtprError(f"{where}: meta/episodes does not say where its video is; download it again.")
        file = self._path / "videos" / self._feature.key / f"chunk-{chunk:03d}" / f"file-{number:03d}.mp4"
        if self._open is None or self._open[0] != file:
            self.close()
            self._open = file, _Video(file, self._feature.image.shape, self._period)
        try:
            for time in times:
                yield self._open[1].at(start + time, where)[None]
        except BaseException:
            self.close()  # the position of the decoder is unknown
            raise

    def close(self) -> None:
        """See `Frames`."""
        if self._open is not None:
            self._open[1].close()
            self._open = None


class _Video:
    """A video, decoded frame by frame."""

    def __init__(self, file: Path, shape: tuple[int, ...], period: float):
        self._file, self._shape, self._period = file, shape, period
        if not file.is_file():
            raise OtprError(f"{file} is missing; download it again.")
        check_readable(file)
        with self._decoding():
            self._container: Any = _pyav().open(str(file))
        streams = self._container.streams.video
        if not streams:
            self.close()
            raise OtprError(f"{file}: holds no video; download it again.")
        self._stream: Any = streams[0]
        try:
            self._check_size(self._stream.codec_context)
        except OtprError:
            self.close()
            raise
        self._stream.thread_type = "AUTO"
        # refuses a file whose frames differ from the declared size, before memory is allocated for them
        self._stream.codec_context.options = {"max_pixels": str((shape[0] + 128) * (shape[1] + 128))}
        self._frames: Any = self._container.decode(self._stream)
        self._now: Any = None
        self._begun = False

    def at(self, time: float, where: str) -> NDArray[np.uint8]:
        """The frame nearest to a time in s, within a quarter of the frame interval.

        Raises:
            OtprError: there is no such frame, or it cannot be decoded.
        """
        near = self._period / 4
        with self._decoding():
            now = self._time()
            if now is None or not now - near <= time <= now + 1.5 * self._period:
                self._seek(time)
            while (now := self._time()) is not None and now < time - near:
                self._now = next(self._frames, None)
            frame = self._now
        if frame is None:
            raise OtprError(
                f"{where}: {self._file} ends before its frame at {time:.4f} s; download it again."
            )
        if abs(frame.time - time) > near:
            raise OtprError(
                f"{where}: {self._file} has no frame at {time:.4f} s, the next one is at {frame.time:.4f} s; "
                "mend or leave out that episode."
            )
        self._check_size(frame)
        with self._decoding():
            pixels = frame.to_ndarray(format=_FORMATS[self._shape[2]])
        return pixels.reshape(self._shape)

    def _time(self) -> float | None:
        """The time of the last decoded frame; None if there is none."""
        if self._now is None and not self._begun:
            self._now, self._begun = next(self._frames, None), True
        if self._now is not None and self._now.time is None:
            raise OtprError(f"{self._file}: its frames have no times; download it again.")
        return None if self._now is None else self._now.time

    def _seek(self, time: float) -> None:
        """Seek to a key frame at or before a time."""
        for before in (time, 0.0):
            place = math.floor(max(before - self._period, 0.0) / self._stream.time_base)
            self._container.seek(place, stream=self._stream, backward=True)
            self._frames, self._begun, self._now = self._container.decode(self._stream), False, None
            now = self._time()
            if now is not None and now <= time + self._period / 4:
                return

    def _check_size(self, given: Any) -> None:
        if (given.height, given.width) != self._shape[:2]:
            raise OtprError(
                f"{self._file}: has frames of {given.height} x {given.width} pixels (height x width), "
                f"expected {self._shape[0]} x {self._shape[1]} by meta/info.json; download it again."
            )

    @contextlib.contextmanager
    def _decoding(self) -> Generator[None]:
        av = _pyav()
        try:
            yield
        except (av.FFmpegError, ValueError) as error:
            raise OtprError(f"{self._file}: cannot be decoded ({error}); download it again.") from error

    def close(self) -> None:
        """Close the file."""
        self._container.close()


# -------------------------------------------------------------------------------------------------- pictures


class Pictures:
    """The frames of a feature stored as a column of images.

    Args:
        path: the set's folder.
        feature: the feature.
        lengths: of all episodes.
    """

    def __init__(self, path: Path, feature: Feature, lengths: Sequence[int]):
        self._path, self._feature = path, feature
        self._starts = [0, *itertools.accumulate(lengths)]
        self._rows = self._read()
        self._row = 0

    def of(self, episode: int, times: Sequence[float], where: str) -> Iterator[NDArray[np.uint8]]:
        """See `Frames`."""
        start = self._starts[episode]
        # skip episodes that are not read, or one that was abandoned
        for _ in itertools.islice(self._rows, start - self._row):
            pass
        self._row = start
        for stored in itertools.islice(self._rows, len(times)):
            self._row += 1
            yield decoded(self._file(stored, where), self._feature.image, where)[None]

    def _file(self, stored: Any, where: str) -> bytes:
        """The content of an image file."""
        if isinstance(stored, Mapping):
            content, place = stored.get("bytes"), stored.get("path")
        else:
            content, place = stored, None
        if isinstance(content, bytes):
            return content
        if (
            not isinstance(place, str)
            or PurePosixPath(place).is_absolute()
            or ".." in PurePosixPath(place).parts
        ):
            raise OtprError(f"{where}: has a step without a picture; mend or leave out that episode.")
        file = self._path / place
        with reading(file):
            if file.stat().st_size > READ_LIMIT:
                raise ValueError(f"a picture of {file.stat().st_size:,} bytes")
            return file.read_bytes()

    def _read(self) -> Iterator[Any]:
        key = self._feature.key
        for file in files_of(self._path, "data"):
            with reading(file):
                opened = parquet().ParquetFile(file, buffer_size=2**20)
                if key not in opened.schema_arrow.names:
                    raise OtprError(f"{file}: has no column {key!r} of meta/info.json; download it again.")
                batches = opened.iter_batches(_ROWS, columns=[key])
            while True:
                with reading(file):
                    batch = next(batches, None)
                    rows = [] if batch is None else batch.column(key).to_pylist()
                if batch is None:
                    break
                yield from rows
            opened.close()

    def close(self) -> None:
        """See `Frames`."""
        self._rows = iter(())
