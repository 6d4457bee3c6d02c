"""Where a download's files go: the standard cache, or a plain folder.

Both are a `Store`. A file appears under its name in one step and only after it was checked; until
then it is a partial file beside the others, under a lock that other processes see as well.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mlxone.core.errors import StorageError, UsageError
from mlxone.hub import partial, places, snapshots
from mlxone.hub.repo import File, Plan
from mlxone.hub.verify import damage

LOCK_PATIENCE = 0.05  # seconds; who finds a file locked does another one first
_TRUE = ("1", "ON", "YES", "TRUE")


class Busy(Exception):
    """Another process, or another thread, is at this file."""


class Store(Protocol):
    folder: Path  # what a finished download is

    def has(self, file: File) -> bool:
        """Under its name, finished."""

    def remaining(self, file: File) -> int:
        """Bytes still to fetch for a file that has not got its name yet."""

    def adopt(self, file: File) -> bool:
        """Under the lock: whether it is there after all, if need be under another name."""

    def partial(self, file: File) -> Path:
        """Where its bytes gather. The folder is there once the lock is held."""

    def place(self, file: File) -> None:
        """Makes the checked partial file the file itself."""

    def lock(self, file: File) -> contextlib.AbstractContextManager[None]:
        """Raises `Busy` where somebody else holds it."""

    def finish(self) -> None:
        """All files of the plan are there."""


def store_for(plan: Plan, to: Path | None) -> Store:
    return Cache(plan) if to is None else Folder(plan, to)


class Cache:
    """`blobs/` holds contents by hash, `snapshots/` their names by links, `refs/` what a branch means."""

    def __init__(self, plan: Plan) -> None:
        self.folder = plan.folder
        self._plan = plan
        self._root = snapshots.repo_folder(plan.repo)
        self._locks = places.hf_cache() / ".locks" / self._root.name

    def has(self, file: File) -> bool:
        return _size(self.folder / file.path) == file.size

    def remaining(self, file: File) -> int:
        if _size(self._blob(file)) == file.size:
            return 0
        return file.size - partial.held_bytes(self.partial(file), file.size)

    def adopt(self, file: File) -> bool:
        if self.has(file):
            return True
        blob = self._blob(file)
        if _size(blob) != file.size:  # none, or one that some tool cut off: `place` replaces it
            return False
        self._show(file, blob, new=False)
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
        beside = ref.with_name(f".{ref.name}-{os.getpid()}")
        try:
            beside.write_text(self._plan.commit, encoding="ascii")
            beside.replace(ref)
        finally:
            beside.unlink(missing_ok=True)

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

    def remaining(self, file: File) -> int:
        return file.size - partial.held_bytes(self.partial(file), file.size)

    def adopt(self, file: File) -> bool:
        return self.has(file)

    def partial(self, file: File) -> Path:
        return self._work / (file.etag + partial.SUFFIX)

    def place(self, file: File) -> None:
        gathered, path = self.partial(file), self.folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._move(gathered, path)
        partial.forget_notes(gathered)

    def lock(self, file: File) -> contextlib.AbstractContextManager[None]:
        return _locked(self._lock_path(file))

    def finish(self) -> None:
        """Leaves only the files; what another download into this folder works on stays."""
        for file in self._plan.files:
            self._lock_path(file).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._work.rmdir()

    def _lock_path(self, file: File) -> Path:
        return self._work / f"{file.etag}.lock"

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
    return os.environ.get("HF_HUB_DISABLE_SYMLINKS", "").upper() not in _TRUE


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
