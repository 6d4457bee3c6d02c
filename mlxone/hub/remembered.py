"""The names of models that the registry remembers: for whoever must answer faster than a look at the disk.

Reads the database as it is and changes nothing: no scan, no new file, hardly any waiting. What another
process is just writing, what another version wrote, or no database at all are no names.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from mlxone.core.errors import MlxoneError
from mlxone.hub import places
from mlxone.hub.schema import SCHEMA
from mlxone.hub.sources import STARTER, sources

PATIENCE = 0.1  # seconds


def names() -> list[str]:
    """As `ls` would say them, in its order; the starter is always one."""
    try:
        roots = {(source.name, str(source.folder)) for source in sources()}
        rows = _rows(places.home() / "registry.sqlite")
    except (OSError, sqlite3.Error, ValueError, MlxoneError):  # a broken config file is told elsewhere
        return [STARTER]
    found = {repo for source, root, repo in rows if (source, root) in roots}
    return sorted({*found, STARTER}, key=str.lower)


def _rows(path: Path) -> list[tuple[str, str, str]]:
    # Not `mode=ro`: a reader without the right to write cannot read what a killed writer left in the WAL.
    with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=rw", timeout=PATIENCE, uri=True)) as db:
        if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            return []
        return db.execute("SELECT DISTINCT source, root, repo FROM models").fetchall()
