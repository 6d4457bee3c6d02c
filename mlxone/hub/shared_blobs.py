"""The store that newer Hub clients keep beside the repos: large files once, for all repos that have them.

`blobs/XX/HASH` in the cache is the file; a repo's own `blobs/ETAG` is then a link to it; `HASH.refs`
lists those links, a line each, written before the link is. A file goes only under the client's own
lock and only when no listed link is left; without a list it stays, as with the client itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from mlxone.hub.trash import Swept, delete_file

MARKER = ".huggingface-shared-blobs"
LAYOUT = "1\n"

_HASH = re.compile(r"[0-9a-f]{64}")


def payload_of(blob: Path, cache: Path) -> Path | None:
    """What a repo's blob points to, if that is a file of the store."""
    try:
        target = Path(os.path.normpath(blob.parent / os.readlink(blob)))
    except OSError:
        return None
    return target if _is_place(target, cache) else None


def payloads(cache: Path) -> Iterator[Path]:
    if not _is_ours_to_read(cache):
        return
    for folder in sorted((cache / "blobs").iterdir()):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in sorted(folder.iterdir()):
            if _is_place(path, cache) and stat.S_ISREG(path.lstat().st_mode):
                yield path


def users(payload: Path, cache: Path) -> set[Path] | None:
    """The repos' blobs that point to it; None where that cannot be known."""
    try:
        lines = _list_of(payload).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError):
        return None
    named = {cache / line for line in lines if line and ".." not in line and not line.startswith("/")}
    return {blob for blob in named if payload_of(blob, cache) == payload}


def sweep(payload: Path, cache: Path) -> Swept:
    """Deletes it if nobody points to it any more."""
    done = Swept()
    if not _is_ours_to_read(cache):
        return done
    try:
        with _locked(payload):
            if users(payload, cache) == set():
                done = delete_file(payload)
                _list_of(payload).unlink(missing_ok=True)
    except OSError as error:
        done.failed(error, payload)
    return done


def _list_of(payload: Path) -> Path:
    return payload.with_name(f"{payload.name}.refs")


def _is_place(path: Path, cache: Path) -> bool:
    return bool(
        _HASH.fullmatch(path.name)
        and path.parent.name == path.name[:2]
        and path.parent.parent == cache / "blobs"
    )


def _is_ours_to_read(cache: Path) -> bool:
    """Of a later layout nothing is known, so nothing of it is touched."""
    store = cache / "blobs"
    try:
        return not store.is_symlink() and (store / MARKER).read_text(encoding="ascii") == LAYOUT
    except (OSError, UnicodeError):
        return False


@contextlib.contextmanager
def _locked(payload: Path) -> Iterator[None]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    lock = os.open(payload.with_name(f"{payload.name}.lock"), flags, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
