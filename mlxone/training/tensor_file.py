"""A safetensors file written tensor by tensor: its header is known before the first byte of data.

What is only copied never passes through MLX, so it arrives bit for bit, whatever its dtype; what is
computed is asked for when its turn comes. No more than one tensor is in memory.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from mlxone.formats.safetensors import ITEM_BYTES, TensorInfo

CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor of the file to be; `source` is where its bytes are copied from, None if computed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: TensorInfo | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]


def write_file(
    path: Path, slots: Sequence[Slot], metadata: Mapping[str, str], made: Callable[[Slot], memoryview]
) -> None:
    with path.open("wb") as file:
        file.write(_header(slots, metadata))
        for slot in slots:
            for chunk in _content(slot, made):
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


def read_bytes(info: TensorInfo) -> bytearray:
    """A tensor's bytes as they are stored."""
    return bytearray().join(_stored(info))


def read_metadata(path: Path) -> dict[str, str]:
    """What the header says beside the tensors; the header itself was checked before."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found = header.get("__metadata__")
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _header(slots: Iterable[Slot], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for slot in slots:
        start, end = end, end + slot.nbytes
        entries[slot.name] = {"dtype": slot.dtype, "shape": slot.shape, "data_offsets": (start, end)}
    raw = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the data begins aligned
    return len(raw).to_bytes(8, "little") + raw


def _content(slot: Slot, made: Callable[[Slot], memoryview]) -> Iterator[bytes | memoryview]:
    if slot.source is None:
        yield made(slot)
    else:
        yield from _stored(slot.source)


def _stored(info: TensorInfo) -> Iterator[bytes]:
    with info.file.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little") + info.start)
        left = info.end - info.start
        while left:
            chunk = file.read(min(left, CHUNK))
            if not chunk:
                raise OSError(f"{info.file} became shorter while it was read")
            left -= len(chunk)
            yield chunk
