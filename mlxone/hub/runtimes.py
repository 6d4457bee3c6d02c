"""What the binary and the zipapp unpacked: their runtimes, and how these go.

`PLACE/runtime/` holds a folder for each version, leftovers of starts that were killed, and `.lock`.
A runtime's `stamp` names the file it came from. Whoever runs from a runtime holds a lock on its
folder, and whoever unpacks one holds `.lock`; the launcher keeps to the same rules. Nothing but
folders of our own is ever taken, and no link is followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.core.about import PACKAGE
from mlxone.hub import places, trash
from mlxone.hub.trash import Swept, Tally

LOCK, STAMP, ORIGIN = ".lock", "stamp", "origin "
# The binary's VERSION-HASH16; shiv's FILE_BUILD, whose staging folder has an end of its own.
_NAME = re.compile(r"[^.].*-[0-9a-fA-F]{16}|[^.].*_[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.unpack-.*|\.old-.*|[^.].*_[0-9a-f]{64}\.tmp")
_DESCRIPTORS = range(3, 256)  # the launcher opens the runtime among its first files

IN_USE = "another mlxone runs from it"
UNPACKING = "another mlxone is unpacking there"


@dataclass(frozen=True, slots=True)
class Runtime:
    path: Path
    size_bytes: int
    origin: str = ""  # the file that was started when it was unpacked; nothing where that is not known
    own: bool = False  # this very program runs from it
    leftover: bool = False


@dataclass(frozen=True, slots=True)
class Staying:
    path: Path
    why: str
    in_use: bool = False  # it could go when somebody else has ended


@dataclass(slots=True)
class Plan:
    """Our own runtime is the last, so that everything else is done while all of the program is there."""

    folders: list[Path] = field(default_factory=list)  # PLACE/runtime
    runtimes: list[Runtime] = field(default_factory=list)
    staying: list[Staying] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        return sum(runtime.size_bytes for runtime in self.runtimes)


def plan() -> Plan:
    """What would go, and what would stay and why."""
    found = Plan()
    for folder in _folders():
        why = _not_ours(folder)
        if why:
            found.staying.append(Staying(folder, why))
            continue
        found.folders.append(folder)
        for path in _inside(folder, found):
            why = "" if path.name == LOCK else _unfit(path)
            if why:
                found.staying.append(Staying(path, why, in_use=why == IN_USE))
            elif path.name != LOCK:
                found.runtimes.append(_runtime(path))
    found.runtimes.sort(key=lambda runtime: runtime.own)
    return found


def remove(what: Plan) -> Swept:
    """Runs what was planned, and asks again of each runtime whether it is in use.

    When our own runtime goes, nothing more can be imported.
    """
    done = Swept()
    with contextlib.ExitStack() as stack:
        open_folders = [folder for folder in what.folders if _claimed(folder, stack, done)]
        for runtime in what.runtimes:
            if runtime.path.parent in open_folders:
                done.add(_remove(runtime))
        for folder in open_folders:
            _tidy(folder)
    # A folder that the user named stays, even an empty one.
    for place in {_refuge()} if os.environ.get("MLXONE_HOME") else {places.home(), _refuge()}:
        with contextlib.suppress(OSError):  # not empty, or not there
            place.rmdir()
    return done


def origins(what: Sequence[Runtime]) -> list[Path]:
    """The files that unpacked these and would do so again."""
    named = dict.fromkeys(runtime.origin for runtime in what if runtime.origin)
    return [Path(origin) for origin in named if os.path.lexists(origin)]


def _folders() -> list[Path]:
    homes = [places.home(), _refuge()]
    own = [path.parents[1] for path in _own_paths() if path.parent.name == "runtime"]
    found = (place.absolute() / "runtime" for place in (*homes, *own))
    by_place = {os.path.realpath(folder.parent): folder for folder in found if os.path.lexists(folder)}
    return list(by_place.values())


def _refuge() -> Path:
    """As `places.refuge`, which makes it: what is not there needs no removing."""
    return Path(os.environ.get("TMPDIR") or "/tmp", f"mlxone-{os.getuid()}")


def _own_paths() -> list[Path]:
    """Where we run from, if that is a runtime."""
    above = [folder for folder in PACKAGE.parents if folder.parent.name == "runtime"]
    return [folder for folder in above if _NAME.fullmatch(folder.name)]


def _inside(folder: Path, found: Plan) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        found.staying.append(Staying(folder, error.strerror or str(error)))
        return []


def _unfit(path: Path) -> str:
    """Why it is nothing to take away; nothing if it is."""
    if not (_NAME.fullmatch(path.name) or _LEFTOVER.fullmatch(path.name)):
        return "not made by mlxone"
    why = _not_ours(path)
    if why:
        return why
    with _alone(path) as alone:
        return "" if alone else IN_USE


def _not_ours(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISLNK(found.st_mode):
        return "a link, and links are not followed"
    if not stat.S_ISDIR(found.st_mode):
        return "not made by mlxone"
    return "" if found.st_uid == os.geteuid() else "it belongs to another user"


def _runtime(path: Path) -> Runtime:
    return Runtime(
        path,
        Tally().folder(path),
        _origin(path),
        own=_held_by_us(path) is not None or any(_is_same(path, own) for own in _own_paths()),
        leftover=_LEFTOVER.fullmatch(path.name) is not None,
    )


def _origin(path: Path) -> str:
    try:
        with os.fdopen(os.open(path / STAMP, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            first = os.fsdecode(file.readline())
    except OSError:
        return ""
    return first.removesuffix("\n").removeprefix(ORIGIN) if first.startswith(ORIGIN + "/") else ""


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else runs from it; as long as this is open nobody can begin to."""
    ours = _held_by_us(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) if ours is None else ours
    except OSError:  # whoever wants to take it away will hear why that cannot be
        yield True
        return
    try:
        yield _locked(descriptor)  # turns a lock of our own into one that suffers no other
    finally:
        if ours is None:
            os.close(descriptor)
        else:
            with contextlib.suppress(OSError):
                fcntl.flock(ours, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _locked(descriptor: int) -> bool:
    """Where the disk knows no locks, nobody can hold one."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _held_by_us(path: Path) -> int | None:
    """The descriptor by which this process says that it runs from there."""
    try:
        wanted = path.lstat()
    except OSError:
        return None
    for descriptor in _DESCRIPTORS:
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(descriptor), wanted):
                return descriptor
    return None


def _claimed(folder: Path, stack: contextlib.ExitStack, done: Swept) -> bool:
    """Keeps others from unpacking there until the stack is unwound."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(folder / LOCK, flags, 0o600)
    except OSError:
        return True  # then nothing there can be removed either, and each thing says why
    stack.callback(os.close, descriptor)
    if _locked(descriptor):
        return True
    done.problems.append(f"{folder}: {UNPACKING}")
    return False


def _remove(runtime: Runtime) -> Swept:
    """Out of sight in one step, under a name that the next start would take for a leftover."""
    aside = runtime.path.with_name(f".old-{os.getpid()}-{secrets.token_hex(4)}")
    with _alone(runtime.path) as alone:
        if not alone:
            return Swept(problems=[f"{runtime.path}: {IN_USE}"])
        try:
            runtime.path.rename(aside)
        except OSError as error:
            return trash.refused(error, runtime.path)
        return trash.delete_folder(aside)


def _tidy(folder: Path) -> None:
    with contextlib.suppress(OSError):
        if {entry.name for entry in os.scandir(folder)} <= {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            folder.rmdir()
