"""Where a program or library of Linux looks for others: DT_RPATH and DT_RUNPATH of its dynamic section.

Read as the loader does, by what its segments say; for 64 bits and little-endian, as all that we ship is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_LOAD, _DYNAMIC = 1, 2  # kinds of segments
_END, _STRINGS, _RPATH, _RUNPATH = 0, 5, 15, 29  # tags


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def searched(path: Path) -> list[str]:
    """The folders as they are written there. An empty one among others is the working folder."""
    content = path.read_bytes()
    assert content[4:6] == b"\2\1", f"{path} is of another kind"
    segments = list(_segments(content))
    entries = [
        entry
        for kind, start, _, size in segments
        if kind == _DYNAMIC
        for entry in _tags(content, start, size)
    ]
    named = [value for tag, value in entries if tag in (_RPATH, _RUNPATH)]
    if not named:
        return []
    [strings] = [value for tag, value in entries if tag == _STRINGS]
    [base] = [
        start + strings - address
        for kind, start, address, size in segments
        if kind == _LOAD and address <= strings < address + size
    ]
    texts = [content[base + at : content.index(b"\0", base + at)].decode() for at in named]
    return [folder for text in texts if text for folder in text.split(":")]


def _segments(content: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Kind, place in the file, address, size in the file."""
    [first] = struct.unpack_from("<Q", content, 32)
    each, count = struct.unpack_from("<HH", content, 54)
    for at in range(first, first + each * count, each):
        kind, _, start, address, _, size = struct.unpack_from("<IIQQQQ", content, at)
        yield kind, start, address, size


def _tags(content: bytes, start: int, size: int) -> Iterator[tuple[int, int]]:
    for tag, value in struct.iter_unpack("<qQ", content[start : start + size]):
        if tag == _END:
            return
        yield tag, value
