"""Taking things away in two steps: renamed aside at once, then deleted piece by piece.

A kill in between leaves a folder with our own name, which no one takes for a model and the next
`gc` collects. Links are removed, never followed.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = ".mlxone-trash-"


@dataclass(slots=True)
class Swept:
    """What a removal did. A problem is one line that names the file."""

    freed_bytes: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Swept) -> None:
        self.freed_bytes += other.freed_bytes
        self.problems += other.problems

    def failed(self, error: OSError, path: Path) -> None:
        self.problems.append(f"{error.filename or path}: {error.strerror or error}")


class Tally:
    """Bytes that come free when names go: a file of several names counts with the last of them."""

    def __init__(self) -> None:
        self._gone: Counter[tuple[int, int]] = Counter()

    def file(self, path: Path) -> int:
        try:
            found = path.lstat()
        except OSError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            return 0
        self._gone[found.st_dev, found.st_ino] += 1
        return found.st_size if self._gone[found.st_dev, found.st_ino] == found.st_nlink else 0

    def folder(self, folder: Path) -> int:
        return sum(self.file(path) for path in files(folder))


def new_place(parent: Path) -> Path:
    return parent / f"{PREFIX}{secrets.token_hex(6)}"


def set_aside(path: Path, parent: Path) -> Path:
    """Out of sight in one step. `parent` is on the same disk."""
    place = new_place(parent)
    path.rename(place)
    return place


def refused(error: OSError, path: Path) -> Swept:
    """Of a removal that could not begin. What is gone already was taken by somebody else."""
    done = Swept()
    if not isinstance(error, FileNotFoundError):
        done.failed(error, path)
    return done


def leftovers(parent: Path) -> list[Path]:
    """What a removal that was killed left in this folder."""
    try:
        return sorted(
            Path(entry.path)
            for entry in os.scandir(parent)
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
        )
    except OSError:
        return []


def holders(folder: Path, depth: int) -> Iterator[Path]:
    """The folders of a model collection in which a removal may have left something."""
    yield folder
    for inner in _subfolders(folder) if depth else ():
        yield from holders(inner, depth - 1)


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        return [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
    except OSError:
        return []


def files(folder: Path) -> Iterator[Path]:
    """Every file and link in a folder; links are not followed."""
    for path, _, names in os.walk(folder):
        yield from (Path(path, name) for name in names)


def delete_file(path: Path) -> Swept:
    """Counts bytes only where this was the file's last name."""
    done = Swept()
    try:
        found = path.lstat()
        path.unlink()
    except FileNotFoundError:  # somebody else was quicker
        return done
    except OSError as error:
        done.failed(error, path)
        return done
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        done.freed_bytes = found.st_size
    return done


def delete_folder(folder: Path) -> Swept:
    """All of it that can be deleted; goes on after each failure."""
    done = Swept()
    for path, folders, names in os.walk(folder, topdown=False, onerror=lambda e: done.failed(e, folder)):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        for name in names + links:
            done.add(delete_file(Path(path, name)))
        try:
            os.rmdir(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            if not done.problems:  # else it is only not empty, because of the first one
                done.failed(error, Path(path))
    return done
