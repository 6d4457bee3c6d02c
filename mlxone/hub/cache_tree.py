"""One repo's folder in the Hugging Face cache as it stands on disk: refs, snapshots, blobs.

Reads names and stats only. What cannot be read is never taken for absent: it makes the tree, or
the snapshot, `opaque`, and whoever deletes leaves alone what an opaque part might need.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.hub import partial
from mlxone.hub.snapshots import PREFIX

LOCAL = (".DS_Store", "Thumbs.db", "desktop.ini")  # what file managers leave in any folder

Inode = tuple[int, int]


@dataclass(slots=True)
class Snapshot:
    path: Path
    changed: float  # when a folder in it last changed
    names: set[str] = field(default_factory=set)  # of the files that are really there
    links: set[Path] = field(default_factory=set)  # what its links point to, whether there or not
    inodes: set[Inode] = field(default_factory=set)  # what its files are in the end
    opaque: str = ""  # why not all it needs is known


@dataclass(frozen=True, slots=True)
class Blob:
    path: Path
    size: int
    inode: Inode
    changed: float
    is_link: bool


@dataclass(slots=True)
class Tree:
    folder: Path
    refs: dict[str, str] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    blobs: list[Blob] = field(default_factory=list)
    unfinished: bool = False  # a download left a part of a file
    opaque: str = ""

    @property
    def repo(self) -> str:
        return self.folder.name.removeprefix(PREFIX).replace("--", "/")


def repo_folders(cache: Path) -> list[Path]:
    """Models only: what else is cached (datasets, spaces) is not ours to judge."""
    return [Path(entry.path) for entry in _entries(cache) if entry.name.startswith(PREFIX)]


def repo_holding(path: Path) -> Path | None:
    """The repo that a path of the Hugging Face cache is in, seen from its layout."""
    for folder in (path, *path.parents):
        if folder.name == "snapshots" and folder.parent.name.startswith(PREFIX):
            return folder.parent
    return None


def is_locked(folder: Path) -> bool:
    """Whether a process fetches a file of this repo: the Hub client and we lock each one meanwhile."""
    return any(_is_held(entry.path) for entry in _entries(folder.parent / ".locks" / folder.name))


def _is_held(lock: str) -> bool:
    try:
        with open(lock, "rb") as file:
            # Shared, and given back at once: whoever wants it meanwhile asks again.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # gone, or not to be read: then nobody of ours holds it
    return False


def read(folder: Path, without: Collection[Path] = ()) -> Tree:
    """`without` are files of snapshots that are passed over, as if they were gone."""
    tree = Tree(folder)
    try:
        for part in (folder, folder / "refs", folder / "snapshots", folder / "blobs"):
            if part.is_symlink():
                tree.opaque = f"{part} is a link to another place"
                return tree
        tree.refs = dict(_refs(folder / "refs"))
        for entry in _entries(folder / "snapshots"):
            if entry.name in LOCAL:
                continue
            if not entry.is_dir(follow_symlinks=False):
                tree.opaque = f"{entry.path} is not a snapshot's folder"
                return tree
            tree.snapshots[entry.name] = _snapshot(Path(entry.path), frozenset(map(str, without)))
        _read_blobs(tree)
    except OSError as error:
        tree.opaque = f"{error.filename or folder}: {error.strerror or error}"
    unclear = next((name for name, commit in tree.refs.items() if not commit), None)
    if unclear:
        tree.opaque = f"{folder / 'refs' / unclear} does not name a commit"
    return tree


def changed(found: os.stat_result) -> float:
    """The later of both times: what was copied here with its old date is new all the same."""
    return max(found.st_mtime, found.st_ctime)


def inode(found: os.stat_result) -> Inode:
    return found.st_dev, found.st_ino


def uses(snapshots: Iterable[Snapshot], blob: Blob) -> bool:
    return any(blob.path in snapshot.links or blob.inode in snapshot.inodes for snapshot in snapshots)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _refs(folder: Path, above: str = "") -> Iterator[tuple[str, str]]:
    """Name and commit; the commit is empty where the file does not hold one."""
    for entry in _entries(folder):
        if entry.name.startswith("."):  # one that is just being written
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _refs(Path(entry.path), f"{above}{entry.name}/")
        else:
            text = Path(entry.path).read_bytes().strip()
            yield f"{above}{entry.name}", text.decode("ascii", "replace") if text.isalnum() else ""


def _snapshot(folder: Path, without: frozenset[str]) -> Snapshot:
    found = Snapshot(folder, changed(folder.lstat()))

    def failed(error: OSError) -> None:
        found.opaque = f"{error.filename or folder}: {error.strerror or error}"

    for path, folders, names in os.walk(folder, onerror=failed):
        found.changed = max(found.changed, changed(os.lstat(path)))
        for name in folders:
            if os.path.islink(os.path.join(path, name)):
                found.opaque = f"{os.path.join(path, name)} is a link to a folder"
        for name in names:
            file = os.path.join(path, name)
            if name not in LOCAL and file not in without:
                _add_file(found, file)
    return found


def _add_file(snapshot: Snapshot, path: str) -> None:
    try:
        target = os.readlink(path)
    except OSError:
        pass  # not a link
    else:
        if os.path.isabs(target):  # perhaps by another road than the one this folder was reached by
            target = os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target))
        snapshot.links.add(Path(os.path.normpath(os.path.join(os.path.dirname(path), target))))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        snapshot.opaque = f"{path}: {error.strerror or error}"
        return
    snapshot.inodes.add(inode(found))
    snapshot.names.add(os.path.relpath(path, snapshot.path))


def _read_blobs(tree: Tree) -> None:
    for entry in _entries(tree.folder / "blobs"):
        if entry.name.endswith(partial.NOTES):  # a part's, of which there is nothing without it
            continue
        if ".incomplete" in entry.name:
            tree.unfinished = True
            continue
        found = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode):
            link = stat.S_ISLNK(found.st_mode)
            blob = Blob(Path(entry.path), found.st_size, inode(found), changed(found), link)
            tree.blobs.append(blob)
