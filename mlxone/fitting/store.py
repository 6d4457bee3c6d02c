"""What was learned on this machine: device facts, and predictions beside what was measured.

A cache in SQLite and never a reason to fail: a damaged file is moved aside, and where no file can be
written, or another process holds it for too long, this store works in memory alone. Both go to the log.
Several processes may use one file, and several threads one store.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

log = logging.getLogger(__name__)

Kind = Literal["transient", "decode_tps", "prefill_tps"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KEPT = 200  # measurements of each kind
BUSY_SECONDS = 5.0
SCHEMA_VERSION = 1
SCHEMA = (
    "CREATE TABLE learned (key TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL)",
    "CREATE TABLE measured (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, machine TEXT NOT NULL,"
    " model TEXT NOT NULL, predicted REAL NOT NULL, measured REAL NOT NULL, at REAL NOT NULL)",
    "CREATE INDEX measured_by_kind ON measured (kind, machine)",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
# No database, a torn one, or tables that are not ours. All else (busy, full, read-only) is the place's fault.
DAMAGE = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One comparison. `transient` is in bytes beyond weights and KV, the two speeds in tokens a second."""

    kind: Kind
    machine: str  # Machine.key
    model: str
    predicted: float
    measured: float


class Store:
    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.time, busy_seconds: float = BUSY_SECONDS
    ) -> None:
        self.path, self._clock, self._busy_seconds = path, clock, busy_seconds
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None  # opened at the first use

    def get(self, key: str, *, max_age: float | None = None) -> Any | None:
        """The value, or None: never put, not readable, or put more than max_age seconds ago."""
        query = "SELECT value, at FROM learned WHERE key = ?"
        found = self._do(lambda db: db.execute(query, (key,)).fetchone())
        # A clock that was set back makes an age negative: no telling how old that value is.
        if found is None or (max_age is not None and not 0 <= self._clock() - found[1] <= max_age):
            return None
        try:
            return json.loads(found[0])
        except (TypeError, ValueError):
            return None

    def put(self, key: str, value: Any) -> None:
        row = (key, json.dumps(value), self._clock())
        self._do(lambda db: db.execute("INSERT OR REPLACE INTO learned VALUES (?, ?, ?)", row))

    def add_measurement(self, new: Measurement) -> None:
        """Notes a comparison; one without a number (a speed over no time at all) teaches nothing."""
        if new.kind not in KINDS:
            raise ValueError(f"no such kind of measurement: {new.kind}")
        if math.isfinite(new.predicted) and math.isfinite(new.measured):
            row = (new.kind, new.machine, new.model, new.predicted, new.measured, self._clock())
            self._do(lambda db: _add(db, row))

    def measurements(self, machine: str, kind: Kind) -> list[Measurement]:
        """What was measured on this machine, the oldest first."""
        query = (
            "SELECT kind, machine, model, predicted, measured FROM measured"
            " WHERE machine = ? AND kind = ? ORDER BY id"
        )
        rows = self._do(lambda db: db.execute(query, (machine, kind)).fetchall())
        return [Measurement(*row) for row in rows]

    def forget(self, machine: str) -> None:
        """Drops what was measured on this machine."""
        self._do(lambda db: db.execute("DELETE FROM measured WHERE machine = ?", (machine,)))

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Does the work on the file, or on a fresh one if that is damaged, or at last in memory."""
        with self._lock:
            try:
                return self._try(work)
            except (sqlite3.Error, OSError) as error:
                log.info("%s: %s", self.path, error)
                damaged = isinstance(error, sqlite3.Error) and _is_damage(error)
            if damaged:
                try:
                    return self._try(work)  # opening it moves a damaged file aside
                except (sqlite3.Error, OSError) as error:
                    log.info("%s: %s", self.path, error)
            log.info("%s cannot be used: what is learned now is forgotten at the end", self.path)
            self._db = _in_memory()
            return work(self._db)

    def _try(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._db = self._db or _opened(self.path, self._busy_seconds)
            return work(self._db)
        except (sqlite3.Error, OSError):
            self._drop()
            raise

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _add(db: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    with _transaction(db):
        columns = "kind, machine, model, predicted, measured, at"
        db.execute(f"INSERT INTO measured ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
        newest = "SELECT id FROM measured WHERE kind = ? ORDER BY id DESC LIMIT ?"
        db.execute(f"DELETE FROM measured WHERE kind = ? AND id NOT IN ({newest})", (row[0], row[0], KEPT))


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _is_damage(error: sqlite3.Error) -> bool:
    # The low byte: SQLite's own code; what is above says more about it. Ours have none.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in DAMAGE


# Opening. One process at a time: of two that find a damaged file, the second must not move aside what
# the first has just made, and SQLite does not wait when two switch a new file to its write-ahead log.


def _opened(path: Path, busy_seconds: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_opener(path, busy_seconds):
        try:
            return _sound(path, busy_seconds)
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            log.info("%s is damaged (%s) and moved aside", path, error)
        _move_aside(path)
        return _sound(path, busy_seconds)


@contextmanager
def _sole_opener(path: Path, busy_seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + busy_seconds
    with path.with_name(path.name + ".lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.01)
        yield  # closing the file gives the lock back


def _sound(path: Path, busy_seconds: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        [version] = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _create(db)
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"schema version {version}, not {SCHEMA_VERSION}")
        for table in ("learned", "measured"):
            db.execute(f"SELECT 1 FROM {table} LIMIT 1")
        if db.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("quick_check failed")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last rows, never the file
    except BaseException:
        db.close()
        raise
    return db


def _create(db: sqlite3.Connection) -> None:
    with _transaction(db):
        for statement in SCHEMA:
            db.execute(statement)


def _in_memory() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    _create(db)
    return db


def _move_aside(path: Path) -> None:
    os.replace(path, path.with_name(path.name + ".damaged"))
    for rest in ("-wal", "-shm"):  # of the old file; a new one must not find them
        path.with_name(path.name + rest).unlink(missing_ok=True)
