"""What is known of a model beside its registry entry: read from its folder when somebody asks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxone.core.errors import MlxoneError
from mlxone.formats.config import read_json
from mlxone.hub import cache_tree
from mlxone.hub.entry import Entry

TEMPLATES = ("chat_template.jinja", "chat_template.json")


@dataclass(frozen=True, slots=True)
class Revision:
    commit: str
    path: Path
    refs: tuple[str, ...]  # the branches and tags that mean it
    canonical: bool


@dataclass(frozen=True, slots=True)
class Details:
    files: dict[str, int]  # with their bytes
    revisions: list[Revision] = field(default_factory=list)
    copies: list[Entry] = field(default_factory=list)  # of the same repo, in other places
    architecture: str | None = None
    has_chat_template: bool | None = None  # None: of a GGUF file, whose inside is not looked into
    generation: dict[str, Any] = field(default_factory=dict)


def details(entry: Entry, known: Iterable[Entry]) -> Details:
    """Never fails: what cannot be read is left out, and why is the entry's problem."""
    same = [other for other in known if entry.repo in (other.repo, other.repo_id)]
    files = dict(_files(entry.path))
    revisions = _revisions(entry, same)
    held = {revision.path for revision in revisions}
    held.add(entry.path)
    copies = [other for other in same if not held & _around(other.path)]
    if entry.format == "gguf" or not entry.path.is_dir():
        return Details(files, revisions, copies)
    architectures = _json(entry.path / "config.json").get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else None
    return Details(
        files,
        revisions,
        copies,
        named if isinstance(named, str) else None,
        _has_template(entry.path),
        _json(entry.path / "generation_config.json"),
    )


def _around(path: Path) -> set[Path]:
    return {path, *path.parents}


def _files(path: Path) -> Iterable[tuple[str, int]]:
    if not path.is_dir():
        yield path.name, _size(path)
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            file = Path(folder, name)
            yield file.relative_to(path).as_posix(), _size(file)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _revisions(entry: Entry, same: Sequence[Entry]) -> list[Revision]:
    folder = cache_tree.repo_holding(entry.path)
    if folder is None:
        return []
    tree = cache_tree.read(folder)
    inside = [other for other in same if cache_tree.repo_holding(other.path) == folder]
    canonical = {other.revision for other in inside if other.canonical}
    return [
        Revision(
            commit,
            snapshot.path,
            tuple(name for name, meant in tree.refs.items() if meant == commit),
            commit in canonical,
        )
        for commit, snapshot in tree.snapshots.items()
    ]


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in TEMPLATES):
        return True
    return bool(_json(folder / "tokenizer_config.json").get("chat_template"))


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except MlxoneError:
        return {}
