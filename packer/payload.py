"""The payload of the launcher: a tree of files as a zstd-compressed ustar archive, and its manifest.

The same tree gives the same bytes, whenever and by whomever it is packed: entries are sorted, and
times, owners and all of the mode but "may be executed" are left out. `manifest.json`, the first
entry, lists every file and link but itself:

    {"files": {"a": {"link": "b"}, "b": {"mode": "0755", "sha256": "…", "size": 1}}, "kind": …, "version": …}

A runtime is named after it, so a folder of that name is a promise about all that is in it.
What an unpacker could not write safely everywhere is refused here: names that leave the tree, by
themselves or through a link, and anything but files, folders and links.

`zstandard` is imported only to compress.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from packer.words import BuildError

MANIFEST = "manifest.json"
RESERVED = {MANIFEST, "stamp"}  # what the archive and the launcher add at the top
BLOCK = 512


@dataclass(frozen=True)
class Manifest:
    version: str
    kind: str
    files: dict[str, dict[str, Any]]

    @cached_property
    def text(self) -> bytes:
        """The bytes of manifest.json."""
        content = {"version": self.version, "kind": self.kind, "files": self.files}
        return json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"

    @property
    def name(self) -> str:
        """What the runtime is called."""
        return f"{self.version}-{hashlib.sha256(self.text).hexdigest()[:16]}"

    @property
    def size(self) -> int:
        """What the files take, together."""
        return sum(entry.get("size", 0) for entry in self.files.values())


def pack(tree: Path, archive: Path, *, version: str, kind: str, level: int) -> Manifest:
    """Writes the tree to `archive` and returns what is in it."""
    entries = _entries(tree)
    manifest = Manifest(version, kind, {name: described for name, described in entries.items() if described})
    headers = _headers(entries, manifest)
    # The size goes into zstd's header: the launcher asks for that much room before it unpacks.
    size = sum(len(header) + _padded(info.size) for info, header in headers) + 2 * BLOCK
    with archive.open("wb") as file:
        packed = _compressor(file, size, level)
        for info, header in headers:
            packed.write(header)
            if info.name == MANIFEST:
                packed.write(manifest.text)
            elif info.isreg():
                _copy(tree / info.name, packed, entries[info.name])
            packed.write(bytes(_padded(info.size) - info.size))
        packed.write(bytes(2 * BLOCK))
        packed.close()
    return manifest


def _compressor(file: IO[bytes], size: int, level: int) -> Any:
    import zstandard

    # With threads, however many, the bytes are the same; without them they would be others.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level, write_checksum=1, write_content_size=1, threads=max(1, os.cpu_count() or 1)
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    return compressor.stream_writer(file, size=size, closefd=False)


def _entries(tree: Path) -> dict[str, dict[str, Any]]:
    """By path below the tree, sorted: so a folder, which has no description, precedes what is in it."""
    found: dict[str, dict[str, Any]] = {}
    for folder, folders, files in os.walk(tree):
        for name in folders + files:
            path = Path(folder, name)
            found[_checked_name(path.relative_to(tree))] = _described(tree, path)
    return dict(sorted(found.items()))


def _checked_name(relative: Path) -> str:
    name = relative.as_posix()
    if name in RESERVED:
        raise BuildError(f"the tree has a {name} of its own: the launcher keeps that name for itself")
    if "\n" in name or not name.isprintable():  # surrogates, which stand for bytes that are no UTF-8, neither
        raise BuildError(f"{name!r} cannot be packed: its name has unprintable characters")
    return name


def _described(tree: Path, path: Path) -> dict[str, Any]:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return {}
    if stat.S_ISLNK(status.st_mode):
        return {"link": _checked_link(tree, path)}
    if not stat.S_ISREG(status.st_mode):
        raise BuildError(f"{path} cannot be packed: it is neither a file, a folder nor a link")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "size": status.st_size, "mode": "0755" if status.st_mode & 0o100 else "0644"}


def _checked_link(tree: Path, path: Path) -> str:
    target = os.readlink(path)
    where = os.path.normpath(path.parent.relative_to(tree) / target)
    if os.path.isabs(target) or where.split(os.sep)[0] == "..":
        raise BuildError(f"{path} cannot be packed: it links to {target}, outside the tree")
    return target


def _headers(entries: dict[str, dict[str, Any]], manifest: Manifest) -> list[tuple[tarfile.TarInfo, bytes]]:
    first = _info(MANIFEST, {"size": len(manifest.text), "mode": "0644"})
    infos = [first, *(_info(name, described) for name, described in entries.items())]
    return [(info, _header(info)) for info in infos]


def _info(name: str, described: dict[str, Any]) -> tarfile.TarInfo:
    """Everything that is not set here is zero or empty by itself."""
    info = tarfile.TarInfo(name)
    info.mode = int(described.get("mode", "0755"), 8)
    info.size = described.get("size", 0)
    if not described:
        info.type = tarfile.DIRTYPE
    elif "link" in described:
        info.type, info.linkname = tarfile.SYMTYPE, described["link"]
    return info


def _header(info: tarfile.TarInfo) -> bytes:
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as exc:
        raise BuildError(f"{info.name} cannot be packed: {exc}") from exc


def _copy(path: Path, packed: Any, described: dict[str, Any]) -> None:
    """Once more with its hash: the manifest was made before."""
    seen = hashlib.sha256()
    with path.open("rb") as source:
        left = described["size"]
        while left and (chunk := source.read(min(left, 1 << 20))):
            packed.write(chunk)
            seen.update(chunk)
            left -= len(chunk)
        if source.read(1) or seen.hexdigest() != described["sha256"]:
            raise BuildError(f"{path} changed while it was packed")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
