"""The home's contents, whoever runs this (root may read everything: `access` is played)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxone.hub import own_state, runtimes
from mlxone.service.checkup import state
from tests.service.checkup.test_folders import everybody


def fill(home: Path) -> None:
    for name in ("running", "starter", "runtime"):
        (home / name).mkdir()
    for name in ("registry.sqlite", "learned.sqlite", "history", "somebody's.txt"):
        (home / name).touch()


def test_all_is_well(tmp_path: Path):
    found = state.home(tmp_path, "fix it", everybody)
    assert (found.status, found.message) == ("ok", str(tmp_path))
    fill(tmp_path)
    assert state.home(tmp_path, "fix it", everybody) == found
    assert state.home(tmp_path / "new", "fix it").status == "ok"


@pytest.mark.parametrize("name", state.NEEDED)
def test_an_entry_of_somebody_else(tmp_path: Path, name: str):
    fill(tmp_path)

    def access(place: Path, how: int) -> bool:
        return place.name != name or not how & os.R_OK

    found = state.home(tmp_path, "fix it", access)
    assert (found.status, found.message) == ("warn", f"{name} in {tmp_path} cannot be used by this user")
    assert "chown" in found.fix


def test_several(tmp_path: Path):
    fill(tmp_path)
    (tmp_path / "runtime").rmdir()  # what is not there is no trouble
    found = state.home(tmp_path, "fix it", lambda place, how: place == tmp_path)
    listed = "registry.sqlite, learned.sqlite, history, running, starter"
    assert found.message == f"{listed} in {tmp_path} cannot be used by this user"


def test_what_is_only_read_need_not_be_written(tmp_path: Path):
    fill(tmp_path)

    def access(place: Path, how: int) -> bool:
        return place.name not in ("starter", "runtime") or not how & os.W_OK

    assert state.home(tmp_path, "fix it", access).status == "ok"


def test_a_home_that_is_none_is_not_looked_into(tmp_path: Path):
    (tmp_path / "file").touch()
    assert state.home(tmp_path / "file", "fix it").status == "fail"


def test_these_are_the_names_of_what_is_ours():
    folders = {own_state.STARTER, own_state.RUNNING, runtimes.FOLDER}
    for name in set(state.NEEDED) - folders:
        assert own_state.TABLES.fullmatch(name) or own_state.HISTORY.fullmatch(name)
    assert folders < set(state.NEEDED)


@pytest.mark.parametrize("content", [b"no database" * 100, b"SQLite format 3\0" + b"x" * 500])
def test_a_damaged_database(tmp_path: Path, content: bytes):
    path = tmp_path / "learned.sqlite"
    assert state.damaged(path) == ""
    path.touch()
    assert state.damaged(path) == ""
    path.write_bytes(content)
    assert state.damaged(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["learned.sqlite"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_the_system_itself_says_no(tmp_path: Path):
    fill(tmp_path)
    (tmp_path / "history").chmod(0)
    assert "history in" in state.home(tmp_path, "fix it").message
    tmp_path.chmod(0o300)
    found = state.home(tmp_path, "fix it")
    tmp_path.chmod(0o700)
    assert (found.status, found.message) == ("fail", f"{tmp_path} cannot be read")
