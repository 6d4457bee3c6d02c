"""Which glibc the packed program needs: the newest version that any of its ELF files asks for.

A version is asked for by its name in a file's string table. Reading names and not the tables that
use them may find one too many, never one too few. And where a file looks for other libraries:
`drop_search_path` takes the builder's folders out of it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?:\.\d+)?(?=\0)")
# Relative relocations in their packed form have a name of their own, since 2.36.
_PACKED_RELOCATIONS = (b"\0GLIBC_ABI_DT_RELR\0", (2, 36))


@dataclass(frozen=True, order=True)
class Needed:
    """A version, and the file that asks for it (the first one by name)."""

    version: tuple[int, int]
    file: str

    def __str__(self) -> str:
        return f"{self.version[0]}.{self.version[1]}"


def needed(tree: Path) -> Needed | None:
    """The newest glibc asked for below this folder; None where there are no ELF files (macOS)."""
    newest: Needed | None = None
    for path in sorted(tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            version = asked(path)
            if version and (newest is None or version > newest.version):
                newest = Needed(version, str(path.relative_to(tree)))
    return newest


def asked(path: Path) -> tuple[int, int] | None:
    """The newest glibc that one file asks for; None if it is no ELF file or asks for none."""
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return None
        content = file.read()
    versions = [(int(major), int(minor)) for major, minor in _NAME.findall(content)]
    name, version = _PACKED_RELOCATIONS
    if name in content:
        versions.append(version)
    return max(versions, default=None)


# Where a file looks for libraries ------------------------------------------------------------------------

_DYNAMIC = 2  # PT_DYNAMIC: the segment that is a table of tags and values
_END, _RPATH, _RUNPATH = 0, 15, 29


def drop_search_path(path: Path) -> None:
    """Takes DT_RPATH and DT_RUNPATH out, in place: no folder of the builder's name is searched anywhere.

    The entries go, what follows moves up. Their text stays where it is, as other names may share it.
    """
    content = path.read_bytes()
    if content[:4] != b"\x7fELF":
        return
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    entry = struct.Struct(order + ("qQ" if wide else "iI"))
    for start, size in _segments(content, wide, order):
        table = content[start : start + size]
        entries = list(entry.iter_unpack(table[: size - size % entry.size]))
        kept = [(tag, value) for tag, value in entries if tag not in (_RPATH, _RUNPATH)]
        if len(kept) < len(entries):
            kept += [(_END, 0)] * (len(entries) - len(kept))
            with path.open("r+b") as file:
                file.seek(start)
                file.write(b"".join(entry.pack(*one) for one in kept))


def _segments(content: bytes, wide: bool, order: str) -> Iterator[tuple[int, int]]:
    """Where the dynamic tables begin in the file, and their sizes."""
    # The headers of 64 and of 32 bits hold the same in other widths, and flags in another place.
    first = struct.unpack_from(order + ("Q" if wide else "I"), content, 32 if wide else 28)[0]
    step, count = struct.unpack_from(order + "HH", content, 54 if wide else 42)
    for at in range(first, first + step * count, step):
        if struct.unpack_from(order + "I", content, at)[0] == _DYNAMIC:
            offset = struct.unpack_from(order + ("Q" if wide else "I"), content, at + (8 if wide else 4))[0]
            size = struct.unpack_from(order + ("Q" if wide else "I"), content, at + (32 if wide else 16))[0]
            yield offset, size
