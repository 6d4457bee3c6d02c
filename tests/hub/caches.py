"""Caches as the Hub's client lays them out, made file by file, and questions to them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HFCacheInfo, scan_cache_dir


def commit(n: int) -> str:
    return f"{n:040x}"


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Repo:
    folder: Path

    @classmethod
    def make(cls, cache: Path, name: str, kind: str = "models") -> Repo:
        repo = cls(cache / f"{kind}--{name.replace('/', '--')}")
        for part in ("blobs", "refs", "snapshots"):
            (repo.folder / part).mkdir(parents=True, exist_ok=True)
        return repo

    def blob(self, content: bytes, name: str | None = None) -> Path:
        path = self.folder / "blobs" / (name or etag(content))
        path.write_bytes(content)
        return path

    def snapshot(self, n: int, files: Mapping[str, bytes], *, ref: str | None = None) -> Path:
        folder = self.folder / "snapshots" / commit(n)
        folder.mkdir()
        for name, content in files.items():
            link = folder / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(self.blob(content), link.parent))
        if ref:
            self.ref(ref, n)
        return folder

    def ref(self, name: str, n: int) -> None:
        path = self.folder / "refs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(commit(n))

    @property
    def commits(self) -> set[str]:
        return {path.name for path in (self.folder / "snapshots").iterdir()}

    @property
    def blobs(self) -> set[str]:
        return {path.name for path in (self.folder / "blobs").iterdir()}


def contents(snapshot: Path) -> dict[str, bytes]:
    """Every file of a snapshot, read through its links."""
    files = (path for path in snapshot.rglob("*") if not path.is_dir())
    return {path.relative_to(snapshot).as_posix(): path.read_bytes() for path in files}


def bytes_on_disk(*folders: Path) -> int:
    """What all files take, each counted once however many names it has."""
    found = (path.lstat() for folder in folders for path in folder.rglob("*") if not path.is_symlink())
    return sum({(s.st_dev, s.st_ino): s.st_size for s in found if not _is_folder(s)}.values())


def _is_folder(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o040000


def by_the_client(cache: Path) -> HFCacheInfo:
    """The cache as its owner, the Hub's client, reads it."""
    return scan_cache_dir(cache)
