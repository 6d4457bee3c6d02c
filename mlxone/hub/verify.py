"""Whether a file holds what the Hub says it holds."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlxone.hub.repo import File


def damage(path: Path, file: File) -> str | None:
    """What is wrong with it, in a few words; None when it is right to the last bit."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes, not {file.size}"
    return None if _digest(path, file) == file.etag else "its hash differs"


def _digest(path: Path, file: File) -> str:
    with path.open("rb") as opened:
        if len(file.etag) == 64:
            return hashlib.file_digest(opened, "sha256").hexdigest()
        # Git hashes a small file together with a header, and by sha1: no secret depends on it.
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()
