"""What mlxone keeps in its home: whether who runs it may read and write it, and whether it is whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mlxone.service.checkup.findings import Finding, warn
from mlxone.service.checkup.folders import Access, folder

LEARNED = "learned.sqlite"
_FILE, _FOLDER, _READ = os.R_OK | os.W_OK, os.R_OK | os.W_OK | os.X_OK, os.R_OK | os.X_OK
# What is only read may lie on a disk that cannot be written to.
NEEDED = {
    "registry.sqlite": _FILE,
    LEARNED: _FILE,
    "history": _FILE,
    "running": _FOLDER,
    "starter": _READ,
    "runtime": _READ,
}


def home(place: Path, fix: str, access: Access = os.access) -> Finding:
    found = folder("home", place, fix, access=access)
    if found.status != "ok" or not found.details["exists"]:
        return found
    closed = list(_closed(place, access))
    if closed:
        message = f"{', '.join(closed)} in {place} cannot be used by this user"
        return warn("home", message, "make them yours with `chown`, or delete them", found.details)
    damage = damaged(place / LEARNED)
    if damage:
        message = f"{place / LEARNED} is damaged: {damage}"
        return warn("home", message, "nothing: it is made anew when it is needed", found.details)
    return found


def _closed(place: Path, access: Access) -> Iterator[str]:
    for name, how in NEEDED.items():
        if os.path.lexists(place / name) and not access(place / name, how):
            yield name


def damaged(path: Path) -> str:
    """Why it is no database; empty if it is one, or none is there. Nothing is written beside it."""
    if not path.is_file():
        return ""
    try:
        # What a running program has not yet put into the file itself does not matter here.
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return ""
