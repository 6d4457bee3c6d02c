"""Which models a running process of ours holds: `rm` and `gc` leave those alone.

A process that has a model open keeps a small file under `running/` in our home and an flock on it.
The lock is the truth: the kernel drops it with the process, however that ends, so a file without
one is a leftover and a process number used again means nothing. A home that cannot be written
costs this protection and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mlxone.hub import places

log = logging.getLogger(__name__)

DOWNLOAD = "get"  # the verb under which a download announces its snapshot
UNBORN = 3600.0  # seconds after which a file that never got its final name is a leftover
NOTE = re.compile(r"\.?\d+-[0-9a-f]{8}\.json")  # a process and a number; with a dot until it is written


@dataclass(frozen=True, slots=True)
class Use:
    pid: int
    what: str  # the verb: "run", "serve", "get"
    started: float
    paths: tuple[Path, ...]

    def __str__(self) -> str:
        return f"`mlxone {self.what}` (process {self.pid})"


@contextlib.contextmanager
def in_use(*paths: Path, what: str = "run") -> Iterator[None]:
    """While this is open, `rm` and `gc` refuse to take the paths away."""
    try:
        held, file = _announce([str(place) for path in paths for place in _places(path)], what)
    except OSError as error:
        log.warning("cannot note that a model is in use: %s", error)
        yield
        return
    try:
        yield
    finally:
        held.unlink(missing_ok=True)
        file.close()


def using(path: Path) -> list[Use]:
    """The processes that hold this path, something in it, or a folder it is in."""
    wanted = _places(path)
    return [
        use
        for use in _running()
        if any(
            held.is_relative_to(place) or place.is_relative_to(held) for held in use.paths for place in wanted
        )
    ]


def _folder() -> Path:
    return places.home() / "running"


def _places(path: Path) -> set[Path]:
    """Where it is said to be and where it is: a file in a snapshot is a link to another folder."""
    said = Path(os.path.abspath(path))
    return {Path(os.path.realpath(said.parent)) / said.name, Path(os.path.realpath(said))}


def _announce(paths: list[str], what: str) -> tuple[Path, IO[str]]:
    """Locked before it gets its name, so nobody ever sees a file of the living without its lock."""
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
    unborn = folder / f".{name}"
    file = unborn.open("x", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump({"pid": os.getpid(), "what": what, "started": time.time(), "paths": paths}, file)
        file.flush()
        unborn.rename(folder / name)
    except BaseException:
        unborn.unlink(missing_ok=True)
        file.close()
        raise
    return folder / name, file


def _running() -> Iterator[Use]:
    try:
        # Anything else in that folder is somebody's own, and this look would delete what nobody holds.
        files = sorted(path for path in _folder().iterdir() if NOTE.fullmatch(path.name))
    except OSError:
        return
    for path in files:
        use = _alive(path)
        if use is not None:
            yield use


def _alive(path: Path) -> Use | None:
    with contextlib.suppress(OSError), path.open(encoding="utf-8") as file:
        try:
            # Shared, so that two who look at once do not take each other for the owner.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(file)
        if not path.name.startswith(".") or time.time() - os.fstat(file.fileno()).st_mtime > UNBORN:
            path.unlink(missing_ok=True)
    return None


def _read(file: IO[str]) -> Use | None:
    try:
        values: dict[str, Any] = json.load(file)
        paths = tuple(Path(path) for path in values["paths"])
        return Use(int(values["pid"]), str(values["what"]), float(values["started"]), paths)
    except (ValueError, LookupError, TypeError):
        return None  # not yet written, so its model is not yet opened either
