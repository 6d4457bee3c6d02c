"""Reads a GGUF header without trusting a byte of it. Pure Python; no tensor data is read.

MLX's own loader maps the file and follows whatever lengths it finds there: a bad count, a type it
does not know or a `float64` value ends the whole process. So every count, length, type and offset
is checked here first. Memory and time are bounded by the limits below, not by what the file claims.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from mlxone.core.errors import DOWNLOAD_AGAIN, DamagedModel, MlxoneError, StorageError, UnsupportedModel

MAX_HEADER = 256 << 20  # bytes before the first tensor; real files stay under 32 MB
MAX_KEYS = 65_536
MAX_TENSORS = 65_536
MAX_STRINGS = 2 << 20  # over all arrays: tokens and merges of the largest vocabularies, doubled
MAX_STRING = 16 << 20
MAX_NAME = 1_024
MAX_ALIGNMENT = 1 << 20
INT_MAX = 2**31 - 1  # MLX keeps sizes in 32-bit integers

# ggml's value types: number -> (name, struct format). Strings and arrays are read by hand.
SCALARS = {
    0: ("uint8", "<B"), 1: ("int8", "<b"), 2: ("uint16", "<H"), 3: ("int16", "<h"), 4: ("uint32", "<I"),
    5: ("int32", "<i"), 6: ("float32", "<f"), 7: ("bool", "<B"), 10: ("uint64", "<Q"), 11: ("int64", "<q"),
    12: ("float64", "<d"),
}  # fmt: skip
BOOL, STRING, ARRAY, FLOAT64 = 7, 8, 9, 12

# The tensor types MLX reads to the end: number -> (name, weights in a block, bytes of a block).
# It skips newer ones without a word and miscounts some older ones, hence a list of what is good.
TENSOR_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34),
    12: ("Q4_K", 256, 144), 14: ("Q6_K", 256, 210), 30: ("BF16", 1, 2),
}  # fmt: skip
OTHER_TENSOR_TYPES = {
    6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 13: "Q5_K", 15: "Q8_K", 16: "IQ2_XXS",
    17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]  # as MLX shows it: slowest dimension first
    kind: str
    offset: int  # from the start of the data section
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Header:
    version: int
    values: dict[str, Scalar]  # metadata that is not an array
    arrays: dict[str, int]  # key -> number of items
    tensors: tuple[TensorInfo, ...]
    data_start: int


def check_header(path: Path) -> Header:
    """The header, every field of it checked, or one line that says what is wrong."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise StorageError(f"{path}: is not a file")
    try:
        with path.open("rb") as file:
            return _Reader(file, path).header()
    except MlxoneError:
        raise
    except OSError as e:
        raise StorageError(f"{path}: cannot be read: {e.strerror or e}") from e


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path = file, path
        self.size = os.fstat(file.fileno()).st_size
        self.pos = 0
        self.strings = 0

    def header(self) -> Header:
        if self.size < 24 or self.take(4, "its first bytes") != b"GGUF":
            self.damaged("not a GGUF file")
        version = self.version()
        tensor_count = self.number("<Q", "the tensor count")
        key_count = self.number("<Q", "the metadata count")
        # A key takes at least 14 bytes, a tensor at least 25: a larger claim is a lie.
        if not 1 <= tensor_count <= min(MAX_TENSORS, self.size // 25):
            self.damaged(f"claims {tensor_count} tensors")
        if key_count > min(MAX_KEYS, self.size // 14):
            self.damaged(f"claims {key_count} metadata entries")
        values, arrays = self.metadata(key_count)
        alignment = self.alignment(values, arrays)
        tensors = [self.tensor(i, alignment) for i in range(tensor_count)]
        data_start = -(-self.pos // alignment) * alignment
        self.check_layout(tensors, data_start)
        return Header(version, values, arrays, tuple(tensors), data_start)

    def version(self) -> int:
        version = self.number("<I", "the version")
        if version in (2 << 24, 3 << 24):
            raise UnsupportedModel(f"{self.path}: a big-endian GGUF file")
        if version == 1:
            raise UnsupportedModel(f"{self.path}: GGUF version 1", hint="versions 2 and 3 can be read")
        if version not in (2, 3):
            self.damaged(f"GGUF version {version} does not exist")
        return version

    def metadata(self, count: int) -> tuple[dict[str, Scalar], dict[str, int]]:
        values: dict[str, Scalar] = {}
        arrays: dict[str, int] = {}
        for i in range(count):
            key = self.string(f"metadata key {i}", MAX_NAME)
            if not key or key in values or key in arrays:
                self.damaged(f"metadata key {i} is {'there twice: ' + shown(key) if key else 'empty'}")
            kind = self.number("<I", f"the type of {shown(key)}")
            if kind == ARRAY:
                arrays[key] = self.array(key)
            elif kind == STRING:
                values[key] = self.string(f"{shown(key)}", MAX_STRING)
            else:
                values[key] = self.scalar(kind, key)
        return values, arrays

    def scalar(self, kind: int, key: str) -> Scalar:
        value: int | float = self.number(self.scalar_format(kind, key), f"{shown(key)}")
        if kind != BOOL:
            return value
        if value > 1:
            self.damaged(f"{shown(key)} is neither true nor false")
        return bool(value)

    def scalar_format(self, kind: int, key: str) -> str:
        if kind not in SCALARS:
            self.damaged(f"{shown(key)} has the unknown type {kind}")
        if kind == FLOAT64:  # MLX steps over half of it and reads on from the middle
            raise UnsupportedModel(f"{self.path}: {shown(key)} is a float64 value, which MLX cannot read")
        return SCALARS[kind][1]

    def array(self, key: str) -> int:
        kind = self.number("<I", f"the type of {shown(key)}")
        length = self.number("<Q", f"the length of {shown(key)}")
        if kind == ARRAY:
            raise UnsupportedModel(f"{self.path}: {shown(key)} is an array of arrays, which MLX cannot read")
        item_size = 8 if kind == STRING else struct.calcsize(self.scalar_format(kind, key))
        if length > min(INT_MAX, self.left // item_size):
            self.damaged(f"{shown(key)} claims {length} items, more than the file can hold")
        if kind != STRING:
            self.skip(length * item_size)
            return length
        self.strings += length
        if self.strings > MAX_STRINGS:
            self.damaged(f"{shown(key)} claims {length} strings")
        for _ in range(length):
            self.string(f"{shown(key)}", MAX_STRING)
        return length

    def alignment(self, values: dict[str, Scalar], arrays: dict[str, int]) -> int:
        value = values.get("general.alignment", 32)
        whole = isinstance(value, int) and 8 <= value <= MAX_ALIGNMENT and value % 8 == 0
        if not whole or isinstance(value, bool) or "general.alignment" in arrays:
            self.damaged(f"alignment {value!r}")
        assert isinstance(value, int)
        return value

    def tensor(self, index: int, alignment: int) -> TensorInfo:
        name = self.string(f"the name of tensor {index}", MAX_NAME)
        dimensions = self.number("<I", f"the shape of {shown(name)}")
        if not name or dimensions > 4:
            self.damaged(f"tensor {index} ({shown(name)}) claims {dimensions} dimensions")
        shape = tuple(self.number("<Q", f"the shape of {shown(name)}") for _ in range(dimensions))[::-1]
        if any(not 1 <= n <= INT_MAX for n in shape):
            self.damaged(f"tensor {shown(name)} has the shape {shape}")
        kind_name, size = self.tensor_size(name, self.number("<I", f"the type of {shown(name)}"), shape)
        offset = self.number("<Q", f"the place of {shown(name)}")
        if offset % alignment or offset > self.size:
            self.damaged(f"tensor {shown(name)} is said to stand at byte {offset}")
        return TensorInfo(name, shape, kind_name, offset, size)

    def tensor_size(self, name: str, kind: int, shape: tuple[int, ...]) -> tuple[str, int]:
        if kind in OTHER_TENSOR_TYPES:
            raise UnsupportedModel(
                f"{self.path}: tensor {shown(name)} is {OTHER_TENSOR_TYPES[kind]}, which MLX does not read",
                hint="these can be read: " + ", ".join(n for n, _, _ in TENSOR_TYPES.values()),
            )
        if kind not in TENSOR_TYPES:
            self.damaged(f"tensor {shown(name)} has the unknown type {kind}")
        kind_name, block, block_bytes = TENSOR_TYPES[kind]
        weights = 1
        for n in shape:
            weights *= n
        if (shape[-1] if shape else 1) % block:
            self.damaged(f"tensor {shown(name)} of type {kind_name} has rows of {shape[-1] if shape else 1}")
        return kind_name, weights // block * block_bytes

    def check_layout(self, tensors: list[TensorInfo], data_start: int) -> None:
        names = set()
        end = 0
        # Tensors may not overlap: else a small file could ask for any amount of memory.
        for t in sorted(tensors, key=lambda t: t.offset):
            if t.name in names:
                self.damaged(f"tensor {shown(t.name)} is there twice")
            names.add(t.name)
            if t.offset < end:
                self.damaged(f"tensor {shown(t.name)} overlaps another")
            end = t.offset + t.size
            if data_start + end > self.size:
                beyond = data_start + end - self.size
                self.damaged(f"tensor {shown(t.name)} ends {beyond} bytes after the end of the file")

    @property
    def left(self) -> int:
        return self.size - self.pos

    def skip(self, count: int) -> None:
        self.advance(count)
        self.file.seek(self.pos)

    def take(self, count: int, what: str) -> bytes:
        self.advance(count)
        raw = self.file.read(count)
        if len(raw) < count:
            self.damaged(f"ends inside {what}")
        return raw

    def advance(self, count: int) -> None:
        self.pos += count
        if self.pos > MAX_HEADER:
            self.damaged(f"its header is longer than {MAX_HEADER >> 20} MiB")

    def number(self, fmt: str, what: str) -> int:
        value: int = struct.unpack(fmt, self.take(struct.calcsize(fmt), what))[0]
        return value

    def string(self, what: str, limit: int) -> str:
        length = self.number("<Q", what)
        if length > limit:
            self.damaged(f"{what} claims {length} bytes")
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError:
            self.damaged(f"{what} is not UTF-8")

    def damaged(self, reason: str) -> NoReturn:
        raise DamagedModel(f"{self.path}: {reason}", hint=DOWNLOAD_AGAIN)


def shown(value: object) -> str:
    """A header's value in a message: short, whatever the file says."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
