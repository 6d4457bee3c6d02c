"""Safetensors headers: read and checked here, before MLX's native loader sees the file.

Only the header is read. Every tensor must lie inside the file, have the size its shape and
dtype say, and share no byte with another; then opening the file cannot crash or over-allocate.
"""

from __future__ import annotations

import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel, StorageError, UnsupportedModel

MAX_HEADER_BYTES = 100_000_000 - 1  # MLX's own limit
MAX_RANK = 16
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
# What MLX's loader can read; the rest is well-formed, yet of no use here.
LOADABLE = frozenset(ITEM_BYTES) - {"F64", "F8_E5M2", "F8_E8M0"}
FLOATS = frozenset({"F16", "BF16", "F32"})  # what weights may be, when not packed


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    file: Path

    @property
    def size(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise damaged(path, "it is a folder or a device")
        size = status.st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise damaged(path, "its header is cut off or is no safetensors header")
            raw = file.read(length)
    except FileNotFoundError:
        raise DamagedModel(f"{path} is missing", hint=DOWNLOAD_AGAIN) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_header(raw, path, data_bytes=size - 8 - length)


def parse_header(raw: bytes, path: Path, *, data_bytes: int) -> dict[str, TensorInfo]:
    """The JSON between the length and the data; `data_bytes` is all that the file has behind it."""
    try:
        header = json.loads(raw.decode())  # from bytes it would take UTF-16 as well
    except (ValueError, RecursionError):
        raise damaged(path, "its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not a JSON object")
    header.pop("__metadata__", None)
    infos = {name: _tensor(path, name, entry) for name, entry in header.items()}
    _check_layout(path, infos, data_bytes)
    return infos


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict):
        raise damaged(path, f"tensor {name[:80]!r} has no description")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str):
        raise damaged(path, f"tensor {name[:80]!r} has no dtype")
    if dtype not in ITEM_BYTES:
        raise UnsupportedModel(f"{path}: tensor {name[:80]!r} has the unknown dtype {dtype[:20]!r}")
    if not (_whole_numbers(shape, MAX_RANK) and _whole_numbers(offsets, 2) and len(offsets) == 2):
        raise damaged(path, f"tensor {name[:80]!r} has no proper shape or offsets")
    info = TensorInfo(name, dtype, tuple(shape), offsets[0], offsets[1], path)
    if info.end - info.start != info.size * ITEM_BYTES[dtype]:
        raise damaged(path, f"tensor {name[:80]!r} does not have the size its shape says")
    return info


def _whole_numbers(value: Any, most: int) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(v) is int and 0 <= v < 2**48 for v in value)
    )


def _check_layout(path: Path, infos: dict[str, TensorInfo], data_bytes: int) -> None:
    end = 0
    for info in sorted(infos.values(), key=lambda i: (i.start, i.end)):
        if info.end > data_bytes:
            raise damaged(path, f"the file ends before tensor {info.name[:80]!r} does")
        if info.start < end and info.end > info.start:
            raise damaged(path, f"tensor {info.name[:80]!r} overlaps another")
        end = max(end, info.end)


def damaged(path: Path, reason: str) -> DamagedModel:
    return DamagedModel(f"{path} is damaged: {reason}", hint=DOWNLOAD_AGAIN)
