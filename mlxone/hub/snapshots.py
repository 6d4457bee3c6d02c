"""Model folders on disk. Each source lists what it holds; more sources are added to the table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlxone.hub import places

PREFIX = "models--"
STARTER_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder with a config.json: without one it is half a download, or no model."""

    repo: str
    path: Path


def is_model(folder: Path) -> bool:
    return os.path.isfile(folder / "config.json")


def is_whole(folder: Path) -> bool:
    """A model whose weights are all there, by name: what other tools leave may be its config alone."""
    if not is_model(folder):
        return False
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_bytes())
        return all((folder / name).is_file() for name in set(index["weight_map"].values()))
    except FileNotFoundError:
        return any(path.is_file() for path in folder.glob("*.safetensors"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def hugging_face() -> Iterator[Snapshot]:
    for folder in _listed(places.hf_cache()):
        if folder.name.startswith(PREFIX) and (path := _canonical(folder)):
            yield Snapshot(folder.name.removeprefix(PREFIX).replace("--", "/"), path)


def starter() -> Iterator[Snapshot]:
    """The starter answers to the name of what it was made from: `SmolLM2` finds it."""
    if is_whole(places.starter_folder()):
        yield Snapshot(STARTER_REPO, places.starter_folder())


SOURCES: tuple[Callable[[], Iterator[Snapshot]], ...] = (hugging_face, starter)


def on_disk() -> dict[str, Snapshot]:
    """One snapshot per repo; where two sources have it, the first source's."""
    found: dict[str, Snapshot] = {}
    for source in SOURCES:
        for snapshot in source():
            found.setdefault(snapshot.repo, snapshot)
    return found


def snapshot_of(repo: str, revision: str | None = None) -> Path | None:
    """A cached repo's folder; a revision is a branch, a tag or the beginning of a commit."""
    folder = places.hf_cache() / (PREFIX + repo.replace("/", "--"))
    if revision is None:
        return _canonical(folder)
    commit = _ref(folder, revision) or revision
    candidates = [p for p in _listed(folder / "snapshots") if p.name.startswith(commit) and is_whole(p)]
    return candidates[0] if len(candidates) == 1 and len(commit) >= 7 else None


def _canonical(folder: Path) -> Path | None:
    """What `main` points to; where that is not on disk, the snapshot that came last."""
    snapshots = [p for p in _listed(folder / "snapshots") if is_whole(p)]
    main = _ref(folder, "main")
    return max(snapshots, key=lambda p: (p.name == main, p.stat().st_mtime), default=None)


def _ref(folder: Path, name: str) -> str | None:
    if ".." in name or name.startswith("/"):
        return None
    try:
        return (folder / "refs" / name).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
