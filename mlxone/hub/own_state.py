"""What mlxone keeps in its home for itself: the registry, what was learned, the history, the starter.

By name, as somebody may have put files of their own there: what is called otherwise stays, and so
does every link and what a running mlxone uses. Models elsewhere and the config file are not among it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.hub import in_use, places, trash
from mlxone.hub.runtimes import Staying
from mlxone.hub.starter import MANIFEST
from mlxone.hub.trash import Swept, Tally

FILES = re.compile(r"(registry|learned)\.sqlite(-wal|-shm|-journal|\.lock|\.damaged)?|history(\.\d+)?")
STARTER, RUNNING, NOTE = "starter", "running", re.compile(r"\.?(\d+)-[0-9a-f]+\.json")
RUNTIME = "runtime"  # `runtimes.py` knows what is in there


@dataclass(slots=True)
class State:
    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)  # that held some of these
    staying: list[Staying] = field(default_factory=list)
    size_bytes: int = 0
    strangers: int = 0  # things in the home that are not ours


def look() -> State:
    found = State()
    for path in _inside(places.home()):
        if path.name == STARTER:
            _starter(path, found)
        elif path.name == RUNNING:
            _running(path, found)
        elif path.name != RUNTIME:
            _add(path, found, is_ours=FILES.fullmatch(path.name) is not None)
    tally = Tally()
    found.size_bytes = sum(map(tally.file, found.files))
    return found


def remove(what: State) -> Swept:
    done = Swept()
    for path in what.files:
        done.add(trash.delete_file(path))
    for folder in what.folders:
        with contextlib.suppress(OSError):  # not empty: what stays there was said
            folder.rmdir()
    return done


def _starter(folder: Path, found: State) -> None:
    if not _is_folder(folder, found):
        return
    users = in_use.using(folder)
    if users:
        found.staying.append(Staying(folder, f"in use by {users[0]}", in_use=True))
        return
    ours = {MANIFEST, *_listed(folder)}
    for path in _inside(folder):
        _add(path, found, is_ours=path.name in ours)


def _running(folder: Path, found: State) -> None:
    """The notes of processes that are gone."""
    if not _is_folder(folder, found):
        return
    users = {str(use.pid): use for use in in_use.using(Path("/"))}
    for path in _inside(folder):
        note = NOTE.fullmatch(path.name)
        if note and note[1] in users:
            found.staying.append(Staying(path, f"in use by {users[note[1]]}", in_use=True))
        else:
            _add(path, found, is_ours=note is not None)


def _add(path: Path, found: State, *, is_ours: bool) -> None:
    kind = _kind(path)
    if is_ours and stat.S_ISREG(kind):
        found.files.append(path)
    elif is_ours and stat.S_ISLNK(kind):
        found.staying.append(_link(path))
    elif kind:
        found.strangers += 1


def _is_folder(path: Path, found: State) -> bool:
    kind = _kind(path)
    if stat.S_ISLNK(kind):
        found.staying.append(_link(path))
    elif stat.S_ISDIR(kind):
        found.folders.append(path)
    else:
        found.strangers += 1
    return stat.S_ISDIR(kind)


def _link(path: Path) -> Staying:
    return Staying(path, "a link, and links are not followed")


def _kind(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except OSError:
        return 0


def _listed(folder: Path) -> set[str]:
    try:
        names = list(json.loads((folder / MANIFEST).read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    return {name for name in names if isinstance(name, str)}


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder))
    except OSError:
        return []
