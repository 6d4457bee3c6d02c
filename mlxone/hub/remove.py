"""One model off the disk: from the Hugging Face cache a repo, a revision or a GGUF file; elsewhere files.

Elsewhere only files of a model's kinds go: a folder may be somebody's workplace. The file that
makes a folder a model goes first, into a folder of our own beside it, so a kill in between leaves
no half model to be seen and `gc` finds the rest. A failure of the disk is a line of the result.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import cache_tree, gc, in_use, places, shared_blobs, single, snapshots, trash
from mlxone.hub.cache_tree import Blob, Tree
from mlxone.hub.entry import Entry
from mlxone.hub.own_files import companions, own_files
from mlxone.hub.query import repo_for
from mlxone.hub.sources import HUGGING_FACE, MODEL_DIR
from mlxone.hub.trash import Swept, Tally

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
        linked = _linked(cache_tree.read(self.folder).blobs, cache)
        try:
            done = trash.delete_folder(trash.set_aside(self.folder, cache))
        except OSError as error:
            return trash.refused(error, self.folder)
        return _swept(done, linked, cache)


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
        return _freed(self._blobs(), self.tree) + Tally().folder(self.paths[0])

    @property
    def stays(self) -> list[Path]:
        return []

    def run(self) -> Swept:
        """Refs first, so that none ever points to nothing; then the snapshot, then what it alone used."""
        blobs, folder = self._blobs(), self.tree.folder
        refs = [folder / "refs" / name for name, commit in self.tree.refs.items() if commit == self.commit]
        try:
            for ref in refs:
                ref.unlink(missing_ok=True)
            place = trash.set_aside(self.paths[0], folder)
        except OSError as error:
            if self.paths[0].exists():
                self._put_back(refs)
            return trash.refused(error, self.paths[0])
        done = trash.delete_folder(place)
        return _delete_unused(done, blobs, folder)

    def _put_back(self, refs: Iterable[Path]) -> None:
        for ref in refs:
            with contextlib.suppress(OSError):  # one that another process has just written stays
                beside = ref.with_name(f".{ref.name}-{secrets.token_hex(4)}")
                beside.write_text(self.commit, encoding="ascii")
                if ref.exists():
                    beside.unlink()
                else:
                    beside.replace(ref)

    def _blobs(self) -> list[Blob]:
        snapshot = self.tree.snapshots[self.commit]
        others = {commit: s for commit, s in self.tree.snapshots.items() if commit != self.commit}
        rest = Tree(self.tree.folder, snapshots=others, opaque=self.tree.opaque)
        return gc.unused([blob for blob in self.tree.blobs if cache_tree.uses([snapshot], blob)], rest)


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One of several models of a cached repo: its names in the snapshots, and what they alone used."""

    folder: Path
    paths: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        tree = cache_tree.read(self.folder)
        tally = Tally()
        return _freed(self._blobs(tree), tree) + sum(map(tally.file, self.paths))

    @property
    def stays(self) -> list[Path]:
        return []

    def run(self) -> Swept:
        blobs, done = self._blobs(cache_tree.read(self.folder)), Swept()
        for path in self.paths:
            done.add(trash.delete_file(path))
        return _delete_unused(done, blobs, self.folder)

    def _blobs(self, tree: Tree) -> list[Blob]:
        used = [blob for blob in tree.blobs if cache_tree.uses(tree.snapshots.values(), blob)]
        return gc.unused(used, cache_tree.read(self.folder, without=self.paths))


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
        if self.keeps_folder or not self.folder.is_dir():
            return []
        return [path for path in sorted(self.folder.iterdir()) if path not in self.paths]

    def run(self) -> Swept:
        place = trash.new_place(self.folder)
        try:
            place.mkdir()
        except OSError as error:
            return trash.refused(error, self.folder)
        done = Swept()
        for path in self.paths:
            try:
                path.rename(place / path.name)
            except FileNotFoundError as error:
                if os.path.lexists(path):  # it is the place for it that has gone
                    done.failed(error, path)
            except OSError as error:
                done.failed(error, path)
        done.add(trash.delete_folder(place))
        with contextlib.suppress(OSError):  # not empty, or not ours to take away
            if not self.keeps_folder:
                self.folder.rmdir()
        return done


Removal = WholeRepo | OneSnapshot | CachedFile | OwnFiles


def removal(
    entry: Entry, *, one_revision: bool = False, beside: Iterable[Entry] = (), roots: Collection[Path] = ()
) -> Removal:
    """What goes with an entry. `beside` are all others known, `roots` folders that hold collections."""
    if Path(os.path.realpath(entry.path)).is_relative_to(os.path.realpath(places.bundled_starter())):
        raise UsageError(
            "this starter is part of the program and cannot be deleted by itself",
            hint="mlxone-slim is the same program without it",
        )
    folder = cache_tree.repo_holding(entry.path)
    others = [other for other in beside if other.path != entry.path and not _is_part_of(other, entry)]
    if folder is not None:
        _refuse_link(folder)
        sharing = [other for other in others if cache_tree.repo_holding(other.path) == folder]
        if entry.part and any(other.repo != entry.repo for other in sharing):
            return _cached_file(folder, entry, () if one_revision else sharing)
        return _snapshot_of(folder, entry) if one_revision else WholeRepo(folder)
    _refuse_link(entry.path)
    if entry.path.is_dir():
        return _model_folder(entry, others, entry.path in roots)
    return _gguf_file(entry, others, entry.path.parent in roots)


def remove(what: Removal) -> Swept:
    """Refuses while one of our processes uses it."""
    for path in what.paths:
        users = in_use.using(path)
        if users:
            raise StorageError(f"{path} is in use by {users[0]}", hint="stop that first")
    repo = what.tree.folder if isinstance(what, OneSnapshot) else what.folder
    if not isinstance(what, OwnFiles) and cache_tree.is_locked(repo):
        raise StorageError(f"{repo} is being downloaded into", hint="stop that first")
    return what.run()


def remnant(query: str) -> Entry | None:
    """A cached repo without any model, such as a first download that was cut off."""
    repo = repo_for(query) or query
    folder = snapshots.repo_folder(repo)
    if not folder.is_dir():
        return None
    return Entry(repo, folder / "snapshots", HUGGING_FACE, "none", 0, problem="holds no model")


def _is_part_of(other: Entry, entry: Entry) -> bool:
    """One of the GGUF files that are all meant where the entry is their folder."""
    return bool(other.part) and other.path.parent == entry.path and other.repo_id == entry.repo


def _linked(blobs: Iterable[Blob], cache: Path) -> list[Path]:
    """The files of the client's shared store that these blobs are links to."""
    return [payload for blob in blobs if (payload := shared_blobs.payload_of(blob.path, cache))]


def _payloads(blobs: Sequence[Blob], cache: Path) -> list[Path]:
    """Those of them that only these blobs need."""
    going = {blob.path for blob in blobs}
    linked = sorted(set(_linked(blobs, cache)))
    return [p for p in linked if (users := shared_blobs.users(p, cache)) and users <= going]


def _freed(blobs: Sequence[Blob], tree: Tree) -> int:
    tally = Tally()
    return sum(map(tally.file, [*(blob.path for blob in blobs), *_payloads(blobs, tree.folder.parent)]))


def _delete_unused(done: Swept, blobs: Sequence[Blob], folder: Path) -> Swept:
    linked = _linked(blobs, folder.parent)
    done.add(gc.delete_unused(blobs, cache_tree.read(folder)))
    return _swept(done, linked, folder.parent)


def _swept(done: Swept, linked: Iterable[Path], cache: Path) -> Swept:
    for payload in linked:
        done.add(shared_blobs.sweep(payload, cache))
    return done


def _snapshot_of(folder: Path, entry: Entry) -> Removal:
    tree = cache_tree.read(folder)
    if tree.opaque:
        raise StorageError(f"{entry.name} cannot be taken apart: {tree.opaque}")
    commit = entry.path.relative_to(folder / "snapshots").parts[0]
    return OneSnapshot(tree, commit) if len(tree.snapshots) > 1 else WholeRepo(folder)


def _cached_file(folder: Path, entry: Entry, sharing: Iterable[Entry]) -> CachedFile:
    tree = cache_tree.read(folder)
    if tree.opaque:
        raise StorageError(f"{entry.name} cannot be taken out of its repo: {tree.opaque}")
    everywhere = [entry, *(other for other in sharing if other.repo == entry.repo)]
    return CachedFile(folder, tuple(part for held in everywhere for part in _parts(held.path)))


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise StorageError(
            f"{path} is a link to {os.path.realpath(path)}", hint="links are laid by hand: remove it so too"
        )


def _is_published(entry: Entry) -> bool:
    """In a cache of downloads, and not a folder of somebody's own: there a README may be theirs."""
    return entry.source not in (single.PATH, MODEL_DIR)


def _model_folder(entry: Entry, others: Sequence[Entry], is_root: bool) -> OwnFiles:
    folder, published = entry.path, _is_published(entry)
    if entry.format == "gguf":
        files = [path for path in sorted(folder.iterdir()) if path.suffix == ".gguf"]
        own = list(dict.fromkeys(files + companions(folder, published=published)))
    else:
        own = own_files(folder, published=published)
    own = [path for path in own if not any(other.path.is_relative_to(path) for other in others)]
    return OwnFiles(folder, tuple(own), is_root)


def _gguf_file(entry: Entry, others: Sequence[Entry], is_root: bool) -> OwnFiles:
    """All parts of it; what only accompanies it (README, mmproj) goes with a folder's last model."""
    folder, own = entry.path.parent, _parts(entry.path)
    if is_root or any(other.path.is_relative_to(folder) for other in others):
        return OwnFiles(folder, tuple(own), keeps_folder=True)
    if _holds_another(folder, own):
        return OwnFiles(folder, tuple(own), keeps_folder=True)
    rest = [path for path in companions(folder, published=_is_published(entry)) if path not in own]
    return OwnFiles(folder, (*own, *rest), keeps_folder=False)


def _holds_another(folder: Path, own: Collection[Path]) -> bool:
    """Whether the folder is a model by other files as well, known to the registry or not."""
    for path in folder.iterdir():
        name = path.name.lower()
        if name == "config.json" or name.endswith(".safetensors"):
            return True
        if name.endswith(".gguf") and path not in own and "mmproj" not in name:
            return True
    return False


def _parts(path: Path) -> list[Path]:
    whole = _PART.fullmatch(path.name)
    if whole is None:
        return [path]
    stem, count = whole.groups()
    named = [path.with_name(f"{stem}-{n:05}-of-{count}.gguf") for n in range(1, int(count) + 1)]
    return [part for part in named if os.path.lexists(part)]
