"""A file that is being fetched: its bytes in any order, and a note of which are there.

Bytes reach the data file before the note that they did, so a killed process loses at most what it
had not noted yet. After a power cut a note may be ahead of its bytes: the hash finds that.
The data file may have holes, and its name says whose it is, so that no other tool goes on with it.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

SUFFIX = ".mlxone.incomplete"
NOTES = ".mlxone.progress"
NOTE_EVERY = 1 << 20  # bytes

_NOTE = re.compile(rb"(\d+) (\d+)")


class Ranges:
    """Disjoint half-open ranges in order; those that touch become one."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.total = 0
        for start, end in ranges:
            self.add(start, end)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> None:
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        swallowed = sum(self._ends[i] - self._starts[i] for i in range(first, last))
        self.total += end - start - swallowed
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def gaps(self, start: int, end: int) -> list[tuple[int, int]]:
        found = []
        for held_start, held_end in self:
            if held_start >= end:
                break
            if held_start > start:
                found.append((start, held_start))
            start = max(start, held_end)
        return [*found, (start, end)] if start < end else found


def held_bytes(path: Path, size: int) -> int:
    """What an earlier run left of a file, without touching it."""
    return sum(end - start for start, end in _noted(path, size))


class Partial:
    """Used by one process at a time (whoever opens it holds the lock), there by several threads."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._held = _noted(path, size)
        self._fresh = Ranges()  # held, but not noted yet
        self._lock = threading.Lock()
        self._data = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            os.ftruncate(self._data, size)
            self._notes = self._begin_notes()
        except BaseException:
            os.close(self._data)
            raise

    @property
    def held(self) -> int:
        return self._held.total

    def gaps(self, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
        with self._lock:
            return self._held.gaps(start, self.size if end is None else end)

    def write(self, offset: int, data: bytes) -> None:
        with self._named():
            view = memoryview(data)
            while view:
                written = os.pwrite(self._data, view, offset)
                self._hold(offset, offset + written)
                offset += written
                view = view[written:]

    def flush(self) -> None:
        """Notes what is there."""
        with self._lock, self._named():
            lines = b"".join(b"%d %d\n" % span for span in self._fresh)
            self._fresh = Ranges()
            if lines:
                os.write(self._notes, lines)

    def sync(self) -> None:
        """Returns when the bytes would survive a power cut."""
        with self._named():
            os.fsync(self._data)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: then that much is fetched again
            self.flush()
        os.close(self._notes)
        os.close(self._data)

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hold(self, start: int, end: int) -> None:
        with self._lock:
            self._held.add(start, end)
            self._fresh.add(start, end)
            due = self._fresh.total >= NOTE_EVERY
        if due:
            self.flush()

    def _begin_notes(self) -> int:
        """Written anew, so that a line that a dying process left unfinished is not added to."""
        notes, beside = _notes_of(self.path), self.path.with_suffix(".new")
        lines = b"".join(b"%d %d\n" % span for span in self._held)
        beside.write_bytes(b"size %d\n" % self.size + lines)
        beside.replace(notes)
        return os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of a bare descriptor do not say which file it was."""
        try:
            yield
        except OSError as e:
            e.filename = str(self.path)
            raise


def discard(path: Path) -> None:
    """Forgets a partial file; next time it begins from nothing."""
    _notes_of(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def forget_notes(path: Path) -> None:
    """Of a partial file that has become a whole one."""
    _notes_of(path).unlink(missing_ok=True)


def _notes_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(SUFFIX) + NOTES)


def _noted(path: Path, size: int) -> Ranges:
    """Nothing, wherever notes and data do not go together."""
    try:
        lines = _notes_of(path).read_bytes().split(b"\n")
        if path.stat().st_size != size or lines[0] != b"size %d" % size:
            return Ranges()
    except OSError:
        return Ranges()
    found = Ranges()
    for line in lines[1:-1]:  # what follows the last line break was not finished
        note = _NOTE.fullmatch(line)
        if note and int(note[1]) < int(note[2]) <= size:
            found.add(int(note[1]), int(note[2]))
    return found
