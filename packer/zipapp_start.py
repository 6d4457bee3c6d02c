"""The zipapp's start: unpacks once, whole and private, where the binary unpacks too; then shiv goes on.

Runs inside the zipapp, beside shiv's `_bootstrap`, with the standard library only. shiv is handed a runtime
that is there already: what is unpacked gets its name as the very last step, is only taken for whole while
its `stamp` still matches, and the binary's lock and rules of ownership hold. Several first starts at once,
a kill half-way, a full disk and a folder that somebody tidied all end in a whole folder, or in one line
and exit code 9.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

NO_ROOM = 9  # "disk full or not accessible"; docs/exit-codes.md
INTERRUPTED = 130
STAMP = "stamp"  # "origin PATH", a line for each file, "end COUNT"
ORIGIN = "origin "
NO_MORE_ROOM = {errno.ENOSPC, errno.EDQUOT}
LOCKS_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
A_DAY = 24 * 60 * 60

# The folder may be one that others unpack into too: only what bears a name that we give is ours, and only
# if nothing lies in it that is no part of a runtime, the zipapp's or the binary's.
RUNTIME = re.compile(r"[^.].*(_[0-9a-f]{64}|-[0-9a-f]{16})")  # FILE_BUILD, the binary's VERSION-HASH
LEFTOVER = re.compile(r"\.(unpack|old)-[0-9]+-[0-9a-f]+")
PARTS = {"site-packages", STAMP, "mlxone", "_internal", "manifest.json", "licenses.txt"}


class Damaged(Exception):
    """The archive itself is not what was built."""


def start(build_id: str) -> None:
    fill_closed()
    executable = os.path.realpath(sys.argv[0])
    os.environ["MLXONE_EXECUTABLE"] = executable
    try:
        runtime = prepare(Path(executable), build_id)
        os.environ.pop("SHIV_FORCE_EXTRACT", None)  # done, and without a moment in which the folder is gone
        import _bootstrap  # type: ignore[import-not-found] # shiv's, in the archive

        # Told here and not by SHIV_ROOT: every program that mlxone starts would inherit that.
        _bootstrap.cache_path = lambda *_: runtime
        _bootstrap.bootstrap()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Damaged:
        complain("this file is damaged: download it again", code=NO_ROOM)
    except OSError as e:
        complain(str(e), code=NO_ROOM)


def fill_closed() -> None:
    """What is opened next would else become the standard input, output or errors that were closed for us."""
    with suppress(OSError):  # there may be no /dev
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(descriptor, True)
        os.close(descriptor)


def prepare(executable: Path, build_id: str) -> Path:
    """The runtime, in the first of the places that can be used."""
    refusals: list[str] = []
    for place in places():
        try:
            runtime = make_private(place) / f"{executable.name}_{build_id}"
            if os.environ.get("SHIV_FORCE_EXTRACT") or not holds(runtime):
                unpack(executable, runtime, place, "; ".join(refusals))
            return runtime
        except OSError as e:
            refusals.append(f"{place.folder} cannot be used ({e.strerror or e})")
    raise OSError("; ".join(refusals) + ": name a folder that can be written to with MLXONE_HOME")


# Places -------------------------------------------------------------------------------------------


class Place(NamedTuple):
    folder: Path  # ours, or given to us by root; a group that we share it with is the user's affair
    below: str = "runtime"  # in it, ours alone: where runtimes lie
    temporary: bool = False  # among everybody's folders


def places() -> Iterator[Place]:
    """As in the binary: MLXONE_HOME, else the cache at home; at last a folder for temporary things."""
    chosen = chosen_folder()
    if os.environ.get("SHIV_ROOT"):
        yield Place(Path(os.path.expanduser(os.environ["SHIV_ROOT"])), below="")
    elif chosen:
        yield Place(chosen)
    yield Place(Path(os.environ.get("TMPDIR") or "/tmp", f"mlxone-{os.geteuid()}"), temporary=True)


def chosen_folder() -> Path | None:
    """Only a leading `~` is expanded, to HOME, as the launcher can do no more; None if that is not known."""
    home, named = os.environ.get("HOME"), os.environ.get("MLXONE_HOME")
    if named and named != "~" and not named.startswith("~/"):
        return Path(named)
    below = named[1:].lstrip("/") if named else ".cache/mlxone"
    return Path(home, below) if home else None


def make_private(place: Place) -> Path:
    """Makes the folder of runtimes; refuses one in which somebody else could put what we then run."""
    folder = place.folder.absolute()
    if place.temporary:
        check_around(folder.parent)
        make_folder(folder)
        check(folder, folder.lstat(), others=0o077)
    else:
        make_folders(folder)
        check(folder, folder.stat(), others=0o002, owners={0, os.geteuid()})
    runtimes = folder / place.below
    make_folder(runtimes)
    check(runtimes, runtimes.lstat(), others=0o022)
    if os.statvfs(runtimes).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise OSError(errno.EPERM, "programs may not be run from there")
    return runtimes


def make_folders(folder: Path) -> None:
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    found = folder.stat()
    if missing and found.st_uid not in (0, os.geteuid()) and not found.st_mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, f"{folder} belongs to somebody else")
    for each in reversed(missing):
        make_folder(each)


def make_folder(folder: Path) -> None:
    """Private, whatever the umask says."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        folder.chmod(0o700)


def check_around(folder: Path) -> None:
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise OSError(errno.EPERM, f"anybody may rename what is in {folder}: it lacks the sticky bit")


def check(folder: Path, found: os.stat_result, others: int, owners: set[int] | None = None) -> None:
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, f"{folder} is not a folder")
    if found.st_uid not in (owners or {os.geteuid()}):
        raise OSError(errno.EPERM, f"{folder} belongs to somebody else")
    if found.st_mode & others:
        raise OSError(errno.EPERM, f"{folder} is open to others: chmod 700 puts that right")


# Whole or not -------------------------------------------------------------------------------------


def holds(runtime: Path) -> bool:
    """Whether the runtime is whole; if so it is marked as in use for as long as this process lives."""
    try:
        descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    whole = False
    try:
        check(runtime, os.fstat(descriptor), others=0o022)
        lock(descriptor, fcntl.LOCK_SH)
        whole = is_at(descriptor, runtime) and matches(runtime)
    except OSError:
        pass
    finally:
        if not whole:
            os.close(descriptor)
    return whole


def is_at(descriptor: int, path: Path) -> bool:
    """Somebody may have moved or removed it before we had the lock on it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def matches(runtime: Path) -> bool:
    listed = os.fsdecode((runtime / STAMP).read_bytes()).partition("\n")[2]
    try:
        names = [line.split(" ", 3)[3] for line in listed.split("\n")[:-2]]
    except IndexError:
        return False
    return bool(names) and listed == listing(runtime, names)


def listing(folder: Path, names: list[str]) -> str:
    """No inode numbers, which some network disks make up anew: whatever is replaced has another ctime."""
    found = [(name, os.lstat(f"{folder}/{name}")) for name in names]
    lines = [f"{of.st_size} {of.st_mtime_ns} {of.st_ctime_ns} {name}\n" for name, of in found]
    return "".join(lines) + f"end {len(lines)}\n"


# Unpacking ----------------------------------------------------------------------------------------


def unpack(executable: Path, runtime: Path, place: Place, instead_of: str) -> None:
    with locked(place):
        if not os.environ.get("SHIV_FORCE_EXTRACT") and holds(runtime):
            return  # somebody was faster
        sweep(runtime, executable)
        with contents(executable) as (archive, files):
            needed = sum(file.file_size for file in files)
            in_room(runtime, lambda: check_room(runtime.parent, needed))
            if instead_of:
                complain(f"{instead_of}: unpacking to {runtime.parent} instead")
            elif sys.stderr is not None and sys.stderr.isatty():
                complain(f"the first start unpacks to {runtime.parent}")
            in_room(runtime, lambda: make(runtime, executable, archive, files))
        if not holds(runtime):
            raise OSError(errno.EIO, "what was unpacked there did not stay")


@contextmanager
def contents(executable: Path) -> Iterator[tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]]:
    import zlib

    try:
        with zipfile.ZipFile(executable) as archive:
            yield archive, [file for file in archive.infolist() if file.filename.startswith("site-packages/")]
    except (zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise Damaged from e


def check_room(folder: Path, needed: int) -> None:
    """Beforehand: filling a disk to its last byte would hurt every other program meanwhile."""
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and free < needed:
        sizes = f"{needed // 1_000_000 + 1} MB needed, {free // 1_000_000} MB free"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {sizes}")


def in_room(runtime: Path, step: Callable[[], None]) -> None:
    """Beside the runtime that is not whole; for want of room, and if nobody uses it, in its stead."""
    try:
        step()
    except OSError as e:
        if e.errno not in NO_MORE_ROOM or not take_away(runtime, leftover=False):
            raise
        step()


def make(runtime: Path, executable: Path, archive: zipfile.ZipFile, files: list[zipfile.ZipInfo]) -> None:
    """Under another name until it is whole, so that nothing half-made is ever called a runtime."""
    staging = runtime.with_name(f".unpack-{os.getpid()}-{os.urandom(4).hex()}")
    before = os.umask(0o077)
    try:
        staging.mkdir()
        for file in files:
            os.chmod(archive.extract(file, staging), file.external_attr >> 16)
        # A path with a line break could not be read back.
        origin = "" if "\n" in str(executable) else str(executable)
        listed = listing(staging, [file.filename for file in files])
        (staging / STAMP).write_bytes(os.fsencode(f"{ORIGIN}{origin}\n{listed}"))
        put_in_place(staging, runtime)
    except BaseException:
        remove(staging)
        raise
    finally:
        os.umask(before)


def put_in_place(staging: Path, runtime: Path) -> None:
    """A `chmod -R` or a restored backup is enough for a runtime not to match its stamp, so programs may be
    running from it: its name is empty for no longer than a rename takes, and it comes back if that fails."""
    aside = set_aside(runtime)
    try:
        if aside == runtime:  # nothing is there; or what overlayfs has from a lower layer: only removed
            take_away(runtime, leftover=False)
        staging.rename(runtime)
    except BaseException:
        with suppress(OSError):
            aside.rename(runtime)
        raise
    if aside != runtime:
        take_away(aside, leftover=True)


@contextmanager
def locked(place: Place) -> Iterator[None]:
    descriptor = turn(place)
    try:
        yield
    finally:
        os.close(descriptor)


def turn(place: Place) -> int:
    """The descriptor of the lock, once it is ours. Whoever uninstalls removes it, and its folder, while we
    wait for it: then it guards nothing, and all begins again."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            path = make_private(place) / ".lock"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.fchmod(descriptor, 0o600)  # the umask may have closed it to ourselves
            lock(descriptor, fcntl.LOCK_EX)
            if is_at(descriptor, path):
                return descriptor
            os.close(descriptor)
    raise OSError(errno.EBUSY, "somebody keeps removing it")


def lock(descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as e:
        if e.errno not in LOCKS_UNKNOWN:
            raise


# Sweeping: with the lock held, and before unpacking, as that frees the room ---------------------------


def sweep(runtime: Path, executable: Path) -> None:
    """Removes what killed starts left, and the runtimes whose program is gone or was replaced by this one.
    The one of our own name stays until its replacement is there."""
    for other in list(runtime.parent.iterdir()):
        with suppress(OSError):
            if LEFTOVER.fullmatch(other.name):
                take_away(other, leftover=True)
            elif other != runtime and RUNTIME.fullmatch(other.name) and is_replaced(other, executable):
                take_away(other, leftover=False)


def is_replaced(runtime: Path, executable: Path) -> bool:
    with (runtime / STAMP).open("rb") as file:
        first = os.fsdecode(file.readline()).rstrip("\n")
    if not first.startswith(ORIGIN + "/"):
        return False
    origin = Path(first.removeprefix(ORIGIN))
    try:
        origin.lstat()
    except FileNotFoundError:  # nothing else is: a disk may be away for a moment, or closed to us
        return True
    return origin == executable


def take_away(folder: Path, leftover: bool) -> bool:
    """Unless somebody runs from it, or keeps what is no runtime's in it; locked until it is gone."""
    with suppress(OSError), ExitStack() as stack:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        stack.callback(os.close, descriptor)
        if PARTS.issuperset(os.listdir(descriptor)) and is_free(descriptor, leftover):
            remove(set_aside(folder))
            return not os.path.lexists(folder)
    return False


def is_free(descriptor: int, leftover: bool) -> bool:
    """Where there are no locks nobody can tell: versions stay, and leftovers until they are a day old."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return leftover and time.time() - os.fstat(descriptor).st_ctime > A_DAY  # a rename sets it
    return True


def set_aside(folder: Path) -> Path:
    """Out of sight at once, where it can be renamed; who has it open keeps what he has open."""
    with suppress(OSError):
        return folder.rename(folder.with_name(f".old-{os.getpid()}-{time.monotonic_ns()}"))
    return folder


def remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def complain(line: str, code: int | None = None) -> None:
    if sys.stderr is not None:  # as it is where it was closed: `print` would write to the output
        print(f"mlxone: {line}", file=sys.stderr)
    if code is not None:
        sys.exit(code)
