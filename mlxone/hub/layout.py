"""Where a download's files go: the standard cache, or a plain folder.

Both are a `Store`. A file appears under its name in one step and only after it was checked; until
then it is a partial file beside the others, under a lock that other processes see as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import partial, places
from mlxone.hub.client import is_true
from mlxone.hub.repo import File, Plan
from mlxone.hub.verify import damage

LOCK_PATIENCE = 0.05  # seconds; who finds a file locked does another one first


class Busy(Exception):
    """Another process, or another thread, is at this file."""


class Store(Protocol):
    folder: Path  # what a finished download is
    chosen_with: str  # how a user names another place

    def has(self, file: File) -> bool:
        """Nothing is to be done for it any more."""

    def shows(self, file: File) -> bool:
        """Something of its size is there under its name."""

    def room(self, left: Mapping[File, int]) -> int:
        """Bytes of disk that files with so many bytes to fetch will take."""

    def remaining(self, file: File) -> int:
        """Bytes still to fetch for a file that has not got its name yet."""

    def adopt(self, file: File) -> bool:
        """Under the lock: whether it is there after all, if need be under another name.

        Where everything is to be verified, this is what reads it.
        """

    def partial(self, file: File) -> Path:
        """Where its bytes gather. The folder is there once the lock is held."""

    def place(self, file: File) -> None:
        """Makes the checked partial file the file itself."""

    def lock(self, file: File) -> contextlib.AbstractContextManager[None]:
        """Raises `Busy` where somebody else holds it."""

    def finish(self) -> None:
        """All files of the plan are there."""


def store_for(plan: Plan, to: Path | None, verify: bool = False) -> Store:
    """A plain folder is always verified: what stands there may be anything."""
    return Cache(plan, verify) if to is None else Folder(plan, to)


class Cache:
    """`blobs/` holds contents by hash, `snapshots/` their names by links, `refs/` what a branch means."""

    chosen_with = "HF_HUB_CACHE"

    def __init__(self, plan: Plan, verify: bool = False) -> None:
        self.folder = plan.folder
        self._plan, self._verify = plan, verify
        self._root = plan.root
        self._locks = places.hf_cache() / ".locks" / self._root.name

    def has(self, file: File) -> bool:
        return self.shows(file) and not self._verify

    def shows(self, file: File) -> bool:
        return _size(self.folder / file.path) == file.size

    def room(self, left: Mapping[File, int]) -> int:
        """One content is fetched once, unless every name has to be a file of its own."""
        return sum({f.etag: left[f] for f in left}.values()) if _links_wanted() else sum(left.values())

    def remaining(self, file: File) -> int:
        if self.shows(file) or _size(self._blob(file)) == file.size:
            return 0
        return file.size - partial.held_bytes(self.partial(file), file.size)

    def adopt(self, file: File) -> bool:
        if not self._is_right(self.folder / file.path, file):
            blob = self._blob(file)
            if not self._is_right(blob, file):  # `place` replaces it
                return False
            self._show(file, blob, new=False)
        partial.discard(self.partial(file))  # of a run that died in `place`, or that another tool overtook
        return True

    def partial(self, file: File) -> Path:
        return self._root / "blobs" / (file.etag + partial.SUFFIX)

    def place(self, file: File) -> None:
        gathered, blob = self.partial(file), self._blob(file)
        os.replace(gathered, blob)
        partial.forget_notes(gathered)
        self._show(file, blob, new=True)

    def lock(self, file: File) -> contextlib.AbstractContextManager[None]:
        (self._root / "blobs").mkdir(parents=True, exist_ok=True)
        return _locked(self._locks / f"{file.etag}.lock")

    def finish(self) -> None:
        """Writes the branch's commit in one step, so nobody ever reads half of it."""
        ref = self._root / "refs" / self._plan.revision
        if self._plan.revision == self._plan.commit:
            return
        ref.parent.mkdir(parents=True, exist_ok=True)
        # With the user's own mode, which a temporary file would not have: others may read the cache.
        beside = ref.with_name(f".{ref.name}-{secrets.token_hex(4)}")
        try:
            beside.write_text(self._plan.commit, encoding="ascii")
            beside.replace(ref)
        finally:
            beside.unlink(missing_ok=True)

    def _is_right(self, path: Path, file: File) -> bool:
        return _size(path) == file.size and not (self._verify and damage(path, file))

    def _blob(self, file: File) -> Path:
        return self._root / "blobs" / file.etag

    def _show(self, file: File, blob: Path, *, new: bool) -> None:
        name = self.folder / file.path
        name.parent.mkdir(parents=True, exist_ok=True)
        if _links_wanted():
            with contextlib.suppress(OSError):  # a system that has none
                _link(os.path.relpath(blob, name.parent), name)
                return
        if not new:  # another snapshot may use it
            copy = blob.with_name(blob.name + ".mlxone.copy")
            shutil.copyfile(blob, copy)
            blob = copy
        os.replace(blob, name)


class Folder:
    """Plain files under their own names; what was there before is never written over."""

    chosen_with = "--to"

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.folder = folder
        self._plan = plan
        self._work = folder / ".mlxone-download"

    def has(self, file: File) -> bool:
        path = self.folder / file.path
        if not os.path.lexists(path):
            return False
        if path.is_file() and damage(path, file) is None:
            return True
        raise UsageError(
            f"{path} is there already, with other content", hint="move it away, or name another folder"
        )

    def shows(self, file: File) -> bool:
        return _size(self.folder / file.path) == file.size

    def room(self, left: Mapping[File, int]) -> int:
        return sum(left.values())

    def remaining(self, file: File) -> int:
        return file.size - partial.held_bytes(self.partial(file), file.size)

    def adopt(self, file: File) -> bool:
        return self.has(file)

    def partial(self, file: File) -> Path:
        return self._work / f"{_short(file)}-{file.etag}{partial.SUFFIX}"

    def place(self, file: File) -> None:
        gathered, path = self.partial(file), self.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._move(gathered, path)
        partial.forget_notes(gathered)

    def lock(self, file: File) -> contextlib.AbstractContextManager[None]:
        return _locked(self._lock_path(file))

    def finish(self) -> None:
        """Leaves only the files; what another download into this folder works on stays.

        A part of an older content goes: its name is taken now, so it could never become a file.
        """
        for file in self._plan.files:
            for part in {path.name.partition(".")[0] for path in self._work.glob(f"{_short(file)}-*")}:
                with contextlib.suppress(Busy), _locked(self._work / f"{part}.lock"):
                    for path in self._work.glob(f"{part}.*"):
                        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._work.rmdir()

    def _lock_path(self, file: File) -> Path:
        return self._work / f"{_short(file)}-{file.etag}.lock"

    def _move(self, gathered: Path, path: Path) -> None:
        """Unlike a rename, a link never replaces what appeared meanwhile."""
        try:
            os.link(gathered, path)
        except OSError:  # it is there, or the system has no hard links
            if os.path.lexists(path):
                raise StorageError(
                    f"{path} appeared during the download", hint="move it away and try again"
                ) from None
            os.rename(gathered, path)
        else:
            gathered.unlink()


def free_bytes(folder: Path) -> int:
    """On the disk where the folder is, or would be."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _link(target: str, name: Path) -> None:
    try:
        os.symlink(target, name)
    except FileExistsError:
        if name.is_symlink() and os.readlink(name) == target:
            return
        # Points to nothing, or to a file of another size: `has` said so.
        name.unlink(missing_ok=True)
        os.symlink(target, name)


def _links_wanted() -> bool:
    return not is_true("HF_HUB_DISABLE_SYMLINKS")


def _short(file: File) -> str:
    """Its name as a part of another: of one length, and without folders."""
    return hashlib.sha256(file.name.encode()).hexdigest()[:16]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The file lock of the Hub's client, so that its downloads and ours wait for each other."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=LOCK_PATIENCE))
        except TimeoutError:
            raise Busy from None
        yield
