"""Tells Mach-O files from all others by their first bytes, and programs from libraries.

Reads headers only: thin files of both word sizes and both byte orders, and fat ones, whose first part
decides. Names decide nothing: a text called `x.dylib` is none, and a library may have any name.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

# The first four bytes as they lie on disk -> the byte order of the words behind them.
THIN = {
    b"\xfe\xed\xfa\xce": ">",  # 32 bits
    b"\xfe\xed\xfa\xcf": ">",  # 64 bits
    b"\xce\xfa\xed\xfe": "<",
    b"\xcf\xfa\xed\xfe": "<",
}
# -> byte order, and the format of the first part's offset.
FAT = {
    b"\xca\xfe\xba\xbe": (">", "I"),
    b"\xca\xfe\xba\xbf": (">", "Q"),
    b"\xbe\xba\xfe\xca": ("<", "I"),
    b"\xbf\xba\xfe\xca": ("<", "Q"),
}
MOST_PARTS = 30  # a Java class begins like a fat file; the number that follows is its version, 45 or more
PROGRAM = 2  # MH_EXECUTE


def kind(file: Path) -> str | None:
    """`program`, `library` (anything else in Mach-O), or None for what is no Mach-O file."""
    with file.open("rb") as opened:
        filetype = _filetype(opened)
    if filetype is None:
        return None
    return "program" if filetype == PROGRAM else "library"


def _filetype(opened: BinaryIO) -> int | None:
    head = opened.read(32)
    if head[:4] in FAT:
        start = _first_part(head)
        if start is None:
            return None
        opened.seek(start)
        head = opened.read(16)
    order = THIN.get(head[:4])
    if order is None or len(head) < 16:
        return None
    return int(struct.unpack_from(order + "I", head, 12)[0])


def _first_part(head: bytes) -> int | None:
    """Where the first part of a fat file begins: magic, count, then type and subtype and its offset."""
    order, width = FAT[head[:4]]
    layout = struct.Struct(f"{order}4xI8x{width}")
    if len(head) < layout.size:
        return None
    count, offset = layout.unpack_from(head)
    return int(offset) if 0 < count < MOST_PARTS else None
