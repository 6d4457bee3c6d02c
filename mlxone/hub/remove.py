"""One model off the disk: a repo of the Hugging Face cache, a snapshot of it, or files elsewhere.

Elsewhere only files of a model's kinds go: a folder may be somebody's workplace. The file that
makes a folder a model goes first, into a folder of our own beside it, so a kill in between leaves
no half model to be seen and `gc` finds the rest.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.errors import StorageError
from mlxone.hub import cache_tree, gc, in_use, places, shared_blobs, trash
from mlxone.hub.cache_tree import Blob, Tree
from mlxone.hub.entry import Entry
from mlxone.hub.sources import HUGGING_FACE
from mlxone.hub.trash import Swept, Tally

OWN_FILES = (
    "*.safetensors",
    "*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "pytorch_model*.bin",
    "merges.txt",
    "vocab.txt",
    "added_tokens.txt",
    "README.md",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
    ".gitattributes",
    "configuration_*.py",
    "modeling_*.py",
    "tokenization_*.py",
    "processing_*.py",
)
OWN_FOLDERS = ("additional_chat_templates", "[0-9]_*")

_PART = re.compile(r"(.*)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WholeRepo:
    """All revisions of a repo in the Hugging Face cache."""

    folder: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.folder,)

    @property
    def size_bytes(self) -> int:
        tally = Tally()
        payloads = _payloads(cache_tree.read(self.folder).blobs, self.folder.parent)
        return tally.folder(self.folder) + sum(map(tally.file, payloads))

    @property
    def stays(self) -> list[Path]:
        return []

    def run(self) -> Swept:
        cache = self.folder.parent
        linked = [
            p for b in cache_tree.read(self.folder).blobs if (p := shared_blobs.payload_of(b.path, cache))
        ]
        done = trash.delete_folder(trash.set_aside(self.folder, cache))
        for payload in linked:
            done.add(shared_blobs.sweep(payload, cache))
        return done


@dataclass(frozen=True, slots=True)
class OneSnapshot:
    """A revision of a repo that has others."""

    tree: Tree
    commit: str

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.tree.snapshots[self.commit].path,)

    @property
    def size_bytes(self) -> int:
        tally, blobs = Tally(), self._blobs()
        payloads = _payloads(blobs, self.tree.folder.parent)
        files = sum(tally.file(path) for path in [blob.path for blob in blobs] + payloads)
        return files + tally.folder(self.paths[0])

    @property
    def stays(self) -> list[Path]:
        return []

    def run(self) -> Swept:
        """Refs first, so that none ever points to nothing; then the snapshot, then what it alone used."""
        blobs, folder = self._blobs(), self.tree.folder
        linked = [p for b in blobs if (p := shared_blobs.payload_of(b.path, folder.parent))]
        for name, commit in self.tree.refs.items():
            if commit == self.commit:
                (folder / "refs" / name).unlink(missing_ok=True)
        done = trash.delete_folder(trash.set_aside(self.paths[0], folder))
        done.add(gc.delete_unused(blobs, cache_tree.read(folder)))
        for payload in linked:
            done.add(shared_blobs.sweep(payload, folder.parent))
        return done

    def _blobs(self) -> list[Blob]:
        snapshot = self.tree.snapshots[self.commit]
        others = {commit: s for commit, s in self.tree.snapshots.items() if commit != self.commit}
        rest = Tree(self.tree.folder, snapshots=others, opaque=self.tree.opaque)
        return gc.unused([blob for blob in self.tree.blobs if cache_tree.uses([snapshot], blob)], rest)


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """A model outside the cache; the first path is the one that makes it a model."""

    folder: Path
    paths: tuple[Path, ...]
    keeps_folder: bool  # even if nothing is left in it

    @property
    def size_bytes(self) -> int:
        tally = Tally()
        return sum(tally.folder(path) if path.is_dir() else tally.file(path) for path in self.paths)

    @property
    def stays(self) -> list[Path]:
        """What is left behind, if the folder is the model's own."""
        return [] if self.keeps_folder else [p for p in sorted(self.folder.iterdir()) if p not in self.paths]

    def run(self) -> Swept:
        place = trash.new_place(self.folder)
        place.mkdir()
        done = Swept()
        for path in self.paths:
            try:
                path.rename(place / path.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                done.failed(error, path)
        done.add(trash.delete_folder(place))
        if not self.keeps_folder and not any(self.folder.iterdir()):
            self.folder.rmdir()
        return done


Removal = WholeRepo | OneSnapshot | OwnFiles


def removal(
    entry: Entry, *, one_revision: bool = False, beside: Iterable[Entry] = (), roots: Collection[Path] = ()
) -> Removal:
    """What goes with an entry. `beside` are all others known, `roots` folders that hold collections."""
    folder = repo_folder(entry.path)
    if folder is not None:
        _refuse_link(folder)
        return _snapshot_of(folder, entry) if one_revision else WholeRepo(folder)
    _refuse_link(entry.path)
    others = [other.path for other in beside if other.path != entry.path]
    if entry.path.is_dir():
        return _model_folder(entry.path, others, entry.path in roots)
    return _gguf_file(entry.path, others, entry.path.parent in roots)


def remove(what: Removal) -> Swept:
    """Refuses while one of our processes uses it."""
    for path in what.paths:
        users = in_use.using(path)
        if users:
            raise StorageError(f"{path} is in use by {users[0]}", hint="stop that first")
    return what.run()


def remnant(repo: str) -> Entry | None:
    """A cached repo without any model, such as a first download that was cut off."""
    folder = places.hf_cache() / (cache_tree.PREFIX + repo.replace("/", "--"))
    if not folder.is_dir():
        return None
    return Entry(repo, folder / "snapshots", HUGGING_FACE, "none", 0, problem="holds no model")


def repo_folder(path: Path) -> Path | None:
    """The repo a path of the Hugging Face cache is in, seen from its layout."""
    for folder in (path, *path.parents):
        if folder.name == "snapshots" and folder.parent.name.startswith(cache_tree.PREFIX):
            return folder.parent
    return None


def _payloads(blobs: Sequence[Blob], cache: Path) -> list[Path]:
    """The files of the client's shared store that only these blobs need."""
    going = {blob.path for blob in blobs}
    linked = {p for blob in blobs if (p := shared_blobs.payload_of(blob.path, cache))}
    return [p for p in sorted(linked) if (users := shared_blobs.users(p, cache)) and users <= going]


def _snapshot_of(folder: Path, entry: Entry) -> Removal:
    tree = cache_tree.read(folder)
    if tree.opaque:
        raise StorageError(f"{entry.name} cannot be taken apart: {tree.opaque}")
    commit = entry.path.relative_to(folder / "snapshots").parts[0]
    return OneSnapshot(tree, commit) if len(tree.snapshots) > 1 else WholeRepo(folder)


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StorageError(
            f"{path} is a link to {os.path.realpath(path)}", hint="links are laid by hand: remove it so too"
        )


def _model_folder(folder: Path, others: Sequence[Path], is_root: bool) -> OwnFiles:
    own = [
        path
        for path in sorted(folder.iterdir())
        if _is_own(path) and not any(other.is_relative_to(path) for other in others)
    ]
    own.sort(key=lambda path: path.name != "config.json")
    return OwnFiles(folder, tuple(own), is_root)


def _is_own(path: Path) -> bool:
    if path.name == ".cache":  # the Hub client's notes on a download to a folder
        return path.is_dir() and [child.name for child in path.iterdir()] == ["huggingface"]
    patterns = OWN_FOLDERS if path.is_dir() and not path.is_symlink() else OWN_FILES
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)


def _gguf_file(path: Path, others: Sequence[Path], is_root: bool) -> OwnFiles:
    """All parts of it; what only accompanies it (README, mmproj) goes with a folder's last model."""
    folder = path.parent
    own = _parts(path)
    if not is_root and not any(other.is_relative_to(folder) for other in others):
        rest = [p for p in sorted(folder.iterdir()) if p not in own]
        own += [p for p in rest if _is_own(p) or fnmatch.fnmatch(p.name.lower(), "*mmproj*.gguf")]
        return OwnFiles(folder, tuple(own), keeps_folder=False)
    return OwnFiles(folder, tuple(own), keeps_folder=True)


def _parts(path: Path) -> list[Path]:
    whole = _PART.fullmatch(path.name)
    if whole is None:
        return [path]
    stem, count = whole.groups()
    named = [path.with_name(f"{stem}-{n:05}-of-{count}.gguf") for n in range(1, int(count) + 1)]
    return [part for part in named if part.exists()]
