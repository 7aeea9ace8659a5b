"""Files of `torch.save`, read without PyTorch and without executing code.

Such a file is a zip archive of `data.pkl`, a pickle of nested containers in which tensors are views of
storages, and a record with the bytes of each storage. A pickle is a program that can call any function. This
module interprets the operations itself (`pickletools` only splits them) and calls nothing: it supports the
operations that build containers, numbers and strings, and the names of tensors and storages.
https://docs.pytorch.org/docs/stable/notes/serialization.html describes the archive.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from otpr.errors import OtprError
from otpr.storage import DamagedFile, check_regular

PICKLE_LIMIT = 2**22
"""The largest pickle that is read, in bytes: some 25,000 tensors. Its values take at most 60 times as
much."""

_MOST_RECORDS = 100_000

_STORAGES: Mapping[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
"""NumPy types by the names of storages in the module `torch`."""

_TENSOR = "torch._utils._rebuild_tensor_v2"
_PARAMETER = "torch._utils._rebuild_parameter"
_DICT = "collections.OrderedDict"
_KNOWN = frozenset([_TENSOR, _PARAMETER, _DICT, *(f"torch.{name}" for name in _STORAGES)])
"""The names that a pickle may look up. None of them is imported or called."""

LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of files of PyTorch before 1.6: a pickled number instead of an archive."""


class RefusedPickle(OtprError):  # noqa: N818 - it says what was found
    """The pickle in a file uses something beyond tensors and containers.

    Attributes:
        used: the refused operation, or the name with its module.
    """

    def __init__(self, file: Path, used: str):
        super().__init__(
            f"{file}: its pickle uses {used[:200]}, which could run code. Of PyTorch's files those are read "
            "that hold tensors in dictionaries, lists and tuples, beside numbers and texts."
        )
        self.used = used


@dataclasses.dataclass(frozen=True)
class _Global:
    """A name that the pickle looked up."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """The data that tensors are views of."""

    numbers: NDArray[Any]


class _Mark:
    """The object that the operation MARK puts on the stack."""


def is_torch_file(file: Path) -> bool:
    """Whether a file looks like a file of `torch.save` of any version, even if damaged."""
    try:
        check_regular(file)
        with open(file, "rb") as stream:
            head = stream.read(256)
    except (OSError, DamagedFile):
        return False
    return head.startswith(LEGACY) or (head.startswith(b"PK\x03\x04") and b"/data.pkl" in head)


def _pickle_of(archive: zipfile.ZipFile) -> str | None:
    """The name of the pickle's record: `data.pkl` in the archive's only folder."""
    found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
    return found[0] if len(found) == 1 else None


def read_torch(file: str | os.PathLike[str]) -> Any:
    """The content of a file: dictionaries, lists, tuples, numbers, strings, and NumPy arrays for tensors.

    An array may be a view that shares its memory with others. Memory use is bounded by the file's size and
    `PICKLE_LIMIT`.

    Raises:
        RefusedPickle: the file holds something else; the message names it.
        OtprError: the file is from PyTorch before 1.6 or from a big-endian machine.
        DamagedFile: the file is missing, damaged, or not from `torch.save`.
    """
    file = Path(file)
    check_regular(file)
    try:
        with open(file, "rb") as stream:
            if stream.read(len(LEGACY)) == LEGACY:
                raise OtprError(
                    f"{file} is of PyTorch's format before version 1.6, which is not read here. Load it with "
                    "PyTorch and save it again with torch.save."
                )
            with zipfile.ZipFile(stream) as archive:
                return _read(file, archive, os.fstat(stream.fileno()).st_size)
    # the zip reader and `pickletools` raise these on damaged bytes; IndexError and KeyError: operations that
    # find nothing on the stack or in the memo; AttributeError: an operation that pickletools does not know
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        IndexError,
        KeyError,
        AttributeError,
        RuntimeError,
        MemoryError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise DamagedFile(file, error) from error


def _read(file: Path, archive: zipfile.ZipFile, size: int) -> Any:
    records = archive.infolist()
    if len(records) > _MOST_RECORDS:
        raise ValueError(f"{len(records)} records are more than the {_MOST_RECORDS} it may have")
    if sum(record.file_size for record in records) > size:
        raise ValueError("it claims to hold more than its own size")
    if packed := [x.filename for x in records if x.compress_type != zipfile.ZIP_STORED]:
        raise ValueError(f"{packed[0]!r} is compressed")
    if (pickle := _pickle_of(archive)) is None:
        raise ValueError("it is an archive without data.pkl, and so none of torch.save")
    folder = pickle.removesuffix("data.pkl")
    if archive.getinfo(pickle).file_size > PICKLE_LIMIT:
        raise ValueError(f"its data.pkl has more than {PICKLE_LIMIT:,} bytes")
    names = set(archive.namelist())
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise OtprError(f"{file} has big-endian numbers. Load and save it on a little-endian machine.")
    return _Program(file, archive, folder).run(archive.read(pickle))


class _Program:
    """An interpreter of pickles that builds values and calls nothing."""

    def __init__(self, file: Path, archive: zipfile.ZipFile, folder: str):
        self.file, self.archive, self.folder = file, archive, folder
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, tuple[str, _Storage]] = {}

    def run(self, content: bytes) -> Any:
        """Run a pickle and return its result."""
        for operation, argument, _ in pickletools.genops(content):
            if operation.name == "STOP":
                break
            self._do(operation.name, argument)
        (value,) = self.stack
        if isinstance(value, _Global | _Storage | _Mark):
            raise ValueError("it ends with something that is no value")
        return value

    def _do(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                stack.append(_Mark())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._to_mark()))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "APPEND" | "APPENDS":
                values = [stack.pop()] if name == "APPEND" else self._to_mark()
                self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                pairs = self._pop(2) if name == "SETITEM" else self._to_mark()
                self._set(self._top(dict), pairs)
            case "GLOBAL" | "STACK_GLOBAL":
                looked_up = argument.split(" ", 1) if name == "GLOBAL" else self._pop(2)
                stack.append(self._global(".".join(map(str, looked_up))))
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case "REDUCE":
                function, arguments = self._pop(2)
                stack.append(self._built(function, arguments))
            case "BUILD":
                # the attribute `_metadata` of a state dict, its modules' versions, is not needed
                stack.pop()
                self._top(dict)
            case _:
                raise RefusedPickle(self.file, f"the operation {name}")

    def _pop(self, n: int) -> list[Any]:
        """Pop the last n values, in order."""
        if len(self.stack) < n:
            raise ValueError("an operation of its pickle finds too little on the stack")
        taken = self.stack[-n:]
        del self.stack[-n:]
        return taken

    def _to_mark(self) -> list[Any]:
        """Pop the values since the last mark, in order."""
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                taken = self.stack[i + 1 :]
                del self.stack[i:]
                return taken
        raise ValueError("an operation of its pickle finds no mark")

    def _top(self, kind: type[Any]) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"an operation of its pickle finds no {kind.__name__}")
        return self.stack[-1]

    @staticmethod
    def _set(entries: dict[Any, Any], pairs: list[Any]) -> None:
        # only strings and numbers with distinct hashes: colliding keys could keep a dictionary busy for hours
        for key in pairs[::2]:
            if type(key) is not str and not (type(key) is int and abs(key) < 2**31):
                raise ValueError("a dictionary has a key that is neither a text nor a small number")
        entries.update(zip(pairs[::2], pairs[1::2], strict=True))

    def _global(self, name: str) -> _Global:
        if name not in _KNOWN:
            raise RefusedPickle(self.file, name)
        return _Global(name)

    def _built(self, function: Any, arguments: Any) -> Any:
        """The value that stands for a call of a name."""
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise ValueError("it calls something that is no name")
        given = cast(tuple[Any, ...], arguments)
        if function.name == _DICT and not given:
            return {}
        if function.name == _PARAMETER and given and isinstance(given[0], np.ndarray):
            return cast(NDArray[Any], given[0])
        if function.name == _TENSOR and len(given) in (6, 7):
            return _view(*given[:4])
        raise ValueError(f"{function.name} is called with something else than PyTorch gives it")

    def _storage(self, identity: Any) -> _Storage:
        """The storage with a persistent identity ('storage', type, key, device, count)."""
        kind, number_type, key, _, count = identity
        if kind != "storage" or not isinstance(number_type, _Global) or not isinstance(key, str):
            raise ValueError("a storage is not as PyTorch writes it")
        name = number_type.name.removeprefix("torch.")
        if key not in self.storages:
            # looked up among the names of records, none of which is used as a path
            content = self.archive.read(f"{self.folder}data/{key}")
            self.storages[key] = name, _Storage(np.frombuffer(content, _STORAGES[name]))
        known, storage = self.storages[key]
        if known != name or type(count) is not int or storage.numbers.size != count:
            raise ValueError(f"storage {key!r} claims {count} numbers of {name} and has others")
        return storage


def _view(storage: Any, offset: Any, shape: Any, strides: Any) -> NDArray[Any]:
    """A tensor as a view within the bounds of its storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor has no storage")
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or not all(type(n) is int and n >= 0 for n in numbers) or len(shape) > 16:
        raise ValueError(f"a tensor has the shape {shape!r}, strides {strides!r} and offset {offset!r}")
    if math.prod(shape) > storage.numbers.size:
        raise ValueError(f"a tensor claims the shape {shape!r} and its storage has {storage.numbers.size}")
    if math.prod(shape):
        last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if last >= storage.numbers.size:
            raise ValueError(f"a tensor of shape {shape!r} leaves its storage of {storage.numbers.size}")
    start = storage.numbers[offset:]
    steps = [step * start.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(start, shape, steps, writeable=False)
