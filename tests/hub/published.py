"""A model of true size on the Hub of a test: its shards' beginnings, and their true sizes in the listing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.hub.fake_hub import FakeHub, Repo

BEHIND = 300_000  # bytes of holes behind each header: more than one request takes


def publish(hub: FakeHub, repo: str, folder: Path) -> Repo:
    files, listed = {}, []
    for path in sorted(folder.iterdir()):
        size = path.stat().st_size
        with path.open("rb") as file:
            content = file.read(_shown(path, size))
        files[path.name] = content
        listed.append(_row(path.name, size, content))
    hub.repos[repo] = Repo(files, revisions=("main", "v2"), listed=listed)
    return hub.repos[repo]


def header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _shown(path: Path, size: int) -> int:
    return min(size, header_bytes(path) + BEHIND) if path.suffix == ".safetensors" else size


def _row(name: str, size: int, content: bytes) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": name, "size": size, "blobId": hashlib.sha1(content).hexdigest()}
    if name.endswith(".safetensors"):
        row["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
    return row
