"""The zipapp's start: unpacks once, whole and private, where the binary unpacks too; then shiv goes on.

Runs inside the zipapp, beside shiv's `_bootstrap`, with the standard library only. shiv's own unpacking
stands, but its folder is only taken for whole when the list written after it (`stamp`) still matches, and
the binary's lock and rules of ownership hold: several first starts at once, a kill half-way, a full disk
and a folder that somebody tidied all end in a whole folder, or in one line and exit code 9.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

NO_ROOM = 9  # "disk full or not accessible"; docs/exit-codes.md
INTERRUPTED = 130
STAMP = "stamp"  # "origin PATH", then a line for each file
LOCKS_UNKNOWN = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


class Damaged(Exception):
    """The archive itself is not what was built."""


def start(build_id: str) -> None:
    executable = os.path.realpath(sys.argv[0])
    keep_our_paths()
    os.environ["MLXONE_EXECUTABLE"] = executable
    try:
        os.environ["SHIV_ROOT"] = str(prepare(Path(executable), build_id))
        os.environ.pop("SHIV_FORCE_EXTRACT", None)  # done, and without a moment in which the folder is gone
        import _bootstrap  # type: ignore[import-not-found] # shiv's, in the archive

        _bootstrap.bootstrap()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Damaged:
        complain("this file is damaged: download it again", code=NO_ROOM)
    except OSError as e:
        complain(str(e), code=NO_ROOM)


def keep_our_paths() -> None:
    """Leaves the standard library and this file: what else is installed here, or named by PYTHONPATH, is
    not what mlxone was tested with. Modules of it that came with the interpreter's own start go as well."""
    archive, library = os.path.dirname(__file__), os.path.dirname(os.__file__)
    numbered = "python{}{}.zip".format(*sys.version_info)
    sys.path[:] = [
        entry
        for entry in sys.path
        if entry in (archive, library) or os.path.basename(entry) in ("lib-dynload", numbered)
    ]
    for name, module in list(sys.modules.items()):
        if {"site-packages", "dist-packages"} & set((getattr(module, "__file__", "") or "").split(os.sep)):
            del sys.modules[name]


def prepare(executable: Path, build_id: str) -> Path:
    """The first of the places that can be used, with the runtime in it."""
    refusals: list[str] = []
    for place in places():
        try:
            make_private(place)
            runtime = place / f"{executable.name}_{build_id}"
            if os.environ.get("SHIV_FORCE_EXTRACT") or not holds(runtime):
                unpack(executable, runtime, "; ".join(refusals))
            return place
        except OSError as e:
            refusals.append(f"{place} cannot be used ({e.strerror or e})")
    raise OSError("; ".join(refusals) + ": name a folder that can be written to with MLXONE_HOME")


# Places -------------------------------------------------------------------------------------------


def places() -> Iterator[Path]:
    """As in the binary: MLXONE_HOME, else the cache at home; at last a folder for temporary things."""
    home, named = os.environ.get("HOME", ""), os.environ.get("MLXONE_HOME", "")
    if os.environ.get("SHIV_ROOT"):  # also how a child process finds where its parent was unpacked
        yield Path(os.path.abspath(os.path.expanduser(os.environ["SHIV_ROOT"])))
    elif named.startswith("~/") and home:
        yield Path(home, named[2:], "runtime")
    elif named and not named.startswith("~/"):
        yield Path(os.path.abspath(named), "runtime")
    elif home and not named:
        yield Path(os.path.abspath(home), ".cache", "mlxone", "runtime")
    yield temporary() / "runtime"


def temporary() -> Path:
    return Path(os.path.abspath(os.environ.get("TMPDIR") or "/tmp"), f"mlxone-{os.getuid()}")


def make_private(place: Path) -> None:
    """Makes the folder; refuses one in which somebody else could put what we then run."""
    if place.parent == temporary():
        with suppress(FileExistsError):
            place.parent.mkdir(mode=0o700)
        check(place.parent, others=0o077)
    place.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        place.mkdir(mode=0o700)
    check(place, others=0o022)
    if os.statvfs(place).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise OSError(errno.EPERM, "programs may not be run from there")


def check(folder: Path, others: int) -> None:
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink():
        raise OSError(errno.ENOTDIR, "it is not a folder")
    if found.st_uid != os.geteuid() or found.st_mode & others:
        raise OSError(errno.EPERM, "others may write there")


# Whole or not -------------------------------------------------------------------------------------


def holds(runtime: Path) -> bool:
    """Whether the runtime is whole; if so it is marked as in use for as long as this process lives."""
    try:
        check(runtime, others=0o022)
        descriptor = os.open(runtime, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    whole = False
    try:
        lock(descriptor, fcntl.LOCK_SH)
        lines = os.fsdecode((runtime / STAMP).read_bytes()).split("\n")[1:-1]
        whole = bool(lines) and all(line == describe(runtime, line.split(" ", 4)[4]) for line in lines)
    except (OSError, IndexError):
        pass
    finally:
        if not whole:
            os.close(descriptor)
    return whole


def describe(runtime: Path, name: str) -> str:
    found = os.lstat(f"{runtime}/{name}")
    return f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {name}"


def write_stamp(runtime: Path, executable: Path, names: list[str]) -> None:
    lines = [f"origin {executable}", *(describe(runtime, name) for name in names)]
    unfinished = runtime / (STAMP + ".new")
    unfinished.write_bytes(os.fsencode("\n".join(lines) + "\n"))
    unfinished.replace(runtime / STAMP)


# Unpacking ----------------------------------------------------------------------------------------


def unpack(executable: Path, runtime: Path, instead_of: str) -> None:
    with locked(runtime.parent):
        forced = os.environ.get("SHIV_FORCE_EXTRACT")
        if not forced and holds(runtime):
            return  # somebody was faster
        if instead_of:
            complain(f"{instead_of}: unpacking to {runtime.parent} instead")
        elif sys.stderr.isatty():
            complain(f"the first start unpacks to {runtime.parent}")
        tidy(runtime)
        staging = runtime.with_name(runtime.name + ".tmp")  # shiv's name for it
        try:
            write_stamp(runtime, executable, extract(executable, runtime))
        except BaseException:
            remove(staging)
            raise
        remove_old(runtime, executable)
        if not holds(runtime):
            raise OSError(errno.EIO, "what was unpacked there did not stay")


def extract(executable: Path, runtime: Path) -> list[str]:
    """shiv's unpacking, and the files that came of it."""
    import zipfile
    import zlib

    import _bootstrap

    # Ours is held already; shiv's would wait for ever where a file system knows no locks.
    _bootstrap.FileLock = nullcontext
    before = os.umask(0o077)
    try:
        with zipfile.ZipFile(executable) as archive:
            _bootstrap.extract_site_packages(archive, runtime)
            return [name for name in archive.namelist() if name.startswith("site-packages/")]
    except (zipfile.BadZipFile, zlib.error, EOFError) as e:
        raise Damaged from e
    finally:
        os.umask(before)


@contextmanager
def locked(place: Path) -> Iterator[None]:
    descriptor = os.open(place / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        lock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock(descriptor: int, how: int) -> None:
    try:
        fcntl.flock(descriptor, how)
    except OSError as e:
        if e.errno not in LOCKS_UNKNOWN:
            raise


# Tidying: with the lock held ------------------------------------------------------------------------


def tidy(runtime: Path) -> None:
    """Removes what killed starts left, and this runtime itself where it is no longer whole."""
    for pattern in (".unpack-*", ".old-*", "mlxone*.pyz_*.tmp", runtime.name + ".tmp"):
        for left_over in runtime.parent.glob(pattern):
            remove(left_over)
    if os.path.lexists(runtime):
        set_aside(runtime)


def remove_old(runtime: Path, executable: Path) -> None:
    """Removes the runtimes whose program is gone or was replaced by this one, if nobody runs them."""
    for other in runtime.parent.iterdir():
        with suppress(OSError):
            if other.name == runtime.name or other.name.startswith("."):
                continue
            with (other / STAMP).open("rb") as file:
                origin = os.fsdecode(file.readline()).rstrip("\n").removeprefix("origin ")
            if origin == str(executable) or not os.path.lexists(origin):
                descriptor = os.open(other, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    set_aside(other)
                finally:
                    os.close(descriptor)


def set_aside(folder: Path) -> None:
    """Out of sight at once, then gone; a program that still has it open keeps what it has open."""
    aside = folder.with_name(f".old-{os.getpid()}-{time.monotonic_ns()}")
    folder.rename(aside)
    remove(aside)


def remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def complain(line: str, code: int | None = None) -> None:
    print(f"mlxone: {line}", file=sys.stderr)
    if code is not None:
        sys.exit(code)
