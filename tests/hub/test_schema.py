"""The database is a cache: whatever happens to it, the answers are right, and a notice says so."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxone.hub import places
from mlxone.hub.entry import Entry
from mlxone.hub.registry import Registry
from tests.hub.shelves import afresh, model, names, repo, settle, without_times


@pytest.fixture
def file() -> Path:
    return places.home() / "registry.sqlite"


@pytest.fixture
def truth(home: Path, tmp_path: Path) -> list[Entry]:
    """What is on the disk, which the database of this test knows, too."""
    for i in range(6):
        repo(f"org/m-{i}", parameters=1000 + i)
    repo("org/m-1", "d" * 40)
    model(home / ".lmstudio" / "models" / "pub" / "name", files={"README.md": "---\nlicense: mit\n---\n"})
    settle(home)
    Registry().scan()
    return afresh(tmp_path)


def listed(registry: Registry) -> list[Entry]:
    return without_times(registry.list(all_revisions=True))


def test_everything_comes_back_as_it_was(truth: list[Entry]):
    assert listed(Registry()) == truth
    assert Registry().scan().read == 0


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"SQLite format 3\0" + b"x" * 5000, b"hello"])
def test_another_file_in_its_place(truth: list[Entry], file: Path, content: bytes):
    file.write_bytes(content)
    registry = Registry()
    assert listed(registry) == truth
    assert len(registry.notices) == (1 if content else 0)
    if content:
        assert f"{file} was damaged and is made anew" in registry.notices[0]
    again = Registry()
    assert again.scan().read == 0
    assert again.notices == []


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_overwritten(truth: list[Entry], file: Path, data: st.DataObject):
    whole = file.read_bytes()
    try:
        damaged = bytearray(whole)
        for _ in range(data.draw(st.integers(1, 6))):
            at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 100))
            piece = data.draw(st.binary(min_size=1, max_size=40))
            damaged[at : at + len(piece)] = piece
        file.write_bytes(damaged)
        for _ in range(2):  # damage to what only writing looks at is found by the run after
            assert listed(Registry()) == truth
        settled = Registry()
        assert listed(settled) == truth
        assert settled.notices == []
    finally:
        for beside in file.parent.glob("registry.sqlite-*"):
            beside.unlink()
        file.write_bytes(whole)


@given(share=st.floats(0, 1))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_off_anywhere(truth: list[Entry], file: Path, share: float):
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[: int(share * len(whole))])
        assert listed(Registry()) == truth
        assert listed(Registry()) == truth
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize(
    "change",
    [
        "PRAGMA user_version=99",
        "UPDATE meta SET value='0.0.1'",
        "DELETE FROM meta",
        "DROP TABLE models",
        "ALTER TABLE models ADD COLUMN more TEXT",
        "ALTER TABLE models DROP COLUMN license",
        "CREATE TABLE other (a)",
        "CREATE VIEW meta2 AS SELECT 1",
    ],
)
def test_other_tables_are_dropped_and_filled_anew(truth: list[Entry], file: Path, change: str):
    with sqlite3.connect(file) as db:
        db.execute(change)
    db.close()
    registry = Registry()
    assert listed(registry) == truth
    assert registry.notices == []
    assert Registry().scan().read == 0


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE models SET repo='org/another' WHERE repo='org/m-2'",
        "UPDATE models SET facts='{}' WHERE repo='org/m-2'",
        "UPDATE models SET drafter=1",
        "DELETE FROM models WHERE repo='org/m-2'",
        "DELETE FROM places WHERE folder LIKE '%m-2'",
        "UPDATE places SET children=''",
        "UPDATE places SET checksum=checksum+1 WHERE folder LIKE '%m-2'",
    ],
)
def test_what_does_not_add_up_is_not_believed(truth: list[Entry], file: Path, change: str):
    with sqlite3.connect(file) as db:
        assert db.execute(change).rowcount > 0
    db.close()
    registry = Registry()
    assert listed(registry) == truth
    assert ["does not add up" in n or "of no folder" in n for n in registry.notices] == [True]


# Places that cannot be written.


def test_a_home_that_is_a_file(truth: list[Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXONE_HOME", str(tmp_path / "file"))
    registry = Registry()
    assert listed(registry) == truth
    assert listed(registry) == truth
    assert len(registry.notices) == 1
    assert "registry.sqlite cannot be used" in registry.notices[0]
    assert registry.scan().read == 0  # remembered for as long as it runs


def test_a_registry_that_is_a_folder(truth: list[Entry], file: Path):
    file.unlink()
    file.mkdir()
    registry = Registry()
    assert listed(registry) == truth
    assert len(registry.notices) == 1


class Refusing(sqlite3.Connection):
    """Fails at statements that begin so, with SQLite's own code for it."""

    begins, code = "", 0

    def execute(self, sql: str, *args):
        if self.begins and sql.startswith(self.begins):
            error = sqlite3.OperationalError("refused")
            error.sqlite_errorcode = self.code
            raise error
        return super().execute(sql, *args)


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch):
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: real(*a, **k, factory=Refusing))

    def begin(begins: str, code: int) -> None:
        monkeypatch.setattr(Refusing, "begins", begins)
        monkeypatch.setattr(Refusing, "code", code)

    return begin


@pytest.mark.parametrize(
    ("begins", "code"),
    [
        ("INSERT INTO models", sqlite3.SQLITE_FULL),
        ("BEGIN IMMEDIATE", sqlite3.SQLITE_BUSY),
        ("COMMIT", sqlite3.SQLITE_IOERR_WRITE),
        ("SELECT folder", sqlite3.SQLITE_CANTOPEN),
        ("INSERT INTO places", sqlite3.SQLITE_IOERR_SHMMAP),
    ],
)
def test_a_disk_that_refuses(truth: list[Entry], refuse, home: Path, tmp_path: Path, begins: str, code: int):
    repo("org/new")
    expected = afresh(tmp_path)
    refuse(begins, code)
    registry = Registry()
    assert listed(registry) == listed(registry) == expected
    assert len(registry.notices) == 1
    refuse("", 0)
    assert listed(Registry()) == expected


def test_a_read_only_disk(truth: list[Entry], refuse, file: Path, monkeypatch: pytest.MonkeyPatch):
    """The same complaint comes from a damaged header, where the file may well be written."""
    refuse("BEGIN", sqlite3.SQLITE_READONLY)
    registry = Registry()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert listed(registry) == truth
    assert "cannot be used" in registry.notices[0]
    assert file.exists()


def test_a_disk_without_write_ahead(truth: list[Entry], refuse, file: Path):
    """As network disks are: the file is used without it."""
    file.unlink()
    refuse("PRAGMA journal_mode=WAL", sqlite3.SQLITE_PROTOCOL)
    registry = Registry()
    assert listed(registry) == truth
    assert registry.notices == []
    assert Registry().scan().read == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_home(truth: list[Entry], file: Path):
    file.chmod(0o400)
    file.parent.chmod(0o500)
    try:
        assert listed(Registry()) == truth
    finally:
        file.parent.chmod(0o700)


def test_odd_values_are_kept(home: Path):
    repo("org/half-character", model_type="\ud800", mode="\udfff")
    model(home / ".lmstudio" / "models" / "日本" / "모델 🦙 it's 100%")
    settle(home)
    registry = Registry()
    assert names(registry.list()) == ["org/half-character", "日本/모델 🦙 it's 100%"]
    assert registry.notices == []
    assert Registry().scan().read == 0
