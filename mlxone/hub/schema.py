"""The registry's database: what scans found, kept from one run to the next.

A derived cache, so nothing in it is worth a repair. Another version of the program or of the tables,
a damaged file, a row that does not add up: all is dropped and found again on the disk. A place
carries a checksum over itself and its models, as SQLite notices damaged pages but not changed text.
"""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from mlxone import __version__
from mlxone.core.facts import ModelFacts
from mlxone.hub.entry import Entry
from mlxone.hub.sources import Source
from mlxone.hub.stamps import Place

SCHEMA = 4
PATIENCE = 5.0  # seconds to wait for another process's writing
LINE = "\n"  # between names, none of which holds one: see `contents.list_tree`

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE places (
    source TEXT, root TEXT, folder TEXT, stamp TEXT, watches TEXT, children TEXT, checksum INTEGER,
    PRIMARY KEY (source, root, folder)) WITHOUT ROWID;
CREATE TABLE models (
    source TEXT, root TEXT, folder TEXT, path TEXT,
    repo TEXT, format TEXT, size INTEGER, revision TEXT, canonical INTEGER, drafter INTEGER,
    capabilities TEXT, license TEXT, problem TEXT, support TEXT, facts TEXT, scanned_at REAL, part TEXT,
    type TEXT, parameters INTEGER, layers INTEGER, hidden INTEGER, vocab INTEGER, context INTEGER,
    language_bytes INTEGER, sidecar_bytes INTEGER, expert_bytes INTEGER,
    bits REAL, "group" INTEGER, mode TEXT,
    PRIMARY KEY (source, root, folder, path)) WITHOUT ROWID;
"""
# What an entry is made of. The columns behind these say some of the facts again, for whoever asks in SQL.
KEPT = "path, repo, format, size, revision, canonical, drafter, capabilities, license, problem, support, \
facts, scanned_at, part"

Row = tuple[Any, ...]
Places = dict[str, Place]


class Damaged(Exception):
    """The file is no database of ours, or not any more: it has to be replaced."""


class Unusable(Exception):
    """The place for the database cannot be read or written now."""


class Database:
    """Every call opens the file anew: threads, forks and a replaced file need no care then."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, source: Source) -> Places:
        key = (source.name, str(source.folder))
        with self._open() as db:
            db.execute("BEGIN")  # both tables as of one moment
            places = db.execute(
                "SELECT folder, stamp, watches, children, checksum FROM places WHERE source=? AND root=?", key
            ).fetchall()
            models = db.execute(
                f"SELECT folder, {KEPT} FROM models WHERE source=? AND root=? ORDER BY folder, path", key
            ).fetchall()
            db.execute("COMMIT")
        try:
            return _places(source, places, models)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise Damaged(f"a row of it cannot be read: {error}") from error

    def save(self, source: Source, changed: Collection[Place], gone: Collection[str] = ()) -> None:
        root = (source.name, str(source.folder))
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            dropped = [(*root, folder) for folder in (*gone, *(place.path for place in changed))]
            for table in ("places", "models"):
                db.executemany(f"DELETE FROM {table} WHERE source=? AND root=? AND folder=?", dropped)
            for place in changed:
                rows = sorted(_row(entry) for entry in place.entries)
                _insert(db, "places", (*root, *_place_row(place), _checksum(_place_row(place), rows)))
                by_path = {str(entry.path): entry for entry in place.entries}
                for row in rows:
                    _insert(db, "models", (*root, place.path, *row, *_said_again(by_path[row[0]].facts)))
            db.execute("COMMIT")

    def forget(self, is_gone: Callable[[str], bool]) -> None:
        """Drops sources whose folder is not there any more."""
        with self._open() as db:
            roots = db.execute("SELECT DISTINCT source, root FROM places").fetchall()
            for root in [root for root in roots if is_gone(root[1])]:
                for table in ("places", "models"):
                    db.execute(f"DELETE FROM {table} WHERE source=? AND root=?", root)

    def replace(self) -> None:
        """Removes the file and what belongs to it; the next call makes a new one."""
        try:
            for end in ("", "-wal", "-shm", "-journal"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
        except OSError as error:
            raise Unusable(error.strerror or str(error)) from error

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        except (OSError, sqlite3.Error, ValueError) as error:
            raise Unusable(str(error)) from error
        try:
            _prepare(db)
            yield db
        except sqlite3.Error as error:
            raise (Damaged if self._is_damage(error) else Unusable)(str(error)) from error
        except UnicodeDecodeError as error:  # of SQLite's own message about a damaged name
            raise Damaged(str(error)) from error
        except (OverflowError, UnicodeEncodeError) as error:  # of a value that SQLite has no type for
            raise Unusable(str(error)) from error
        finally:
            with suppress(sqlite3.Error):
                db.close()

    def _is_damage(self, error: sqlite3.Error) -> bool:
        code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF == sqlite3.SQLITE_READONLY:  # says the system, or says a damaged header
            return all(os.access(place, os.W_OK) for place in (self.path, self.path.parent))
        return code == _SHORT_READ or code & 0xFF not in _OF_THE_SYSTEM


def _prepare(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.OperationalError):  # some network disks cannot have it; all works without
        db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    if not _is_current(db):
        db.execute("BEGIN IMMEDIATE")
        if not _is_current(db):  # another process may have been first
            _rebuild(db)
        db.execute("COMMIT")


def _is_current(db: sqlite3.Connection) -> bool:
    if db.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
        return False
    if _tables(db) != _TABLES_AS_MADE:
        return False
    version: Row | None = db.execute("SELECT value FROM meta WHERE key='version'").fetchone()
    return version == (__version__,)  # what a model can do, and whether it runs here, changes with it


def _rebuild(db: sqlite3.Connection) -> None:
    for kind, name in db.execute(
        "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND type IN ('table', 'view')"
    ).fetchall():
        quoted = name.replace('"', '""')
        db.execute(f'DROP {kind} IF EXISTS "{quoted}"')
    for statement in TABLES.split(";")[:-1]:
        db.execute(statement)
    db.execute("INSERT INTO meta VALUES ('version', ?)", (__version__,))
    db.execute(f"PRAGMA user_version={SCHEMA}")


def _tables(db: sqlite3.Connection) -> list[Row]:
    return db.execute("SELECT name, sql FROM sqlite_master WHERE type='table' ORDER BY name").fetchall()


def _made() -> list[Row]:
    with sqlite3.connect(":memory:") as db:
        db.executescript(TABLES)
        found = _tables(db)
    db.close()
    return found


_TABLES_AS_MADE = _made()
# Everything else that SQLite reports means that the file cannot be trusted.
_OF_THE_SYSTEM = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOLFS,
        sqlite3.SQLITE_AUTH,
    }
)
_SHORT_READ = 522  # an I/O error, yet what it means is a file that was cut off


def _insert(db: sqlite3.Connection, table: str, row: Row) -> None:
    db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)


def _place_row(place: Place) -> Row:
    return place.path, place.stamp, LINE.join(place.watches), LINE.join(place.children)


def _row(entry: Entry) -> Row:
    """In the order of KEPT."""
    return (
        str(entry.path),
        entry.repo,
        entry.format,
        entry.size_bytes,
        entry.revision,
        int(entry.canonical),
        int(entry.drafter),
        " ".join(sorted(entry.capabilities)),
        entry.license,
        entry.problem,
        entry.support,
        None if entry.facts is None else json.dumps(entry.facts.to_json(), separators=(",", ":")),
        entry.scanned_at,
        entry.part,
    )


def _said_again(facts: ModelFacts | None) -> Row:
    if facts is None:
        return (None,) * 12
    return (
        _plain(facts.model_type),
        facts.parameters,
        facts.layer_count,
        facts.hidden_size,
        facts.vocab_size,
        facts.context_length,
        facts.language_bytes,
        facts.sidecar_bytes,
        facts.expert_bytes,
        facts.bits,
        facts.group_size,
        _plain(facts.mode),
    )


def _plain(text: str | None) -> str | None:
    """A config may hold half characters, which no database takes."""
    return None if text is None else text.encode(errors="replace").decode()


def _checksum(place: Row, rows: Sequence[Row]) -> int:
    texts = [*map(str, place)]
    for row in rows:
        texts += map(str, row)
    return zlib.crc32("\0".join(texts).encode())


def _places(source: Source, places: Sequence[Row], models: Sequence[Row]) -> Places:
    by_folder = {folder: [row[1:] for row in rows] for folder, rows in groupby(models, lambda row: row[0])}
    found: Places = {}
    known = _Known()
    for folder, stamp, watches, children, checksum in places:
        rows = by_folder.pop(folder, [])
        if folder in found or _checksum((folder, stamp, watches, children), rows) != checksum:
            raise Damaged(f"what it says of {folder} does not add up")
        entries = tuple(_entry(source, row, known) for row in rows)
        below = tuple(children.split(LINE)) if children else ()
        found[folder] = Place(folder, stamp, tuple(watches.split(LINE)), below, entries)
    if by_folder:
        raise Damaged("it has models of no folder")
    return found


class _Known:
    """Many models are tuned from the same few and share their facts, so each text is read once."""

    def __init__(self) -> None:
        self._facts: dict[str | None, ModelFacts | None] = {None: None}
        self._sets: dict[str, frozenset[str]] = {}

    def facts(self, text: str | None) -> ModelFacts | None:
        if text not in self._facts:
            self._facts[text] = ModelFacts.from_json(json.loads(text or ""))
        return self._facts[text]

    def words(self, text: str) -> frozenset[str]:
        if text not in self._sets:
            self._sets[text] = frozenset(text.split())
        return self._sets[text]


def _entry(source: Source, row: Row, known: _Known) -> Entry:
    path, repo, format, size, revision, canonical, drafter, capabilities, *rest = row
    license, problem, support, facts, scanned_at, part = rest
    return Entry(
        repo,
        Path(path),
        source.name,
        format,
        size,
        revision,
        bool(canonical),
        bool(drafter),
        known.words(capabilities),
        license,
        problem,
        support,
        known.facts(facts),
        scanned_at,
        part,
    )
