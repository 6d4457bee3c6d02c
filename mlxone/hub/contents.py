"""What one folder holds: a model, GGUF files, a repo of the Hub's cache, or only further folders.

Nothing found on a disk is an error here: what cannot be listed is looked at again the next time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from mlxone.core.errors import MlxoneError, StorageError
from mlxone.formats.config import read_json
from mlxone.formats.shards import INDEX
from mlxone.hub.describe import (
    Reading,
    Subject,
    describe_folder,
    describe_gguf,
    part_number,
)
from mlxone.hub.entry import Entry, usability
from mlxone.hub.snapshots import PREFIX, STARTER_REPO, ref
from mlxone.hub.sources import HUGGING_FACE, STARTER, Source
from mlxone.hub.stamps import Place, stamp

MODEL_DEPTH = 2  # folders below a model's own that still belong to it
MOST_FILES = 100_000  # of one folder

_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TELLING = (".json", ".safetensors", ".gguf")  # what makes a folder a model's
_COMPANIONS = ("mmproj", "imatrix")  # GGUF files that are no models


@dataclass(slots=True)
class Tree:
    """A folder's files by their name below it, and what of it has to be watched."""

    sizes: dict[str, int] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)  # all below it that were listed
    plain: list[str] = field(default_factory=list)  # files that are no links: they can be written in place
    links: list[str] = field(default_factory=list)  # folders that are links
    certain: bool = True  # False: the system did not let us see all of it

    @property
    def top(self) -> list[str]:
        return [name for name in self.sizes if "/" not in name]


def look(source: Source, folder: str, depth: int) -> Place:
    """Everything a scan wants to know of one folder of a source; `depth` is how far below it is."""
    tree = list_tree(folder, 0)
    if depth and _is_repo(folder, tree):
        return _look_at_repo(source, folder)
    if source.name == HUGGING_FACE:
        repos = [name for name in tree.folders if name.startswith(PREFIX)] if depth == 0 else []
        return Place(folder, stamp(folder, ("",), tree.certain), ("",), tuple(repos))
    return _look_at_folder(source, folder, depth, tree)


def list_tree(folder: str, depth: int, below: str = "") -> Tree:
    """Sizes follow links, so a link to nothing is no file. Linked folders are named, not entered."""
    tree = Tree()
    try:
        with os.scandir(folder + "/" + below) as items:
            found = sorted(items, key=lambda item: item.name)
    except OSError as error:
        tree.certain = isinstance(error, FileNotFoundError | NotADirectoryError)
        return tree
    for item in found[:MOST_FILES]:
        if item.name.isprintable():  # what can be neither shown nor typed is passed by
            _add(tree, item, below + item.name)
    for name in [n for n in tree.folders if not n.rpartition("/")[2].startswith(".")] if depth else ():
        inner = list_tree(folder, depth - 1, name + "/")
        tree.sizes |= inner.sizes
        tree.folders += inner.folders
        tree.plain += inner.plain
        tree.certain &= inner.certain
    return tree


def _add(tree: Tree, item: os.DirEntry[str], name: str) -> None:
    try:
        if item.is_dir():
            (tree.links if item.is_symlink() else tree.folders).append(name)
        elif item.is_file():
            tree.sizes[name] = item.stat().st_size
            if not item.is_symlink():
                tree.plain.append(name)
    except FileNotFoundError:
        pass  # gone since it was listed, or a link to nothing
    except OSError:
        tree.certain = False


def _look_at_folder(source: Source, folder: str, depth: int, tree: Tree) -> Place:
    is_model = _is_model(folder, tree)
    certain = tree.certain
    if is_model:
        tree = list_tree(folder, MODEL_DEPTH)
        certain = tree.certain
    enter = depth < source.depth and (not is_model or depth == 0) and "model_index.json" not in tree.sizes
    children = [n for n in tree.folders if "/" not in n and n[0] != "."] if enter else []
    children += [name for name in tree.links if _leads_elsewhere(source, folder, name)] if enter else []
    files = tree.sizes if is_model else [name for name in tree.top if name.endswith(_TELLING)]
    watches = ("", *(tree.folders if is_model else ()), *files)
    now = stamp(folder, watches, certain)  # before anything is read: what changes meanwhile is seen later
    name = _name(source, folder)
    readings = []
    if is_model:
        size = sum(size for file, size in tree.sizes.items() if not file.endswith(".gguf"))
        subject = Subject(name, source.name, Path(folder), size)
        readings.append(describe_folder(subject, tree.sizes))
    groups = list(_gguf_groups(tree.top))
    for stem, parts in groups:
        alone = len(groups) == 1 and not is_model and depth
        title = name if alone else f"{name}/{stem}" if depth else stem
        part = "" if alone or not depth else stem
        readings.append(_gguf(Subject(title, source.name, Path(folder), 0, part=part), parts, tree))
    return _place(folder, now, watches, children, readings)


def _look_at_repo(source: Source, folder: str) -> Place:
    repo = os.path.basename(folder).removeprefix(PREFIX).replace("--", "/")
    listed = list_tree(folder + "/snapshots", 0)
    commits = [*listed.folders, *listed.links]
    trees = {commit: list_tree(f"{folder}/snapshots/{commit}", MODEL_DEPTH) for commit in commits}
    watches = ["snapshots", "blobs", "refs/main"]
    for commit, tree in trees.items():
        inside = ["", *(f"/{name}" for name in tree.folders)]
        inside += [f"/{name}" for name in tree.plain]
        watches += [f"snapshots/{commit}{name}" for name in inside]
    certain = listed.certain and all(tree.certain for tree in trees.values())
    now = stamp(folder, watches, certain)
    readings: list[Reading] = []
    for commit, tree in trees.items():
        place = Path(folder, "snapshots", commit)
        readings += _in_snapshot(Subject(repo, source.name, place, 0, commit), tree)
    main = ref(Path(folder), "main")
    return _place(folder, now, watches, (), _with_canonical(readings, main))


def _in_snapshot(subject: Subject, tree: Tree) -> Iterator[Reading]:
    is_model = _is_model(str(subject.path), tree)
    if is_model:
        size = sum(size for file, size in tree.sizes.items() if not file.endswith(".gguf"))
        yield describe_folder(replace(subject, size_bytes=size), tree.sizes)
    groups = list(_gguf_groups(tree.sizes))
    for stem, parts in groups:
        alone = len(groups) == 1 and not is_model
        named = subject if alone else replace(subject, repo=f"{subject.repo}/{stem}", part=stem)
        yield _gguf(named, parts, tree)


def _with_canonical(readings: Sequence[Reading], main: str | None) -> list[Reading]:
    """What `main` points to if that can be used, else the snapshot that came last: one of each name."""

    def rank(reading: Reading) -> tuple[int, bool, float, str]:
        entry = reading.entry
        return usability(entry), entry.revision == main, _mtime(entry), entry.revision or ""

    best: dict[str, Reading] = {}
    for reading in sorted(readings, key=rank):
        best[reading.entry.repo] = reading
    return [replace(r, entry=replace(r.entry, canonical=best[r.entry.repo] is r)) for r in readings]


def _mtime(entry: Entry) -> float:
    folder = entry.path if entry.format == "safetensors" else entry.path.parent
    try:
        return os.stat(folder).st_mtime
    except OSError:
        return 0.0


def _place(
    folder: str, now: str, watches: Iterable[str], children: Iterable[str], readings: Sequence[Reading]
) -> Place:
    lasting = all(reading.lasting for reading in readings)
    entries = tuple(reading.entry for reading in readings)
    return Place(folder, now if lasting else "", tuple(watches), tuple(children), entries)


def _is_repo(folder: str, tree: Tree) -> bool:
    return os.path.basename(folder).startswith(PREFIX) and "snapshots" in tree.folders


def _is_model(folder: str, tree: Tree) -> bool:
    """Meant to be one, whole or not: other programs have files of these names, too."""
    names = set(tree.top)
    weights = any(name.endswith(".safetensors") for name in names)
    if "config.json" not in names:
        return "adapter_config.json" not in names and any(
            name == INDEX or _WEIGHTS.fullmatch(name) for name in names
        )
    if weights or INDEX in names:
        return True
    if any(name.endswith(".gguf") for name in tree.sizes):
        return False  # its config is only there for the record
    try:
        return isinstance(read_json(Path(folder, "config.json")).get("model_type"), str)
    except StorageError:
        return True
    except MlxoneError:
        return False


def _gguf_groups(names: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each model's parts in order, by the name they share."""

    def key(name: str) -> tuple[str, int]:
        return part_number(name)

    models = [n for n in names if n.endswith(".gguf") and not _is_companion(n)]
    for stem, parts in groupby(sorted(models, key=key), key=lambda name: key(name)[0]):
        yield stem.rpartition("/")[2], list(parts)


def _is_companion(name: str) -> bool:
    return any(word in name.rpartition("/")[2].lower() for word in _COMPANIONS)


def _gguf(subject: Subject, parts: list[str], tree: Tree) -> Reading:
    paths = [subject.path / name for name in parts]
    size = sum(tree.sizes[name] for name in parts)
    sees = any(n.endswith(".gguf") and "mmproj" in n.lower() for n in tree.sizes)
    return describe_gguf(replace(subject, path=paths[0], size_bytes=size), paths, sees=sees)


def _name(source: Source, folder: str) -> str:
    """As the Hub would call it: the last two names below the source's folder."""
    if source.name == STARTER:
        return STARTER_REPO
    below = os.path.relpath(folder, source.folder)
    return os.path.basename(folder) if below == "." else "/".join(below.split(os.sep)[-2:])


def _leads_elsewhere(source: Source, folder: str, name: str) -> bool:
    """Whether a linked folder shows anything that is not found without it, nor leads in a circle."""
    if name.startswith("."):
        return False
    here, there = os.path.realpath(folder), os.path.realpath(f"{folder}/{name}")
    root = os.path.realpath(source.folder)
    return not _within(there, root) and not _within(here, there) and not _within(root, there)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
