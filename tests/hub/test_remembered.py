"""Names for completion: as `ls` says them, from the database alone, and nothing is changed by asking."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mlxone.hub import places, remembered
from mlxone.hub.entry import Entry
from mlxone.hub.registry import Registry
from mlxone.hub.schema import SCHEMA
from tests.hub.shelves import repo


def database() -> Path:
    return places.home() / "registry.sqlite"


def test_no_database_is_the_starter_and_makes_none():
    assert remembered.names() == ["starter"]
    assert not places.home().exists()
    places.home().mkdir()
    assert remembered.names() == ["starter"]
    assert list(places.home().iterdir()) == []


def test_an_empty_one_is_the_starter():
    Registry().scan()
    assert remembered.names() == ["starter"]


def listed() -> list[Entry]:
    return Registry().list()


def test_the_names_are_those_of_the_list():
    for name in ("org/B", "org/a", "Zed/model"):
        repo(name)
    assert [entry.name for entry in listed()] == ["org/a", "org/B", "Zed/model"]
    assert remembered.names() == ["org/a", "org/B", "starter", "Zed/model"]


def test_an_older_snapshot_is_no_name_of_its_own():
    repo("org/m", commit="c" * 40)
    repo("org/m", commit="d" * 40)
    Registry().scan()
    assert remembered.names() == ["org/m", "starter"]


def test_one_without_a_branch_is_named_as_it_is_listed():
    repo("org/m", main=False)
    [entry] = listed()
    assert remembered.names() == [entry.name, "starter"]


def test_a_source_that_is_not_looked_at_any_more_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    repo("org/m")
    Registry().scan()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert remembered.names() == ["starter"]


def test_nothing_is_scanned(monkeypatch: pytest.MonkeyPatch):
    repo("org/m")
    Registry().scan()
    repo("org/new")
    assert remembered.names() == ["org/m", "starter"]


@pytest.mark.parametrize("content", [b"", b"no database", b"SQLite format 3\0" + b"x" * 500])
def test_a_damaged_one_is_the_starter_and_left_as_it_is(content: bytes):
    places.home().mkdir()
    database().write_bytes(content)
    assert remembered.names() == ["starter"]
    assert database().read_bytes() == content


def test_another_versions_is_left_as_it_is():
    repo("org/m")
    Registry().scan()
    with sqlite3.connect(database()) as db:
        db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    assert remembered.names() == ["starter"]
    with sqlite3.connect(database()) as db:
        assert db.execute("SELECT count(*) FROM models").fetchone() == (1,)
    db.close()


def test_another_process_that_writes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    repo("org/m")
    Registry().scan()
    waits: list[float] = []

    def connect(path: str, **how: Any) -> sqlite3.Connection:
        waits.append(how["timeout"])
        return sqlite3.Connection(path, **how)

    monkeypatch.setattr("mlxone.hub.remembered.sqlite3.connect", connect)
    writer = sqlite3.Connection(database(), isolation_level=None)
    try:
        writer.execute("PRAGMA locking_mode=EXCLUSIVE")
        writer.execute("BEGIN EXCLUSIVE")
        assert "starter" in remembered.names()
    finally:
        writer.close()
    assert len(waits) == 1 and waits[0] <= 0.2  # seconds that somebody sits before a prompt


def test_a_config_file_that_is_broken_is_told_elsewhere():
    repo("org/m")
    Registry().scan()
    places.config_file().parent.mkdir(parents=True)
    places.config_file().write_text("model_dirs = 3")
    assert remembered.names() == ["starter"]
