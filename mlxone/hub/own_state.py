"""What mlxone keeps in its home for itself: the registry, what was learned, the history, the starter.

Somebody may have put files of their own there: what is called otherwise stays, and so do a history
that is not in our format, every link and what a running mlxone uses; as long as one runs, that is all
it may have open. Models elsewhere and the config file are not among it.
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
from mlxone.hub.in_use import Use
from mlxone.hub.runtimes import FOLDER as RUNTIME  # whose module knows what is in there
from mlxone.hub.runtimes import Staying
from mlxone.hub.starter import MANIFEST
from mlxone.hub.trash import Swept, Tally

TABLES = re.compile(r"(registry|learned)\.sqlite(-wal|-shm|-journal|\.lock|\.damaged)?")
HISTORY = re.compile(r"history(\.[0-9]+)?")
STARTER, RUNNING, NOTE = "starter", "running", re.compile(r"\.?([0-9]+)-[0-9a-f]{8}\.json")
TRASH = re.compile(re.escape(trash.PREFIX) + "[0-9a-f]{12}")  # what an `rm starter` that was killed left

END_IT = "end it, then run `mlxone uninstall --all` again"


@dataclass(slots=True)
class State:
    files: list[Path] = field(default_factory=list)
    trash: list[Path] = field(default_factory=list)  # folders that go whole
    folders: list[Path] = field(default_factory=list)  # that held some of these
    staying: list[Staying] = field(default_factory=list)
    size_bytes: int = 0
    strangers: list[Path] = field(default_factory=list)  # things in the home that are not ours

    @property
    def is_empty(self) -> bool:
        return not self.files and not self.trash


def look(*, others_run: bool = False) -> State:
    """`others_run`: another mlxone is known to run, though it need not hold a model."""
    found = State()
    for path in _inside(places.home(), found):
        if path.name == STARTER:
            _starter(path, found)
        elif path.name == RUNNING:
            _running(path, found)
        elif path.name != RUNTIME:
            _add(path, found, is_ours=_is_shared(path))
    _leave_open(found, others_run)
    tally = Tally()
    found.size_bytes = sum(map(tally.file, found.files)) + sum(map(tally.folder, found.trash))
    return found


def remove(what: State) -> Swept:
    """Asks again whether a running mlxone may have them open."""
    known = len(what.staying)
    _leave_open(what)
    done = Swept(problems=[f"{one.path}: {one.why}" for one in what.staying[known:]])
    for path in what.files:
        done.add(trash.delete_file(path))
    for folder in what.trash:
        done.add(trash.delete_folder(folder))
    for folder in what.folders:
        with contextlib.suppress(OSError):  # not empty: what stays there was said
            folder.rmdir()
    return done


def _leave_open(found: State, others_run: bool = False) -> None:
    """Whoever runs has the registry, what was learned or the history open, and would write into nothing."""
    users = in_use.using(Path("/"))
    shared = [path for path in found.files if path.parent == places.home()]
    if not shared or not (users or others_run):
        return
    names = ", ".join(path.name for path in shared)
    why = _used(users[0]) if users else f"another mlxone runs: {END_IT}"
    found.files = [path for path in found.files if path not in shared]
    found.staying.append(Staying(places.home(), f"{names}: {why}", in_use=True))


def _used(user: Use) -> str:
    return f"in use by {user}: {END_IT}"


def _starter(folder: Path, found: State) -> None:
    if not _is_folder(folder, found):
        return
    users = in_use.using(folder)
    if users:
        found.staying.append(Staying(folder, _used(users[0]), in_use=True))
        return
    ours = {MANIFEST, *_listed(folder)}
    for path in _inside(folder, found):
        if TRASH.fullmatch(path.name) and stat.S_ISDIR(_kind(path)):
            found.trash.append(path)
        else:
            _add(path, found, is_ours=path.name in ours)


def _running(folder: Path, found: State) -> None:
    """The notes of processes that are gone."""
    if not _is_folder(folder, found):
        return
    users = {str(use.pid): use for use in in_use.using(Path("/"))}
    for path in _inside(folder, found):
        note = NOTE.fullmatch(path.name)
        if note and note[1] in users:
            found.staying.append(Staying(path, _used(users[note[1]]), in_use=True))
        else:
            _add(path, found, is_ours=note is not None)


def _add(path: Path, found: State, *, is_ours: bool) -> None:
    kind = _kind(path)
    if is_ours and stat.S_ISREG(kind):
        found.files.append(path)
    elif is_ours and stat.S_ISLNK(kind):
        found.staying.append(_link(path))
    elif kind:
        found.strangers.append(path)


def _is_folder(path: Path, found: State) -> bool:
    kind = _kind(path)
    if stat.S_ISLNK(kind):
        found.staying.append(_link(path))
    elif stat.S_ISDIR(kind):
        found.folders.append(path)
    else:
        found.strangers.append(path)
    return stat.S_ISDIR(kind)


def _is_shared(path: Path) -> bool:
    """What every mlxone writes to. `history` is a name that others use, too."""
    if TABLES.fullmatch(path.name):
        return True
    return HISTORY.fullmatch(path.name) is not None and (not stat.S_ISREG(_kind(path)) or _is_history(path))


def _is_history(path: Path) -> bool:
    """As `cli.history` writes it: a JSON string on each line."""
    try:
        with path.open("rb") as file:
            return all(isinstance(json.loads(line), str) for line in file)
    except (OSError, ValueError, RecursionError):
        return False


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


def _inside(folder: Path, found: State) -> list[Path]:
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []  # so nothing of ours is there
    except OSError as error:
        why = f"it cannot be listed: {error.strerror or error}"
        found.staying.append(Staying(folder, why, failed=True))
        return []
