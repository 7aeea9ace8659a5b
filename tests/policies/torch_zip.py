"""Files as `torch.save` writes them, made without PyTorch."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

TYPES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


def pickled(value: Any, storages: dict[str, bytes]) -> bytes:
    """The operations that build a value, without the first and the last; tensors' bytes go to `storages`."""
    if isinstance(value, np.ndarray):
        return _tensor(value, storages)
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    if isinstance(value, dict):
        pairs = [pickled(part, storages) for pair in value.items() for part in pair]
        return b"}(" + b"".join(pairs) + b"u"
    parts = b"".join(pickled(part, storages) for part in value)
    return b"](" + parts + b"e" if isinstance(value, list) else b"(" + parts + b"t"


def _tensor(array: np.ndarray, storages: dict[str, bytes]) -> bytes:
    key = str(len(storages))
    storages[key] = np.ascontiguousarray(array).tobytes()
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).strides)
    return tensor(TYPES[array.dtype.name], key, array.size, 0, array.shape, strides)


def tensor(
    kind: str, key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> bytes:
    """The operations that build a tensor as a view of a storage, whatever they claim."""
    storage = b"(" + pickled("storage", {}) + f"ctorch\n{kind}\n".encode()
    storage += pickled(key, {}) + pickled("cpu", {}) + number(count) + b"tQ"
    place = number(offset) + b"".join(b"(" + b"".join(map(number, part)) + b"t" for part in (shape, strides))
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + place + b"\x89ccollections\nOrderedDict\n)RtR"


def number(value: int) -> bytes:
    """The operation that builds a whole number of any size."""
    content = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def archive(pickle: bytes, storages: dict[str, bytes], **options: Any) -> bytes:
    """The file of a pickle and its storages."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", options.get("compression", zipfile.ZIP_STORED)) as file:
        file.writestr("archive/data.pkl", pickle)
        file.writestr("archive/byteorder", options.get("byteorder", "little"))
        for key, data in storages.items():
            file.writestr(f"archive/data/{key}", data)
        file.writestr("archive/version", "3\n")
    return content.getvalue()


def saved(value: Any) -> bytes:
    """What `torch.save` would write of a value, arrays for tensors."""
    storages: dict[str, bytes] = {}
    return archive(b"\x80\x02" + pickled(value, storages) + b".", storages)


def save(value: Any, file: Path) -> Path:
    """The value in a file."""
    file.write_bytes(saved(value))
    return file
