"""What the binary and the zipapp unpacked: their runtimes, and how these go.

`PLACE/runtime/` holds a folder for each version, leftovers of starts that were killed, and `.lock`.
A runtime's `stamp` names the file it came from. Whoever runs from a runtime holds a lock on its
folder, and whoever unpacks one holds `.lock`; the launcher keeps to the same rules.

Nothing but folders of our own is ever taken, and no link is followed. A name proves nothing: a
runtime has to hold what only an unpacking writes, a leftover nothing but what one would have made.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxone.core import about
from mlxone.hub import places, trash
from mlxone.hub.trash import Swept, Tally

FOLDER, LOCK, STAMP, ORIGIN, MANIFEST = "runtime", ".lock", "stamp", "origin ", "manifest.json"
# The binary's VERSION-HASH16; shiv's FILE_BUILD.
_BINARY, _ZIPAPP = re.compile(r"[^.].*-[0-9a-f]{16}"), re.compile(r"[^.].*_[0-9a-f]{64}")
# What the launcher and the zipapp stage; what they (a number) and we (hex) set aside.
_LEFTOVER = re.compile(r"\.(unpack|old)-[0-9]+-[0-9a-f]+")
# The top of a runtime, of the binary and of the zipapp: a leftover may hold any of it.
_PARTS = {MANIFEST, STAMP, "mlxone", "_internal", "licenses.txt", "site-packages"}
_DESCRIPTORS = range(3, 256)  # the launcher opens the runtime among its first files

AGAIN = "then run `mlxone uninstall` again"
IN_USE = f"another mlxone runs from it: end it, {AGAIN}"
UNPACKING = f"another mlxone is unpacking there: wait for it, {AGAIN}"
NOT_MADE = "not made by mlxone"
UNPROVEN = "nothing in it says that mlxone made it"


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
    failed: bool = False  # it could not even be looked at


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
    folders = _folders()
    for folder in folders:
        why = _not_ours(folder)
        if why:
            found.staying.append(Staying(folder, why))
            continue
        found.folders.append(folder)
        for path in _inside(folder, found):
            if path.name != LOCK:
                _judge(path, found)
    own = _own_path()
    # Elsewhere only by what the zipapp was told: what lies beside it there is not ours to judge.
    if own and not any(_is_same(own.parent, folder) for folder in folders) and _judge(own, found):
        found.folders.append(own.parent)
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
    refuge = places.refuge_path()
    for place in {refuge} if os.environ.get("MLXONE_HOME") else {places.home(), refuge}:
        with contextlib.suppress(OSError):  # not empty, or not there
            place.rmdir()
    return done


def origins(what: Sequence[Runtime]) -> list[Path]:
    """The files that unpacked these and would do so again."""
    named = dict.fromkeys(runtime.origin for runtime in what if runtime.origin)
    return [Path(origin) for origin in named if os.path.lexists(origin)]


def _folders() -> list[Path]:
    found = (place.absolute() / FOLDER for place in (places.home(), places.refuge_path()))
    by_place = {os.path.realpath(folder.parent): folder for folder in found if os.path.lexists(folder)}
    return list(by_place.values())


def _own_path() -> Path | None:
    """The runtime we run from. An installed package has none, whatever the folders above it are called."""
    folder = about.PACKAGE.parents[1]
    named = _BINARY.fullmatch(folder.name) or _ZIPAPP.fullmatch(folder.name)
    return folder if named and about.is_packed() else None


def _inside(folder: Path, found: Plan) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        why = f"it cannot be listed: {error.strerror or error}"
        found.staying.append(Staying(folder, why, failed=True))
        return []


def _judge(path: Path, found: Plan) -> bool:
    why = _unfit(path)
    if why:
        found.staying.append(Staying(path, why, in_use=why == IN_USE))
    else:
        found.runtimes.append(_runtime(path))
    return not why


def _unfit(path: Path) -> str:
    """Why it is nothing to take away; nothing if it is."""
    if not any(form.fullmatch(path.name) for form in (_BINARY, _ZIPAPP, _LEFTOVER)):
        return NOT_MADE
    why = _not_ours(path) or ("" if _is_proven(path) else UNPROVEN)
    if why:
        return why
    with _alone(path) as alone:
        return "" if alone else IN_USE


def _is_proven(path: Path) -> bool:
    """Whether an unpacking wrote it. A damaged runtime may have lost its stamp, its manifest or both."""
    if _content(path / STAMP).startswith(ORIGIN.encode()):
        return True
    if _LEFTOVER.fullmatch(path.name):
        return _holds_parts_only(path)
    return _BINARY.fullmatch(path.name) is not None and _has_manifest(path)


def _holds_parts_only(path: Path) -> bool:
    try:
        return set(os.listdir(path)) <= _PARTS
    except OSError:
        return False


def _has_manifest(path: Path) -> bool:
    """As `packer.payload` writes it."""
    try:
        said = json.loads(_content(path / MANIFEST))
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(said, dict)
        and said.keys() == {"version", "kind", "files"}
        and isinstance(said["version"], str)
        and said["kind"] in ("full", "slim")
        and isinstance(said["files"], dict)
        and path.name.startswith(f"{said['version']}-")
    )


def _content(path: Path) -> bytes:
    """Of a plain file; nothing of anything else, and a pipe is not waited for."""
    try:
        with open(path, "rb", opener=_plainly) as file:
            return file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""


def _plainly(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _not_ours(path: Path) -> str:
    try:
        found = path.lstat()
    except OSError as error:
        return error.strerror or str(error)
    if stat.S_ISLNK(found.st_mode):
        return "a link, and links are not followed"
    if not stat.S_ISDIR(found.st_mode):
        return NOT_MADE
    return "" if found.st_uid == os.geteuid() else "it belongs to another user"


def _runtime(path: Path) -> Runtime:
    own = _own_path()
    return Runtime(
        path,
        Tally().folder(path),
        _origin(path),
        own=_held_by_us(path) is not None or (own is not None and _is_same(path, own)),
        leftover=_LEFTOVER.fullmatch(path.name) is not None,
    )


def _origin(path: Path) -> str:
    first = os.fsdecode(_content(path / STAMP).partition(b"\n")[0])
    return first.removeprefix(ORIGIN) if first.startswith(ORIGIN + "/") else ""


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
            if folder.name == FOLDER:  # else a user named it
                folder.rmdir()
