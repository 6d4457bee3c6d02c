"""Which glibc the packed program needs: the newest version that any of its ELF files asks for.

A version is asked for by its name in a file's string table. Reading names and not the tables that
use them may find one too many, never one too few.
"""

from __future__ import annotations

import re
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
